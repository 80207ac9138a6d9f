"""Scores of label maps of any program against the truth: files of equal names, or two arrays."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import numpy as np

from input_pipeline.files import write_json
from input_pipeline.io.doubts import ONLY_SCALES
from input_pipeline.io.nifti import SUFFIXES as NIFTI
from input_pipeline.io.nifti import read_labels, same_grid
from input_pipeline.io.read import read_mask
from ssa_jax.evaluation.metrics import CaseMetrics, CaseRow, case_rows
from ssa_jax.evaluation.summary import format_table, summarize
from ssa_jax.experiment.batch import Batch, Finished, RunOptions, print_notes
from ssa_jax.experiment.progress import progress
from ssa_jax.experiment.settings import CLASS_NAMES

SUFFIXES = (*NIFTI, ".png")
RECORD = "score.json"  # what the scores in a folder are of


class Pair(NamedTuple):
    """Truth and prediction of one case on one grid.

    Attributes:
        truth: uint8 class index.
        prediction: same shape.
        spacing: mm along each axis, or None where it is unknown.
        notes: what is doubtful about the millimetres, by file.
    """

    truth: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, ...] | None
    notes: tuple[tuple[Path, tuple[str, ...]], ...] = ()


def score(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    spacing: Sequence[float] | None = None,
    class_names: Sequence[str] = CLASS_NAMES["binary"],
    tolerance: float = 3.0,
) -> dict[str, CaseMetrics]:
    """Score a label map against the truth by the `standard` block of metrics.

    Args:
        truth: class index (or bool) `[H, W]` or `[D, H, W]`, 0 background.
        prediction: same shape.
        spacing: mm along each axis of the arrays; None where it is unknown, then distances are in
            pixels.
        class_names: of the classes 1, 2, ...; with one class every label above 0 is lesion.
        tolerance: of NSD, in mm (or pixels).

    Returns:
        For each class 'dsc', 'hd95', 'nsd', 'mae' (None where both are empty), 'unit', 'outcome'
        and sizes, see `metrics.case_metrics`.

    Raises:
        ValueError: shapes differ, labels outside the classes, or a spacing of another length.

    Example:
        >>> import numpy as np
        >>> truth, prediction = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)
        >>> truth[0, :2, :2], prediction[0, :2, :3] = 1, 1
        >>> score(truth, prediction, spacing=(5, 0.7, 0.7))["lesion"]["dsc"]
        0.8
    """
    pair = [np.asarray(labels) for labels in (truth, prediction)]
    if len(class_names) == 1:
        pair = [(labels > 0).astype(np.uint8) for labels in pair]
    rows = case_rows(
        pair[0],
        pair[1],
        case="case",
        patient="case",
        class_names=class_names,
        spacing=spacing,
        tolerance=tolerance,
    )
    return {row["class_name"]: row["standard"] for row in rows}


def score_folders(
    pred: Path,
    truth: Path,
    *,
    task: str,
    tolerance: float,
    out: Path | None,
    axes: str | None,
    options: RunOptions,
    quiet: bool,
    echo: Callable[[str], Any],
) -> None:
    """Score the label maps of a folder against the truth of equal names, and print the table.

    Args:
        pred: folder of predictions, NIfTI or PNG.
        truth: folder of true label maps.
        task: 'binary' counts every label above 0 as lesion; 'multiclass' distinguishes 1 and 2.
        tolerance: of NSD, in mm (or pixels).
        out: folder for `metrics.json` and `cases.csv`: new, empty, or of the same command, which
            goes on; None writes nothing.
        axes: directions of the axes of files that state no orientation, or only a default.
        options: see `RunOptions`.
        quiet: show no progress.
        echo: prints the table, without `paper_compat`, which needs probabilities.

    Raises:
        InputsFailed: some label maps have unknown labels or different grids; the others are scored.
        ValueError: label maps without a partner, or `out` is of another command.
        FileExistsError: `out` holds other files.
        OSError: a file cannot be written.
    """
    pairs = find_pairs(pred, truth)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(TemporaryDirectory()))
        stack.enter_context(options.only_run(folder))
        batch = Batch(
            folder,
            {name: prediction for name, (_, prediction) in pairs.items()},
            record={"truth": str(truth.resolve()), "task": task, "tolerance": tolerance}
            | ({} if axes is None else {"axes": axes}),
            record_name=RECORD,
            table="cases",
            options=options,
            also={name: true for name, (true, _) in pairs.items()},
            stays=out is not None,
        )

        def measure(name: str, prediction: Path) -> Finished:
            pair = read_pair(pairs[name][0], prediction, task, axes=axes)
            for path, notes in pair.notes:
                print_notes(path, notes)
            rows = case_rows(
                pair.truth,
                pair.prediction,
                case=name,
                patient=name,
                class_names=CLASS_NAMES[task],
                spacing=pair.spacing,
                tolerance=tolerance,
            )
            bar.update()
            return Finished(cast("list[dict[str, Any]]", rows))

        with batch.finish(), progress(len(batch.missing), quiet=quiet) as bar:
            batch.each(measure, echo=echo)
            if batch.rows:
                summary = summarize(cast("list[CaseRow]", batch.rows))
                write_json(folder / "metrics.json", summary)
                echo(format_table(summary))


def find_pairs(pred: Path, truth: Path) -> dict[str, tuple[Path, Path]]:
    """Find truth and prediction of each case, by name without suffix.

    Args:
        pred: folder of predictions.
        truth: folder of true label maps.

    Returns:
        The files (truth, prediction) by name.

    Raises:
        ValueError: a folder without label maps, a truth without a prediction, or a prediction
            without a truth, which would not be scored.
        FileNotFoundError: a folder does not exist.
    """
    truths, predictions = _label_maps(truth), _label_maps(pred)
    for ours, theirs, folder, what in (
        (truths, predictions, pred, "prediction"),
        (predictions, truths, truth, "truth"),
    ):
        alone = [name for name in ours if name not in theirs]
        if alone:
            raise ValueError(
                f"{ours[alone[0]]}: no {what} of that name in {folder} ({len(alone)} in all); "
                "add it, or remove this file"
            )
    return {name: (truths[name], predictions[name]) for name in truths}


def read_pair(truth: Path, prediction: Path, task: str, *, axes: str | None = None) -> Pair:
    """Read both label maps of a case.

    Args:
        truth: NIfTI or PNG file.
        prediction: NIfTI or PNG file.
        task: see `score_folders`.
        axes: see `score_folders`.

    Raises:
        ValueError: unknown labels, or different grids.
        OSError: a file cannot be read.
    """
    known = (0, 1, 2)
    if truth.suffix.lower() == ".png" and prediction.suffix.lower() == ".png":
        pair = Pair(_picture(truth), _picture(prediction), None)
        if pair.truth.shape != pair.prediction.shape:
            raise ValueError(
                f"{prediction}: has {pair.prediction.shape} pixels, expected the "
                f"{pair.truth.shape} of {truth}; resample it"
            )
    else:
        one, other = (read_labels(path, known, axes=axes) for path in (truth, prediction))
        reason = same_grid(one, other)
        if reason:
            raise ValueError(f"{prediction}: not on the grid of {truth}: {reason}; resample it")
        # Sides are not scored, so that an orientation by default does not matter; sizes do.
        first, second = (
            tuple(note for note in scan.notes if not note.startswith(ONLY_SCALES))
            for scan in (one, other)
        )
        notes = ((truth, first), (prediction, tuple(note for note in second if note not in first)))
        pair = Pair(one.voxels, other.voxels, one.spacing, notes)
    if task == "binary":
        pair = pair._replace(
            truth=(pair.truth > 0).astype(np.uint8),
            prediction=(pair.prediction > 0).astype(np.uint8),
        )
    return pair


def _label_maps(folder: Path) -> dict[str, Path]:
    """List the label maps of a folder by name without suffix."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        for suffix in SUFFIXES:
            # `ssa-jax predict` writes a picture NAME.png beside each NAME.nii.gz.
            if path.name.lower().endswith(suffix) and not path.name.startswith("."):
                found.setdefault(path.name[: -len(suffix)], path)
                break
    if not found:
        raise ValueError(f"{folder}: no label map in it, expected {', '.join(SUFFIXES)}")
    return found


def _picture(path: Path) -> np.ndarray:
    """Read labels of a PNG; 0 and 255 count as 0 and 1."""
    try:
        return read_mask(path, (0, 1))
    except ValueError:
        return read_mask(path, (0, 1, 2))
