"""Reports of the rounds for people: rounds.csv, curves.png, report.html and pseudo.png."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.files import write_bytes, write_text
from input_pipeline.preprocess import normalize
from input_pipeline.pseudo_labels import PseudoLabels, PseudoSlices
from input_pipeline.tables import write_table
from input_pipeline.verified import read_json
from ssa_jax.experiment import data, factory
from ssa_jax.experiment.run import Row, Run, manifest_of
from ssa_jax.figures.curves import rounds_curves
from ssa_jax.figures.drawing import png_bytes
from ssa_jax.figures.overlays import label_sheet
from ssa_jax.figures.rounds_report import RoundView, html_report, row_text, table_head

PICTURES = 8  # unlabelled slices whose pseudo-labels are drawn each round


class ReportWriter:
    """An observer of rounds that draws them and prints a line about each, see `rounds.Observer`.

    Args:
        echo: prints the lines.
    """

    def __init__(self, echo: Callable[[str], Any]) -> None:
        self._echo = echo

    def labels_written(self, run: Run, number: int, labels: PseudoLabels) -> None:
        """Draw the first slices, the same each round, with their pseudo-labels."""
        used = factory.preprocessing(run.settings)
        shown = labels[:PICTURES]
        slices = PseudoSlices(labels, run.slices.unlabelled)[:PICTURES]
        sheet = label_sheet(
            [normalize(item.image, used.intensity, used.grey_values) for item in slices],
            [item.mask for item in shown],
            [item.weight == 0 for item in shown],
            [item.id for item in shown],
            class_names=run.settings.class_names,
        )
        write_bytes(run.folder(number) / "pseudo.png", png_bytes(sheet))

    def round_scored(self, run: Run, rows: Sequence[Row]) -> None:
        """Print the row of the last round and update the files."""
        names = run.settings.class_names
        if len(rows) == 1:
            self._echo(table_head(names))
        self._echo(row_text(_view(run, rows[-1]), names))
        write_table(run.workdir / "rounds.csv", rows)
        _write_report(run, rows, None)

    def finished(self, run: Run, rows: Sequence[Row], summary: dict[str, Any]) -> None:
        """Write the final report."""
        _write_report(run, rows, summary)


def _write_report(run: Run, rows: Sequence[Row], summary: dict[str, Any] | None) -> None:
    """Write `curves.png` and `report.html`."""
    names = run.settings.class_names
    curves = png_bytes(rounds_curves(rows, names))
    write_bytes(run.workdir / "curves.png", curves)
    page = html_report(
        run.settings.data.name,
        [_view(run, row) for row in rows],
        names,
        run.settings.to_dict(),
        curves,
        summary,
        _read(run.workdir / data.TEST / "pictures.png"),
    )
    write_text(run.workdir / "report.html", page)


def _view(run: Run, row: Row) -> RoundView:
    """Collect the contents of the report for one round."""
    folder = run.folder(row["round"])
    seconds = [folder / f"{what}_seconds.json" for what in ("train", "label")]
    minutes = sum(_seconds(path) for path in seconds if path.exists()) / 60
    pseudo = folder / "pseudo"
    warnings = manifest_of(pseudo)["warnings"] if pseudo.exists() else None
    return RoundView(row, minutes, warnings, _read(folder / "pseudo.png"))


def _seconds(path: Path) -> float:
    """Read a time that `run.timed` wrote."""
    mend = "remove it, and the report leaves this time out"
    value = read_json(path, mend)
    if not isinstance(value, float):
        raise ValueError(f"{path}: holds {value!r}, expected seconds; {mend}")
    return value


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
