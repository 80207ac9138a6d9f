"""What a person sees of the rounds: a table row each, curves, and one HTML page with pictures."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from launch import setup
from launch.curves import rounds_figure
from launch.writer import replacing
from ssa_jax.summary import AVERAGE, format_table

COLUMNS = {
    "round": 5,
    "slices": 6,
    "moved": 5,
    "renewed": 7,
    "pseudo-label share %": 20,
    "agreement": 13,
    "P_c %": 11,
    "weights": 15,
    "sum": 6,
    "validation DSC": 20,
    "minutes": 7,
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; margin: 2rem auto; max-width: 72rem;
  padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid #e3e3e3; text-align: right;
  white-space: nowrap; }
tr.best { background: #e9f6f1; }
img { max-width: 100%; } pre { overflow-x: auto; background: #f6f6f6; padding: 0.7rem; }
.warning { color: #a33a00; } .quiet { color: #666666; }
"""


def table_head(names: Sequence[str]) -> str:
    """Names of the columns; values of several classes stand in this order, between slashes."""
    order = f"Values with slashes: {' / '.join(names)}" + (
        "; of the DSC also their mean. Weights: background first." if len(names) > 1 else "."
    )
    return f"{order}\n" + "  ".join(name.rjust(width) for name, width in COLUMNS.items())


def row_text(workdir: Path, row: Mapping[str, Any], names: Sequence[str]) -> str:
    """A round as one line of the table."""
    cells = zip(_cells(workdir, row, names), COLUMNS.values(), strict=True)
    return "  ".join(text.rjust(width) for text, width in cells)


def write_report(
    workdir: Path,
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    config: ConfigDict,
    summary: Mapping[str, Any] | None,
) -> None:
    """Writes `curves.png` and `report.html`, a page that needs no other file.

    Args:
        workdir: of all rounds, whose pictures and manifests are read.
        rows: what `round.json` holds, in order.
        names: of the classes.
        config: of the run.
        summary: what `self_train` returns; None while rounds are still to come.

    Raises:
        OSError: the disk refuses.
    """
    rounds_figure(workdir / "curves.png", rows, names)
    best = summary["best_round"] if summary else None
    parts = [
        f"<h1>{html.escape(config.data.name)}: rounds of pseudo-labels</h1>",
        f"<p>{_state(len(rows), summary)}</p>",
        _table(workdir, rows, names, best),
        _image(workdir / "curves.png", "curves over the rounds"),
    ]
    if summary and summary["test"]:
        parts += [f"<h2>Test, round {best}</h2>", _pre(format_table(summary["test"]))]
        parts += [_image(workdir / "test" / "pictures.png", "test slices")]
    parts += [_round(setup.round_folder(workdir, row["round"]), row["round"]) for row in rows]
    parts += ["<h2>Configuration</h2>", _pre(json.dumps(config.to_dict(), indent=1))]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(config.data.name)}: rounds</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
    with replacing(workdir / "report.html") as path:
        path.write_text(page, encoding="utf-8")


def _state(rounds: int, summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return f"Running: {rounds} rounds are scored."
    text = f"Done after {rounds} rounds; round {summary['best_round']} has the best validation DSC."
    return text if summary["test"] else f"{text} The data set has no labelled test split."


def _cells(workdir: Path, row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    number, dsc = row["round"], row["validation_dsc"]
    scores = [dsc[name] for name in names] + ([dsc[AVERAGE]] if len(names) > 1 else [])
    return [
        *(str(row[name]) for name in ("round", "slices", "moved", "renewed")),
        _joined([row["pseudo_share"][name] for name in names], 100, 2),
        _joined([row["agreement"][name] for name in names], 1, 3),
        _joined([row["training_share"][name] for name in names], 100, 1),
        _joined(list(row["weight"].values()), 1, 2),
        f"{row['weight_sum']:.2f}",
        _joined(scores, 1, 3),
        f"{_minutes(setup.round_folder(workdir, number)):.1f}",
    ]


def _joined(values: Sequence[float | None], factor: float, digits: int) -> str:
    return "/".join("-" if value is None else f"{factor * value:.{digits}f}" for value in values)


def _minutes(folder: Path) -> float:
    """Of training and labelling, by the runs that finished them."""
    files = [folder / f"{what}_seconds.json" for what in ("train", "label")]
    return sum(json.loads(path.read_text()) for path in files if path.exists()) / 60


def _table(
    workdir: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str], best: int | None
) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
    lines = [f"<tr>{head}</tr>"]
    for row in rows:
        cells = "".join(f"<td>{html.escape(c)}</td>" for c in _cells(workdir, row, names))
        lines.append(f'<tr class="{"best" if row["round"] == best else ""}">{cells}</tr>')
    note = html.escape(table_head(names).partition("\n")[0])
    return f'<table>{"".join(lines)}</table><p class="quiet">{note}</p>'


def _round(folder: Path, number: int) -> str:
    """Warnings and picture of a round's pseudo-labels, where it made some."""
    manifest = folder / "pseudo" / "manifest.json"
    if not manifest.exists():
        return ""
    warnings = json.loads(manifest.read_text(encoding="utf-8"))["warnings"]
    lines = "".join(f'<p class="warning">{html.escape(text)}</p>' for text in warnings)
    image = _image(folder / "pseudo.png", f"pseudo-labels of round {number}")
    return f"<h2>Pseudo-labels of round {number}</h2>{lines}{image}"


def _image(path: Path, text: str) -> str:
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<p><img alt="{html.escape(text)}" src="data:image/png;base64,{data}"></p>'


def _pre(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"
