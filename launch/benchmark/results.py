"""Results of a benchmark as JSON, Markdown and a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from input_pipeline.files import write_bytes, write_json, write_text
from ssa_jax.figures.drawing import DPI, png_bytes

Row = Mapping[str, Any]
Curves = Mapping[str, Sequence[tuple[float, float]]]


def markdown(rows: Sequence[Row]) -> str:
    """Format rows as a Markdown table.

    Args:
        rows: values by column; the columns of the table are in order of appearance.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_cell(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def save(out: Path, name: str, machine: Row, tables: Mapping[str, Sequence[Row]]) -> None:
    """Write `NAME.json` and `NAME.md`: the machine, and each table under its title.

    Args:
        out: folder to write to.
        name: of the files.
        machine: see `timing.machine`.
        tables: rows by title.
    """
    write_json(out / f"{name}.json", {"machine": dict(machine), **tables})
    parts = [markdown([machine])]
    parts += [f"**{title}**\n\n{markdown(rows)}" for title, rows in tables.items() if rows]
    write_text(out / f"{name}.md", "\n\n".join(parts) + "\n")


def plot(path: Path, curves: Curves, x_label: str, y_label: str) -> None:
    """Draw curves with markers over a logarithmic x axis; the y axis starts at 0.

    Args:
        path: of the PNG file.
        curves: (x, y) pairs by name.
        x_label: title of the x axis.
        y_label: title of the y axis.
    """
    figure = Figure(figsize=(4.2, 2.8), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    ticks = sorted({x for points in curves.values() for x, _ in points})
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend(frameon=False)
    write_bytes(path, png_bytes(figure))
