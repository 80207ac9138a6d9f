"""Reports of the rounds: lines of a text table, and an HTML page with curves and pictures."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssa_jax.evaluation.summary import AVERAGE, format_table
from ssa_jax.evaluation.text_table import format_row

COLUMNS = {
    "round": 5,
    "slices": 6,
    "added": 5,
    "relabelled": 10,
    "pseudo-label share %": 20,
    "confidence": 11,
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


@dataclass(frozen=True)
class RoundView:
    """The contents of the report for one round.

    Attributes:
        row: contents of `round.json`.
        minutes: time of training and labelling.
        warnings: about its pseudo-labels; None where it made none.
        picture: PNG of its pseudo-labels; None where it made none.
    """

    row: Mapping[str, Any]
    minutes: float
    warnings: Sequence[str] | None = None
    picture: bytes | None = None


def table_head(names: Sequence[str]) -> str:
    """Format the head of the table: the order of the classes, and the names of the columns.

    Args:
        names: of the classes; their values are separated by slashes.
    """
    order = f"Values with slashes: {' / '.join(names)}" + (
        "; of the DSC also their mean. Weights: background first." if len(names) > 1 else "."
    )
    return f"{order}\n" + format_row(list(COLUMNS), list(COLUMNS.values()), right=True)


def row_text(view: RoundView, names: Sequence[str]) -> str:
    """Format a round as one line of the table.

    Args:
        view: of the round.
        names: of the classes.
    """
    return format_row(_cells(view, names), list(COLUMNS.values()), right=True)


def html_report(
    title: str,
    views: Sequence[RoundView],
    names: Sequence[str],
    settings: Mapping[str, Any],
    curves: bytes,
    summary: Mapping[str, Any] | None,
    test_picture: bytes | None,
) -> str:
    """Compose the report as an HTML page that needs no other file.

    Args:
        title: name of the data set.
        views: of the rounds, in order.
        names: of the classes.
        settings: of the run, nested.
        curves: PNG of curves over the rounds.
        summary: what `rounds.self_train` returns; None while rounds remain.
        test_picture: PNG of test slices; None where there is none.

    Returns:
        The text of the page.
    """
    best = summary["best_round"] if summary else None
    parts = [
        f"<h1>{html.escape(title)}: rounds of pseudo-labels</h1>",
        f"<p>{_state(len(views), summary)}</p>",
        _table(views, names, best),
        _image(curves, "curves over the rounds"),
    ]
    if summary and summary["test"]:
        parts += [f"<h2>Test, round {best}</h2>", _pre(format_table(summary["test"]))]
        parts += [_image(test_picture, "test slices")]
    parts += [_round(view) for view in views]
    parts += ["<h2>Configuration</h2>", _pre(json.dumps(settings, indent=1))]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}: rounds</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _state(rounds: int, summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return f"Running: {rounds} rounds are scored."
    kept = f"round {summary['best_round']}"
    last = summary.get("choose") == "last"  # older summaries have the best round without saying so
    which = f"{kept}, the last one, is kept" if last else f"{kept} has the best validation DSC"
    text = f"Done after {rounds} rounds; {which}."
    return text if summary["test"] else f"{text} The data set has no labelled test split."


def _cells(view: RoundView, names: Sequence[str]) -> list[str]:
    row, dsc = view.row, view.row["validation_dsc"]
    scores = [dsc[name] for name in names] + ([dsc[AVERAGE]] if len(names) > 1 else [])
    return [
        *(str(row[name]) for name in ("round", "slices", "added", "relabelled")),
        _joined([row["pseudo_share"][name] for name in names], 100, 2),
        _joined([row.get("confidence", {}).get(name) for name in names], 1, 3),
        _joined([row["agreement"][name] for name in names], 1, 3),
        _joined([row["training_share"][name] for name in names], 100, 1),
        _joined(list(row["weight"].values()), 1, 2),
        f"{row['weight_sum']:.2f}",
        _joined(scores, 1, 3),
        f"{view.minutes:.1f}",
    ]


def _joined(values: Sequence[float | None], factor: float, digits: int) -> str:
    return "/".join("-" if value is None else f"{factor * value:.{digits}f}" for value in values)


def _table(views: Sequence[RoundView], names: Sequence[str], best: int | None) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
    lines = [f"<tr>{head}</tr>"]
    for view in views:
        cells = "".join(f"<td>{html.escape(c)}</td>" for c in _cells(view, names))
        lines.append(f'<tr class="{"best" if view.row["round"] == best else ""}">{cells}</tr>')
    note = html.escape(table_head(names).partition("\n")[0])
    return f'<table>{"".join(lines)}</table><p class="quiet">{note}</p>'


def _round(view: RoundView) -> str:
    """Compose the warnings and the picture of a round's pseudo-labels, where it made some."""
    if view.warnings is None:
        return ""
    number = view.row["round"]
    lines = "".join(f'<p class="warning">{html.escape(text)}</p>' for text in view.warnings)
    image = _image(view.picture, f"pseudo-labels of round {number}")
    return f"<h2>Pseudo-labels of round {number}</h2>{lines}{image}"


def _image(png: bytes | None, text: str) -> str:
    if png is None:
        return ""
    data = base64.b64encode(png).decode("ascii")
    return f'<p><img alt="{html.escape(text)}" src="data:image/png;base64,{data}"></p>'


def _pre(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"
