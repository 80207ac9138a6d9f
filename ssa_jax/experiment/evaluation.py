"""Evaluation of a trained network on a split: tables and pictures in a folder, all or nothing."""

import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from input_pipeline.files import atomic_directory, require_own, safe_name, write_bytes, write_json
from input_pipeline.slices import Slice
from input_pipeline.tables import read_table, write_table
from input_pipeline.verified import file_sha256, read_signed, signed
from ssa_jax.evaluation.metrics import CaseRow
from ssa_jax.evaluation.scoring import SlicePrediction, VolumeScores, score
from ssa_jax.evaluation.summary import summarize
from ssa_jax.experiment import data, data_changes, network
from ssa_jax.experiment.network import Network
from ssa_jax.experiment.progress import progress
from ssa_jax.experiment.settings import Settings
from ssa_jax.figures.drawing import png_bytes
from ssa_jax.figures.overlays import SlicePicture, contact_sheet

OUTPUTS = ("metrics.json", "cases.csv", "volumes.csv", "pictures", "pictures.png")
SHEET_ROWS = 12  # of pictures.png
TEXTS = ("unit", "outcome")  # of a case's scores; the others are numbers


def evaluate(
    settings: Settings,
    workdir: Path,
    split: str,
    *,
    which: str,
    out: Path,
    pictures: int,
    quiet: bool,
) -> dict[str, Any]:
    """Predict and score every slice of a split; write scores and pictures to `out`.

    Other files in `out` are kept. Where slices make up volumes, the `standard` block is over whole
    volumes in 3-D (`volumes.csv`) and `paper_compat` over slices.

    Args:
        settings: of the workdir; `data.data_dir` may differ.
        workdir: of a trained network.
        split: 'train', 'validation', 'test', ...
        which: checkpoint, 'best' or 'last'.
        out: folder for `metrics.json`, `cases.csv` (a row for each slice and class) and pictures.
        pictures: number of slices to draw, the first 12 of them in `pictures.png` too.
        quiet: show no progress.

    Returns:
        The content of `metrics.json`: the summary of `summary.summarize`, with 'workdir', 'split',
        'checkpoint', 'step', 'config' (the groups data, model, attention and eval) and 'tables'
        (the SHA-256 of each table).

    Raises:
        ValueError: a split that does not exist or has no labels.
        FileNotFoundError: the workdir has no such checkpoint.
        FileExistsError: `out` holds files of these names that no evaluation wrote.
    """
    slices = data.evaluation_slices(settings, workdir, split)
    require_own(out, OUTPUTS, what="evaluation")
    _note_changes(settings, workdir)
    net = network.restore(settings, workdir, which)
    with (
        atomic_directory(out, owned=OUTPUTS) as folder,
        progress(len(slices), quiet=quiet) as bar,
    ):
        rows, volumes = _score_and_draw(net, slices, folder, pictures, bar.update)
        fields = settings.to_dict()
        summary = _summary(rows, volumes) | {
            "workdir": str(workdir),
            "split": split,
            "checkpoint": which,
            "step": net.step,
            "config": {group: fields[group] for group in ("data", "model", "attention", "eval")},
        }
        write_table(folder / "cases.csv", rows)
        if volumes:
            write_table(folder / "volumes.csv", volumes)
        tables = {path.name: file_sha256(path) for path in sorted(folder.glob("*.csv"))}
        summary["tables"] = tables
        write_json(folder / "metrics.json", signed(summary))
    return summary


def score_slices(
    predictions: Iterable[SlicePrediction], names: Sequence[str], tolerance: float
) -> list[CaseRow]:
    """Score labelled slices, or the volumes that they make up.

    Args:
        predictions: in the order of the slices.
        names: of the classes 1, 2, ...
        tolerance: of NSD, in mm, or in pixels where the spacing is unknown.

    Returns:
        A row for each class and volume, or slice where slices make up no volumes.
    """
    volumes, rows = VolumeScores(names, tolerance), list[CaseRow]()
    for prediction in predictions:
        rows += score(prediction, names, tolerance)
        volumes.add(prediction)
    return volumes.rows() or rows


def read_rows(folder: Path, prefix: str) -> list[CaseRow]:
    """Read the cases of an evaluation: volumes where there are any, else slices.

    Args:
        folder: written by `evaluate`.
        prefix: put before the name of each case.

    Returns:
        A row for each case and class.

    Raises:
        ValueError: a file is damaged.
        OSError: it cannot be read.
    """
    mend = _mend(folder)
    tables = read_summary(folder).get("tables")
    path = folder / "volumes.csv"
    there = path.exists() if tables is None else path.name in tables
    path = path if there else folder / "cases.csv"
    if tables is not None and file_sha256(path) != tables.get(path.name):
        raise ValueError(f"{path}: damaged or changed: not what was written; {mend}")
    try:
        return [_row_of(line, prefix) for line in read_table(path)]
    except (KeyError, TypeError, AttributeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path}: not a table of cases ({error!r}); {mend}") from None


def read_summary(folder: Path) -> dict[str, Any]:
    """Read what `metrics.json` holds beside the cases of an evaluation.

    Args:
        folder: written by `evaluate`.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    return read_signed(folder / "metrics.json", _mend(folder))


def _mend(folder: Path) -> str:
    return f"restore it from a copy, or remove {folder} and run the same command again"


def _row_of(line: Mapping[str, str], prefix: str) -> CaseRow:
    """Return the row of which `write_table` wrote a line."""
    row: dict[str, Any] = {"case": prefix + line["case"]}
    row |= {name: line[name] for name in ("patient", "class_name")}
    for name, text in line.items():
        block, _, metric = name.partition(".")
        if metric:
            value = text if metric in TEXTS else float(text) if text else None
            row.setdefault(block, {})[metric] = value
    return cast(CaseRow, row)


def _note_changes(settings: Settings, workdir: Path) -> None:
    """Say on standard error which slices are others than the training began with."""
    before = data_changes.stored_hashes(workdir)
    if before is None:
        return
    if found := data_changes.changes(before, data_changes.hashes_of(settings, before)):
        print(
            f"{workdir}: the data set is another than the training began with: {found}; the "
            "scores are of the slices as they are now",
            file=sys.stderr,
        )


def _score_and_draw(
    net: Network,
    slices: Sequence[Slice],
    folder: Path,
    pictures: int,
    tick: Callable[[], Any],
) -> tuple[list[CaseRow], list[CaseRow]]:
    """Score all slices and the volumes they make up, and draw the first slices."""
    names, tolerance = net.class_names, net.settings.eval.tolerance
    rows: list[CaseRow] = []
    volumes = VolumeScores(names, tolerance)
    sheet: list[SlicePicture] = []
    for number, prediction in enumerate(net.predict(slices)):
        scored = score(prediction, names, tolerance)
        rows += scored
        volumes.add(prediction)
        if number < pictures:
            row = net.picture(prediction, _title(scored))
            path = folder / "pictures" / f"{safe_name(prediction.slice.id)}.png"
            write_bytes(path, png_bytes(contact_sheet([row], class_names=names)))
            sheet = [*sheet, row][:SHEET_ROWS]
        tick()
    if sheet:
        write_bytes(folder / "pictures.png", png_bytes(contact_sheet(sheet, class_names=names)))
    return rows, volumes.rows()


def _summary(rows: Sequence[CaseRow], volumes: Sequence[CaseRow]) -> dict[str, Any]:
    """Summarise slices, or volumes where there are any, with `paper_compat` over their slices."""
    if not volumes:
        return summarize(rows)
    return summarize(volumes) | {"paper_compat": summarize(rows)["paper_compat"]}


def _title(rows: Sequence[CaseRow]) -> str:
    """Compose a title of the slice's name and its DSC for each class."""
    scores = {row["class_name"]: row["standard"]["dsc"] for row in rows}
    texts = [
        f"no {name}" if dsc is None else f"DSC of {name} {dsc:.2f}" for name, dsc in scores.items()
    ]
    return f"{rows[0]['case']}: {', '.join(texts)}"
