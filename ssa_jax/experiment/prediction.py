"""Prediction of many scans or pictures: a mask and a picture of each, and a table, in a folder."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.files import atomic_directory, require_empty, write_bytes, write_table
from input_pipeline.inference_slices import PictureSlices, read_hu
from input_pipeline.io.find import output_names
from ssa_jax.experiment import factory, network, workdir
from ssa_jax.experiment.lesion_volumes import in_words, lesion_areas, missing_note
from ssa_jax.experiment.progress import progress
from ssa_jax.experiment.segmentation import (
    Reading,
    check_pictures,
    check_scans,
)
from ssa_jax.figures.drawing import png_bytes
from ssa_jax.figures.overlays import contact_sheet

SCANS_TABLE = "volumes.csv"
PICTURES_TABLE = "areas.csv"
MONTAGE_ROWS = 12


def predict_scans(
    folder: Path,
    scans: Mapping[str, Path],
    out: Path,
    reading: Reading,
    *,
    lung_dir: Path | None,
    which: str,
    pictures: bool,
    quiet: bool,
    echo: Callable[[str], Any] = print,
) -> None:
    """Segment scans with the network of a workdir; fill `out`, all or nothing.

    Args:
        folder: workdir of a trained network.
        scans: by the mask's file name, which ends in .nii.gz.
        out: folder to write, new or empty.
        reading: what the user states about the inputs.
        lung_dir: folder with the lung labels of each scan, named as the masks; None finds the lungs
            by intensity and shape.
        which: checkpoint, 'best' or 'last'.
        pictures: whether to draw a montage of each scan.
        quiet: show no progress.
        echo: prints a line about each scan.

    Raises:
        ValueError: a scan cannot be used, or the network needs other inputs.
        FileNotFoundError: a lung mask is missing.
        FileExistsError: `out` is not empty.
        OSError: a file cannot be read or written.
    """
    settings = workdir.load_settings(folder)
    check_scans(factory.preprocessing(settings), lung_dir is not None, str(folder))
    _check_lung_files(lung_dir, scans)
    require_empty(out, "--out")
    net = network.restore(settings, folder, which)
    rows = []
    with atomic_directory(out) as temporary:
        for name, path in scans.items():
            scan = read_hu(
                path, intensity=reading.intensity, series=reading.series, axes=reading.axes
            )
            for note in scan.notes:
                print(f"{path}: {note}", file=sys.stderr)
            result = net.segment_scan(
                scan,
                lung=None if lung_dir is None else lung_dir / name,
                keep_prob=False,
                montage=MONTAGE_ROWS if pictures else 0,
                quiet=quiet,
            )
            if result.lung is not None and (note := missing_note(result.lung, scan)):
                print(f"{path}: {note}", file=sys.stderr)
            row = {"file": str(path)} | result.volumes
            echo(f"{path}: {in_words(row, net.class_names)}")
            result.save(temporary / name)
            if result.pictures:
                sheet = contact_sheet(result.pictures, class_names=net.class_names)
                montage = temporary / f"{name.removesuffix('.nii.gz')}.png"
                write_bytes(montage, png_bytes(sheet))
            rows.append(row)
        write_table(temporary / SCANS_TABLE, rows)


def predict_pictures(
    folder: Path,
    paths: Sequence[Path],
    out: Path,
    *,
    lung_dir: Path | None,
    which: str,
    pictures: bool,
    quiet: bool,
) -> None:
    """Segment pictures with the network of a workdir; fill `out`, all or nothing.

    Args:
        folder: workdir of a trained network.
        paths: 8-bit grey PNG or JPEG files; all are read before the first is predicted.
        out: folder to write, new or empty.
        lung_dir: folder with a lung mask NAME.png for each picture; None where the network needs
            none.
        which: checkpoint, 'best' or 'last'.
        pictures: whether to draw an overlay of each.
        quiet: show no progress.

    Raises:
        ValueError: a picture cannot be used, or the network was not trained on such slices.
        FileExistsError: `out` is not empty.
        OSError: a file cannot be read or written.
    """
    settings = workdir.load_settings(folder)
    preprocessing = factory.preprocessing(settings)
    check_pictures(preprocessing, lung_dir is not None, str(folder))
    require_empty(out, "--out")
    lung_files = None if lung_dir is None else [lung_dir / f"{path.stem}.png" for path in paths]
    slices = PictureSlices(paths, preprocessing, lung_files)
    slices.check()
    net = network.restore(settings, folder, which)
    rows = []
    with (
        atomic_directory(out) as temporary,
        progress(len(slices), quiet=quiet) as bar,
    ):
        for prediction in net.predict(slices, prepared_by=slices.prepared_by):
            rows.append(lesion_areas(prediction, net.class_names))
            source = Path(prediction.slice.id)
            mask, overlay = output_names(source)
            net.picture_segmentation(prediction).save(temporary / mask)
            if pictures:
                sheet = contact_sheet(
                    [net.picture(prediction, source.name)], class_names=net.class_names
                )
                write_bytes(temporary / overlay, png_bytes(sheet))
            bar.update()
        write_table(temporary / PICTURES_TABLE, rows)


def _check_lung_files(lung_dir: Path | None, scans: Mapping[str, Path]) -> None:
    """Check that no lung mask is missing, before the first scan is read."""
    missing = [name for name in scans if lung_dir and not (lung_dir / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{lung_dir}: no {missing[0]}, expected a lung mask of that name for "
            f"{scans[missing[0]]} ({len(missing)} of {len(scans)} are missing); "
            "`ssa-jax lung_masks` makes them"
        )
