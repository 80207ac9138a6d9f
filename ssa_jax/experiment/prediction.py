"""Prediction of many scans or pictures: a mask and a picture of each, and a table, in a folder."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.files import write_bytes
from input_pipeline.inference_slices import PictureSlices
from input_pipeline.io.find import output_names
from input_pipeline.io.scan import Scan
from ssa_jax.evaluation.scoring import SlicePrediction
from ssa_jax.experiment import network
from ssa_jax.experiment.batch import INPUT_ERRORS, Batch, Finished, RunOptions, print_notes
from ssa_jax.experiment.lesion_volumes import in_words, lesion_areas, rounded
from ssa_jax.experiment.lung_masks import LungSource, lung_source
from ssa_jax.experiment.network import Network
from ssa_jax.experiment.progress import progress
from ssa_jax.experiment.segmentation import Reading, Segmentation, check_pictures
from ssa_jax.figures.drawing import png_bytes
from ssa_jax.figures.overlays import contact_sheet

SCANS_TABLE, PICTURES_TABLE = "volumes", "areas"
RECORD = "prediction.json"  # the network and the lungs of the masks in a folder
MONTAGE_ROWS = 12


class Wanted(NamedTuple):
    """What a prediction is to use and write.

    Attributes:
        which: checkpoint, 'best' or 'last'.
        lungs: see `lung_source`; for pictures a folder of lung masks NAME.png; None finds the lungs
            as the network's training did.
        pictures: whether to draw each result.
        quiet: show no progress.
        run: see `RunOptions`.
        dtype: of the computation, see `network.load`.
    """

    which: str = "best"
    lungs: str | None = None
    pictures: bool = True
    quiet: bool = False
    run: RunOptions = RunOptions()
    dtype: str | None = None


def predict_scans(
    folders: Sequence[Path],
    scans: Mapping[str, Path],
    out: Path,
    reading: Reading,
    wanted: Wanted,
    *,
    echo: Callable[[str], Any] = print,
) -> None:
    """Segment scans, each result written when it is done.

    Args:
        folders: workdir of a trained network, or of each network of an ensemble.
        scans: by the mask's file name, which ends in .nii.gz.
        out: folder to write: new, empty, or of the same command, which goes on.
        reading: what the user states about the inputs.
        wanted: see `Wanted`.
        echo: prints a line about each scan.

    Raises:
        InputsFailed: some scans cannot be used; all others are done.
        ValueError: the network or the lungs cannot be used, or `out` is of another command.
        FileNotFoundError: no such workdir, checkpoint or folder of lungs.
        FileExistsError: `out` holds other files.
        OSError: a result cannot be written.
    """
    source = lung_source(wanted.lungs or "threshold")
    net = network.load(folders, wanted.which, wanted.dtype)
    about_lungs = net.lung_notes(source.origin)
    _introduce(net, str(source), about_lungs, echo)

    def segment(name: str, path: Path) -> Finished:
        scan = reading.read_hu(path)
        result = _segment(net, scan, name, source, wanted)
        print_notes(path, result.notes)
        row = {"file": str(path)} | rounded(result.volumes)
        row |= {"network": str(net.provenance), "notes": "; ".join([*about_lungs, *result.notes])}
        montage = (f"{name.removesuffix('.nii.gz')}.png",) if result.pictures else ()
        save = partial(_save_scan, result, out, name, montage, net.class_names)
        return Finished([row], (name, *montage), save, in_words(row, net.class_names))

    with wanted.run.only_run(out):
        batch = Batch(
            out,
            scans,
            record=_record(net, wanted, source.record),
            record_name=RECORD,
            table=SCANS_TABLE,
            options=wanted.run,
            also={name: source.folder / name for name in scans} if source.folder else None,
            stated=str(reading),
        )
        with batch.finish():
            batch.each(segment, echo=echo)


def predict_pictures(
    folders: Sequence[Path],
    paths: Sequence[Path],
    out: Path,
    wanted: Wanted,
    *,
    echo: Callable[[str], Any] = print,
) -> None:
    """Segment pictures, each result written when it is done.

    Args:
        folders: workdir of a trained network, or of each network of an ensemble.
        paths: 8-bit grey PNG or JPEG files; all are read before the first is predicted.
        out: folder to write: new, empty, or of the same command, which goes on.
        wanted: see `Wanted`.
        echo: prints a line about the network.

    Raises:
        InputsFailed: some pictures cannot be used; all others are done.
        ValueError: the network was not trained on such slices, or `out` is of another command.
        FileExistsError: `out` holds other files.
        OSError: a result cannot be written.
    """
    net = network.load(folders, wanted.which, wanted.dtype)
    lungs = None if wanted.lungs in (None, "threshold") else Path(str(wanted.lungs))
    preprocessing = check_pictures(net.preprocessing, lungs is not None, net.name)
    _introduce(net, f"lungs: {lungs or preprocessing.lung_mask}", [], echo)
    with wanted.run.only_run(out):
        batch = Batch(
            out,
            {output_names(path)[0]: path for path in paths},
            record=_record(
                net, wanted, {"folder": str(lungs)} if lungs else {"method": "threshold"}
            ),
            record_name=RECORD,
            table=PICTURES_TABLE,
            options=wanted.run,
            also={output_names(p)[0]: _lung_file(lungs, p) for p in paths} if lungs else None,
        )
        with batch.finish(), progress(len(batch.missing), quiet=wanted.quiet) as bar:
            slices = _usable(batch, lungs, preprocessing)
            for prediction in net.predict(slices, prepared_by=slices.prepared_by):
                name = output_names(Path(prediction.slice.id))[0]
                batch.add(name, _finished_picture(net, prediction, out, pictures=wanted.pictures))
                bar.update()


def _introduce(net: Network, lungs: str, notes: Sequence[str], echo: Callable[[str], Any]) -> None:
    """Say what the network was trained on, where the lungs come from and what is to be noted."""
    echo(f"{net.name}: trained on {net.provenance}; {lungs}")
    print_notes(Path(net.name), notes)
    if net.provenance.phantoms:
        print(
            f"warning: {net.name} has only seen made-up chests (phantoms); its masks of patients "
            "are no measure of disease",
            file=sys.stderr,
        )


def _record(net: Network, wanted: Wanted, lungs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the masks of a folder depend on."""
    network = net.provenance._asdict()
    del network["lungs"]  # is in the network's workdir; older folders of masks lack it
    if not network["members"]:
        del network["members"]
    record: dict[str, Any] = {"network": network, "which": wanted.which, "lungs": dict(lungs)}
    rule = net.settings.eval
    if rule.density_slope or rule.least_share:
        names = ("density_slope", "density_middle", "least_share")
        record["classes"] = {name: getattr(rule, name) for name in names}
    return record if wanted.dtype is None else record | {"dtype": wanted.dtype}


def _segment(
    net: Network, scan: Scan, name: str, source: LungSource, wanted: Wanted
) -> Segmentation:
    return net.segment_scan(
        scan,
        source.labels(scan, name),
        keep_prob=False,
        montage=MONTAGE_ROWS if wanted.pictures else 0,
        quiet=wanted.quiet,
    )


def _save_scan(
    result: Segmentation, out: Path, name: str, montage: Sequence[str], class_names: Sequence[str]
) -> None:
    """Write the mask of a scan, and its montage where there is one."""
    result.save(out / name)
    for picture in montage:
        sheet = contact_sheet(result.pictures, class_names=class_names)
        write_bytes(out / picture, png_bytes(sheet))


def _usable(batch: Batch, lungs: Path | None, preprocessing: Any) -> PictureSlices:
    """Return the pictures that can be predicted; the others have failed."""
    good = []
    for path in batch.missing.values():
        try:
            _picture_slices([path], lungs, preprocessing).check()
        except INPUT_ERRORS as error:
            batch.fail(path, error)
        else:
            good.append(path)
    return _picture_slices(good, lungs, preprocessing)


def _picture_slices(paths: Sequence[Path], lungs: Path | None, preprocessing: Any) -> PictureSlices:
    files = None if lungs is None else [_lung_file(lungs, path) for path in paths]
    return PictureSlices(paths, preprocessing, files)


def _lung_file(lungs: Path, picture: Path) -> Path:
    """Return the file of a picture's lung mask."""
    return lungs / f"{picture.stem}.png"


def _finished_picture(
    net: Network, prediction: SlicePrediction, out: Path, *, pictures: bool
) -> Finished:
    """Return the result of a picture."""
    source = Path(prediction.slice.id)
    mask, overlay = output_names(source)
    names = (mask, overlay) if pictures else (mask,)

    result = net.picture_segmentation(prediction)
    print_notes(source, result.notes)

    def save() -> None:
        result.save(out / mask)
        if pictures:
            sheet = contact_sheet(
                [net.picture(prediction, source.name)], class_names=net.class_names
            )
            write_bytes(out / overlay, png_bytes(sheet))

    row = lesion_areas(prediction, net.class_names)
    row |= {"network": str(net.provenance), "notes": "; ".join(result.notes)}
    return Finished([row], names, save)
