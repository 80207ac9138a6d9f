"""Score label maps of any program: `python -m launch.score --pred DIR --truth DIR`.

Both folders hold NIfTI label maps of equal names (0 background, 1 and 2 lesion classes), or both
PNG masks. Every truth needs a prediction on its grid. Prints the `standard` block (DSC, HD95 and
NSD in mm, in 3-D) and, with --out, writes `metrics.json` and `cases.csv` there. `paper_compat`
needs probabilities, which label maps do not have.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline.nifti import SUFFIXES as NIFTI
from input_pipeline.nifti import read_labels, same_grid
from input_pipeline.readers import read_mask
from launch import command, setup
from launch.writer import filling, is_filled, progress, write_json, write_table
from ssa_jax.metrics import CaseRow, case_rows
from ssa_jax.summary import format_table, summarize

SUFFIXES = (*NIFTI, ".png")


class Pair(NamedTuple):
    """Truth and prediction of one case on one grid, and its spacing in mm where it is known."""

    truth: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, ...] | None


def main(arguments: list[str]) -> None:
    """Read the options, score and print the table."""
    parser = argparse.ArgumentParser(prog="launch.score", description=__doc__)
    parser.add_argument("--pred", type=Path, required=True, help="folder of predictions")
    parser.add_argument("--truth", type=Path, required=True, help="folder of true label maps")
    parser.add_argument(
        "--task",
        choices=tuple(setup.CLASS_NAMES),
        default="binary",
        help="binary counts every label above 0 as lesion [binary]",
    )
    parser.add_argument("--tolerance", type=float, default=3.0, help="of NSD, mm [3]")
    parser.add_argument("--out", type=Path, help="folder to write to, new or empty")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
    if options.out is not None and is_filled(options.out):
        raise FileExistsError(f"{options.out}: is not empty; name a new folder or clear it")
    cases = find_pairs(options.pred, options.truth)
    rows: list[CaseRow] = []
    with progress(len(cases), quiet=options.quiet) as bar:
        for name, (truth, prediction) in cases.items():
            pair = read_pair(truth, prediction, options.task)
            rows += case_rows(
                pair.truth,
                pair.prediction,
                case=name,
                patient=name,
                class_names=setup.CLASS_NAMES[options.task],
                spacing=pair.spacing,
                tolerance=options.tolerance,
            )
            bar.update()
    summary = summarize(rows)
    print(format_table(summary))
    if options.out is not None:
        with filling(options.out) as folder:
            write_table(folder / "cases.csv", rows)
            write_json(folder / "metrics.json", summary)


def find_pairs(pred: Path, truth: Path) -> dict[str, tuple[Path, Path]]:
    """Truth and prediction of each case, by name without suffix.

    Raises:
      ValueError: a folder without label maps, or a truth without a prediction; a prediction
        without a truth too, as it would go unscored.
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
                "add it, or take this file away"
            )
    return {name: (truths[name], predictions[name]) for name in truths}


def read_pair(truth: Path, prediction: Path, task: str) -> Pair:
    """Read both label maps of a case.

    Raises:
      ValueError: stray labels, or different grids.
      OSError: a file cannot be read.
    """
    known = (0, 1, 2)
    if truth.suffix.lower() == ".png" and prediction.suffix.lower() == ".png":
        pair = Pair(_picture(truth), _picture(prediction), None)
        if pair.truth.shape != pair.prediction.shape:
            raise ValueError(
                f"{prediction}: has {pair.prediction.shape} pixels, {truth} {pair.truth.shape}; "
                "both must be equal"
            )
    else:
        one, other = read_labels(truth, known), read_labels(prediction, known)
        reason = same_grid(one, other)
        if reason:
            raise ValueError(f"{prediction}: not on the grid of {truth}: {reason}; resample it")
        pair = Pair(one.voxels, other.voxels, one.spacing)
    if task == "binary":
        pair = pair._replace(
            truth=(pair.truth > 0).astype(np.uint8),
            prediction=(pair.prediction > 0).astype(np.uint8),
        )
    return pair


def _label_maps(folder: Path) -> dict[str, Path]:
    """Label maps of a folder by name without suffix."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        for suffix in SUFFIXES:
            # launch.predict leaves a picture NAME.png beside each NAME.nii.gz.
            if path.name.lower().endswith(suffix) and not path.name.startswith("."):
                found.setdefault(path.name[: -len(suffix)], path)
                break
    if not found:
        raise ValueError(f"{folder}: no label map in it, expected {', '.join(SUFFIXES)}")
    return found


def _picture(path: Path) -> np.ndarray:
    """Labels of a PNG; 0 and 255 count as 0 and 1."""
    try:
        return read_mask(path, (0, 1))
    except ValueError:
        return read_mask(path, (0, 1, 2))


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
