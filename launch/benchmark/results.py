"""Results of a benchmark: printed, and kept as JSON, Markdown and a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from launch.pictures import DPI, save_figure
from launch.writer import replacing, write_json

Row = Mapping[str, Any]
Curves = Mapping[str, Sequence[tuple[float, float]]]


def markdown(rows: Sequence[Row]) -> str:
    """A table of the rows; a column for every key, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_cell(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def save(out: Path, name: str, machine: Row, tables: Mapping[str, Sequence[Row]]) -> None:
    """Write `NAME.json` and `NAME.md` to `out`: the machine, and each table under its title."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{name}.json", {"machine": dict(machine), **tables})
    parts = [markdown([machine])]
    parts += [f"**{title}**\n\n{markdown(rows)}" for title, rows in tables.items() if rows]
    with replacing(out / f"{name}.md") as path:
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def plot(path: Path, curves: Curves, x_label: str, y_label: str) -> None:
    """Draw curves with markers on a logarithmic x axis, from 0 upward."""
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
    save_figure(figure, path)
