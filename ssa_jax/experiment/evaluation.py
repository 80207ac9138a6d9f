"""Evaluation of a trained network on a split: tables and pictures in a folder, all or nothing."""

import csv
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax

from input_pipeline.files import atomic_directory, require_own, safe_name, write_bytes, write_json
from input_pipeline.slices import Slice, Subset, about, abouts
from input_pipeline.tables import read_table, write_table
from input_pipeline.verified import file_sha256, read_signed, signed
from ssa_jax.evaluation.metrics import CaseRow
from ssa_jax.evaluation.scoring import SlicePrediction, VolumeScores, score, volume_part
from ssa_jax.evaluation.summary import summarize
from ssa_jax.experiment import data, data_changes, network
from ssa_jax.experiment.network import Network
from ssa_jax.experiment.progress import progress
from ssa_jax.experiment.settings import Settings
from ssa_jax.figures.drawing import png_bytes
from ssa_jax.figures.overlays import SlicePicture, contact_sheet
from ssa_jax.training.distributed import barrier, decided, gathered, is_main_process, say
from ssa_jax.training.stopping import until_stopped

OUTPUTS = ("metrics.json", "cases.csv", "volumes.csv", "pictures", "pictures.png")
SHEET_ROWS = 12  # of pictures.png
TEXTS = ("unit", "outcome")  # of a case's scores; the others are numbers


def evaluate(
    networks: Mapping[Path, Settings],
    split: str,
    *,
    which: str,
    out: Path,
    pictures: int,
    quiet: bool,
) -> dict[str, Any]:
    """Predict and score every slice of a split; write scores and pictures to `out`.

    Other files in `out` are kept. Where slices make up volumes, the `standard` block is over whole
    volumes in 3-D (`volumes.csv`) and `paper_compat` over slices. Several processes divide the
    slices; the scores are those of one.

    Args:
        networks: workdir and settings of a trained network, `data.data_dir` may differ; of several
            the mean of their probabilities is scored, see `network.ensemble`.
        split: 'train', 'validation', 'test', ...
        which: checkpoint, 'best' or 'last'.
        out: folder for `metrics.json`, `cases.csv` (a row for each slice and class) and pictures.
        pictures: number of slices to draw, the first 12 of them in `pictures.png` too.
        quiet: show no progress.

    Returns:
        The content of `metrics.json`: the summary of `summary.summarize`, with 'workdir', 'split',
        'checkpoint', 'step', 'config' (the groups data, model, attention and eval) and 'tables'
        (the SHA-256 of each table); of several networks 'workdir' names all, and the rest is of
        the first.

    Raises:
        ValueError: a split that does not exist or has no labels, networks that make no ensemble, or
            of which not all held these slices out.
        FileNotFoundError: the workdir has no such checkpoint.
        FileExistsError: `out` holds files of these names that no evaluation wrote.
    """
    slices = _slices(networks, split)
    decided(lambda: require_own(out, OUTPUTS, what="evaluation"))
    for workdir, settings in networks.items():
        _note_changes(settings, workdir)
    net = network.restore(networks, which)
    pictures = pictures if is_main_process() else 0
    with atomic_directory(out, owned=OUTPUTS) as folder:
        drawing = _Drawing(net, folder, pictures)
        rows, volumes = score_slices(net, slices, seen=drawing.add, quiet=quiet)
        drawing.finish(slices)
        fields = net.settings.to_dict()
        summary = _summary(rows, volumes) | {
            "workdir": net.name,
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
    barrier("evaluated")
    return summary


def score_slices(
    net: Network,
    slices: Sequence[Slice],
    *,
    seen: Callable[[SlicePrediction, list[CaseRow]], Any] = lambda *_: None,
    quiet: bool = True,
) -> tuple[list[CaseRow], list[CaseRow]]:
    """Predict and score labelled slices and the volumes that they make up.

    Of several processes each takes a part, whole volumes, the main one the first; all return the
    scores of all.

    Args:
        net: the network.
        slices: those of a volume are consecutive.
        seen: called with each of this process's predictions and its scores.
        quiet: show no progress.

    Returns:
        A row for each class and slice, and one for each class and volume.

    Raises:
        Interrupted: one of several processes received SIGTERM.
    """
    names, tolerance = net.class_names, net.settings.eval.tolerance
    place = jax.process_index(), jax.process_count()
    mine = Subset(slices, volume_part(len(slices), lambda k: about(slices, k).volume, *place))
    volumes, rows = VolumeScores(names, tolerance), list[CaseRow]()
    with progress(len(mine), quiet=quiet or not is_main_process()) as bar:
        for prediction in until_stopped(net.predict(mine), len(mine)):
            scored = score(prediction, names, tolerance)
            rows += scored
            volumes.add(prediction)
            seen(prediction, scored)
            bar.update()
    both = zip(*gathered((rows, volumes.rows())), strict=True)
    all_rows, all_volumes = (list(itertools.chain.from_iterable(parts)) for parts in both)
    names_of = [(row["case"], row["class_name"]) for row in all_volumes]
    if len(set(names_of)) < len(names_of):  # in the parts of two processes
        raise ValueError("slices of a volume are not consecutive; sort them by volume")
    return all_rows, all_volumes


class _Drawing:
    """The pictures of an evaluation: a file for each of the first slices, and one of the first.

    Args:
        net: the network.
        folder: of the pictures.
        count: number of slices to draw.
    """

    def __init__(self, net: Network, folder: Path, count: int) -> None:
        self._net = net
        self._folder = folder
        self._count = count
        self._drawn = 0
        self._sheet: list[SlicePicture] = []

    def add(self, prediction: SlicePrediction, scored: list[CaseRow]) -> None:
        """Draw the next slice, unless enough are drawn."""
        if self._drawn == self._count:
            return
        self._drawn += 1
        row = self._net.picture(prediction, _title(scored))
        path = self._folder / "pictures" / f"{safe_name(prediction.slice.id)}.png"
        self._write(path, [row])
        self._sheet = [*self._sheet, row][:SHEET_ROWS]

    def finish(self, slices: Sequence[Slice]) -> None:
        """Draw what another process has predicted, and the sheet of the first slices."""
        names, tolerance = self._net.class_names, self._net.settings.eval.tolerance
        missing = Subset(slices, range(self._drawn, min(self._count, len(slices))))
        for prediction in self._net.predict(missing):
            self.add(prediction, score(prediction, names, tolerance))
        if self._sheet:
            self._write(self._folder / "pictures.png", self._sheet)

    def _write(self, path: Path, rows: Sequence[SlicePicture]) -> None:
        write_bytes(path, png_bytes(contact_sheet(rows, class_names=self._net.class_names)))


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


def _slices(networks: Mapping[Path, Settings], split: str) -> Sequence[Slice]:
    """Return the slices of a split, which is the same of all networks."""
    first: tuple[Path, list[str]] | None = None
    for workdir, settings in networks.items():
        slices = data.evaluation_slices(settings, workdir, split)
        ids = [item.id for item in abouts(slices)]
        first = first or (workdir, ids)
        if ids != first[1]:
            raise ValueError(
                f"{workdir}: {split!r} holds other slices than that of {first[0]}, so one network "
                "may have been trained on what the other held out; score an ensemble on a split "
                "that all of its networks held out"
            )
    return slices


def _note_changes(settings: Settings, workdir: Path) -> None:
    """Say on standard error which slices are others than the training began with."""

    def changes() -> str:
        before = data_changes.stored_hashes(workdir)
        if before is None:
            return ""
        return data_changes.changes(before, data_changes.hashes_of(settings, before))

    if found := decided(changes):
        say(
            f"{workdir}: the data set is another than the training began with: {found}; the "
            "scores are of the slices as they are now"
        )


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
