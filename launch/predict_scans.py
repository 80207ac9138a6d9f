"""Segment whole scans: the part of `launch.predict` that takes NIfTI and DICOM.

For each scan the output folder gets NAME.nii.gz, the class of each voxel on the scan's own grid
(0 background, 1 and 2 lesion classes), and NAME.png, a picture of slices spread over the lungs;
volumes.csv sums the scans up, in mL. Slices below and above the lungs are not looked at, and a
scan without lungs gets an empty mask and a line that says so. What the network calls lesion and
touches no lung (gas in the stomach, say) is set to background, and its volume told.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from scipy import ndimage

from input_pipeline.loader import eval_batches
from input_pipeline.preprocess import Preprocessing, from_grid
from input_pipeline.scan_slices import ScanSlices, find_lung_sides, read_hu, read_lung_sides
from input_pipeline.scans import Scan
from launch import setup
from launch.evaluate import picture
from launch.pictures import SlicePicture, contact_sheet
from launch.writer import filling, is_filled, progress, write_nifti_mask, write_table
from ssa_jax.evaluate import predict_slices
from ssa_jax.inference import Predict, make_predict

TABLE = "volumes.csv"
DECIMALS = 6  # of volumes in mL
MONTAGE_ROWS = 12


class Network(NamedTuple):
    """A trained network, ready to predict, and the configuration it was trained with."""

    config: ConfigDict
    preprocessing: Preprocessing
    predict: Predict


class Reading(NamedTuple):
    """What the user says of the inputs; see `scan_slices.read_hu`."""

    intensity: str | None
    series: str | None
    axes: str | None
    lung_dir: Path | None


def predict_scans(
    workdir: Path,
    scans: Mapping[str, Path],
    out: Path,
    reading: Reading,
    *,
    which: str,
    pictures: bool,
    quiet: bool,
) -> None:
    """Segment scans with the network of a workdir; fill `out`, all or nothing.

    Args:
      workdir: folder of a trained network.
      scans: file names of the masks to write, ending in .nii.gz, and the scans they belong to.
      out: folder to write, new or empty.
      reading: what is known of the inputs.
      which: checkpoint, 'best' or 'last'.
      pictures: draw a montage of each scan.
      quiet: show no progress.

    Raises:
      ValueError: a scan that cannot be used, or a network that needs other inputs.
      FileNotFoundError: a lung mask is missing.
      FileExistsError: `out` holds something.
      OSError: a file cannot be read, or the disk refuses.
    """
    config = setup.load_config(workdir)
    preprocessing = setup.preprocessing(config)
    _check_lungs(workdir, preprocessing, reading.lung_dir, scans)
    if is_filled(out):
        raise FileExistsError(f"{out}: is not empty; name a new folder as --out or clear it")
    variables, _ = setup.trained_variables(config, workdir, which)
    predict = make_predict(setup.build_model(config), flip=config.eval.flip)(variables)
    network = Network(config, preprocessing, predict)
    names = setup.class_names(config)
    rows = []
    with filling(out) as folder:
        for name, path in scans.items():
            scan = read_hu(
                path, intensity=reading.intensity, series=reading.series, axes=reading.axes
            )
            for note in scan.notes:
                print(f"{path}: {note}", file=sys.stderr)
            sides = _sides(scan, reading.lung_dir, name)
            labels, drawn = _segment(network, scan, sides, pictures=pictures, quiet=quiet)
            dropped = drop_outside(labels, sides)
            row = {"file": str(path)} | volumes(labels, sides, scan.spacing, names)
            row["dropped_ml"] = round(dropped * _millilitres(scan.spacing), DECIMALS)
            print(f"{path}: {_in_words(row, names)}")
            write_nifti_mask(folder / name, labels, scan)
            if drawn:
                montage = folder / f"{name.removesuffix('.nii.gz')}.png"
                contact_sheet(montage, drawn, class_names=names)
            rows.append(row)
        write_table(folder / TABLE, rows)


def volumes(
    labels: np.ndarray,
    sides: np.ndarray,
    spacing: tuple[float, float, float] | None,
    names: Sequence[str],
) -> dict[str, Any]:
    """How much of a scan, and of each lung, each class takes.

    Args:
      labels: `[slices, rows, columns]` uint8 class index.
      sides: same shape, 0 outside the lungs, 1 the right lung, 2 the left.
      spacing: mm between (slices, rows, columns).
      names: of the classes 1, 2, ...

    Returns:
      Volumes in mL; of a class in all, in each lung and outside both. A class's share of a lung
      counts what lies inside it and is None where that lung is absent.
    """
    voxel = _millilitres(spacing)
    counts = np.zeros((3, len(names) + 1))
    for side, chosen in zip(sides, labels, strict=True):
        pairs = side.astype(np.intp) * (len(names) + 1) + chosen
        counts += np.bincount(pairs.ravel(), minlength=counts.size).reshape(counts.shape)
    lungs = counts.sum(axis=1)
    row: dict[str, Any] = {
        "lung_ml": (lungs[1] + lungs[2]) * voxel,
        "right_lung_ml": lungs[1] * voxel,
        "left_lung_ml": lungs[2] * voxel,
    }
    for index, name in enumerate(names, start=1):
        outside, right, left = counts[:, index]
        row[f"{name}_ml"] = (outside + right + left) * voxel
        row[f"{name}_right_ml"] = right * voxel
        row[f"{name}_left_ml"] = left * voxel
        row[f"{name}_outside_ml"] = outside * voxel
        row[f"{name}_share_of_lung"] = _share(right + left, lungs[1] + lungs[2])
        row[f"{name}_share_of_right_lung"] = _share(right, lungs[1])
        row[f"{name}_share_of_left_lung"] = _share(left, lungs[2])
    return {k: round(value, DECIMALS) if k.endswith("_ml") else value for k, value in row.items()}


def drop_outside(labels: np.ndarray, sides: np.ndarray) -> int:
    """Set to background what hangs together with no lung: gas in the bowel, mostly.

    A consolidated lobe that the lung mask lost stays as long as it touches what is left.

    Args:
      labels: `[slices, rows, columns]` class index, changed in place.
      sides: same shape, above 0 inside the lungs.

    Returns:
      The number of voxels set to background.
    """
    parts, count = ndimage.label(labels > 0, structure=np.ones((3, 3, 3)))
    touching = np.zeros(count + 1, bool)
    for part, side in zip(parts, sides, strict=True):
        touching[part[side > 0]] = True
    touching[0] = True  # the background
    dropped = 0
    for part, chosen in zip(parts, labels, strict=True):
        outside = ~touching[part]
        dropped += int(outside.sum())
        chosen[outside] = 0
    return dropped


def _segment(
    network: Network, scan: Scan, sides: np.ndarray, *, pictures: bool, quiet: bool
) -> tuple[np.ndarray, list[SlicePicture]]:
    """Labels of every voxel, and rows of the montage."""
    labels = np.zeros(scan.voxels.shape, np.uint8)
    slices = ScanSlices(scan, sides, network.preprocessing)
    drawn: list[SlicePicture] = []
    if not len(slices):
        return labels, drawn
    wanted = set(np.linspace(0, len(slices) - 1, MONTAGE_ROWS).astype(int)) if pictures else set()
    batches = eval_batches(
        slices, slices.prepared_by, batch_size=min(network.config.eval.batch_size, len(slices))
    )
    predictions = predict_slices(network.predict, batches, from_grid)
    with progress(len(slices), quiet=quiet) as bar:
        for number, prediction in enumerate(predictions):
            labels[slices.places[number]][slices.window] = prediction.labels
            if number in wanted:
                title = f"{scan.id}, slice {slices.places[number] + 1} of {len(labels)}"
                drawn.append(picture(prediction, title, network.preprocessing.intensity))
            bar.update()
    return labels, drawn


def _sides(scan: Scan, lung_dir: Path | None, name: str) -> np.ndarray:
    """The lungs, from a file where the user has them."""
    if lung_dir is None:
        return find_lung_sides(scan)
    return read_lung_sides(lung_dir / name, scan)


def _check_lungs(
    workdir: Path, preprocessing: Preprocessing, lung_dir: Path | None, scans: Mapping[str, Path]
) -> None:
    """A network that was trained with given lung masks needs them; where given, for each scan."""
    if preprocessing.lung_mask == "file" and lung_dir is None:
        raise ValueError(
            f"{workdir}: this network needs a lung mask for each scan (data.lung_mask='file'); "
            "name the folder that holds them as --lung-dir. `python -m launch.lung_masks` makes "
            "them."
        )
    missing = [name for name in scans if lung_dir and not (lung_dir / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{lung_dir}: no {missing[0]}; expected a lung mask of that name for "
            f"{scans[missing[0]]} ({len(missing)} of {len(scans)} are missing). `python -m "
            "launch.lung_masks` makes them."
        )


def _millilitres(spacing: tuple[float, float, float] | None) -> float:
    """Volume of a voxel."""
    assert spacing is not None
    return float(np.prod(spacing)) / 1000


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _in_words(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """A line for the user."""
    if not row["lung_ml"]:
        return "no lung found; the mask is empty"
    parts = [f"lungs {row['lung_ml']:.0f} mL"]
    for name in names:  # lesion outside the lungs counts in mL only
        inside = f"fills {row[f'{name}_share_of_lung']:.1%} of the lungs"
        parts.append(f"{name} {row[f'{name}_ml']:.1f} mL ({inside})")
    if row["dropped_ml"]:
        parts.append(f"{row['dropped_ml']:.1f} mL that touched no lung dropped")
    return ", ".join(parts)
