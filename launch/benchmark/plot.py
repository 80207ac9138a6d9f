"""A plot of the spatial convolution's implementations on square maps, backends side by side."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from input_pipeline.files import write_bytes
from launch.benchmark import results, spatial_conv, spatial_conv_compiled
from launch.benchmark.timing import read_spread
from launch.cli import local_path
from ssa_jax.figures.drawing import DPI, QUIET, png_bytes

MEASURES = {  # columns that can be drawn, and the titles of their panels
    "ms": "time, ms",
    "compile s": "compile time, s",
    "HLO instructions": "program, HLO instructions",
    "memory MB": "memory, MB",
    "traffic MB": "memory traffic, MB",
}
OVER = {"rows": "rows (and columns)", "batch": "batch", "C": "C, channels", "k": "k, kernel width"}
FIELDS = (*OVER, "dtype", "direction")  # of a case


class Backend(NamedTuple):
    """What is known of one backend.

    Attributes:
        label: above its panels.
        rows: of the table, in which `FIELDS` say the case.
    """

    label: str
    rows: Sequence[Mapping[str, Any]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the plot: its files, its x axis, the cases, and what is drawn.

    Args:
        parser: to add them to.
    """
    parser.add_argument(
        "files",
        nargs="+",
        type=local_path,
        metavar="FILE.json",
        help="of `benchmark spatial_conv`, with --topology or without",
    )
    parser.add_argument("--out", type=local_path, required=True, metavar="FIGURE.png")
    parser.add_argument("--over", choices=list(OVER), default="rows", help="x axis [rows]")
    parser.add_argument(
        "--where",
        nargs="+",
        type=_condition,
        default=[],
        metavar="FIELD=VALUE",
        help=f"the cases to draw, where the files have several; FIELD: {', '.join(FIELDS)}",
    )
    parser.add_argument(
        "--measures",
        nargs="+",
        choices=list(MEASURES),
        default=list(MEASURES),
        help="what to draw, where a file has it [all]",
    )


def _condition(text: str) -> tuple[str, str]:
    """Parse a flag's condition."""
    field, mark, value = text.partition("=")
    if field not in FIELDS or not mark:
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected FIELD=VALUE with FIELD one of {', '.join(FIELDS)}"
        )
    return field, value


def draw(options: argparse.Namespace) -> None:
    """Draw a row of panels for each backend and a column for each measure.

    Args:
        options: see `add_options`.

    Raises:
        ValueError: a file without the spatial convolution or all measures, or whose cases differ in
            more than the x axis.
        OSError: a file cannot be read or written.
    """
    fixed = [field for field in FIELDS if field != options.over]
    backends = [
        Backend(f"{found.label}\n{_case(found, fixed)}", found.rows)
        for path in options.files
        for found in _chosen(path, dict(options.where))
    ]
    measures = [
        name
        for name in options.measures
        if any(name in row for backend in backends for row in backend.rows)
    ]
    if not measures:
        raise ValueError(f"no file has any of --measures {', '.join(options.measures)}")
    write_bytes(options.out, _figure(backends, measures, options.over))


def _chosen(path: Path, where: Mapping[str, str]) -> list[Backend]:
    """Read the backends of a file, with the rows that fulfil all conditions."""
    backends = _backends(path)
    chosen = [
        Backend(label, [row for row in rows if _fulfils(row, where)]) for label, rows in backends
    ]
    if not any(backend.rows for backend in chosen):
        rows = [row for backend in backends for row in backend.rows]
        there = "; ".join(f"{field} {_values(rows, field)}" for field in FIELDS)
        raise ValueError(f"{path}: nothing fulfils --where; it has {there}")
    return [backend for backend in chosen if backend.rows]


def _backends(path: Path) -> list[Backend]:
    """Read a file of results: one backend of measurements, or one for each topology."""
    tables = results.read(path)
    machine = tables["machine"]
    device = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    by_label: dict[str, list[Mapping[str, Any]]] = {}
    for title in (spatial_conv.SPEED, spatial_conv_compiled.COMPILED):
        for row in tables.get(title, []):
            label = f"{row['topology']}, compiled only" if "topology" in row else device
            batch, height, width = map(int, row["B x H x W"].split("x"))
            if height == width:
                by_label.setdefault(label, []).append({**row, "batch": batch, "rows": height})
    if not by_label:
        raise ValueError(
            f"{path}: no square maps of `ssa-jax benchmark spatial_conv` in it; expected its "
            f"{spatial_conv.NAME}.json or {spatial_conv_compiled.NAME}.json"
        )
    return [Backend(label, rows) for label, rows in by_label.items()]


def _fulfils(row: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    return all(str(row[field]) == value for field, value in where.items())


def _values(rows: Iterable[Mapping[str, Any]], field: str) -> str:
    """List the values of a field in order of appearance."""
    return ", ".join(dict.fromkeys(str(row[field]) for row in rows))


def _case(backend: Backend, fixed: Sequence[str]) -> str:
    """Describe the only case of a backend, but for the x axis."""
    values = {field: _values(backend.rows, field) for field in fixed}
    for field, found in values.items():
        if "," in found:
            raise ValueError(
                f"{backend.label}: {field} is {found}; choose one, such as --where "
                f"{field}={found.partition(',')[0]}"
            )
    return ", ".join(f"{field} {x}" if field in OVER else x for field, x in values.items())


def curves(backend: Backend, measure: str, over: str) -> dict[str, list[tuple[float, ...]]]:
    """Return what a panel shows.

    Args:
        backend: with rows that differ in the x axis and the implementation alone.
        measure: a column, one of `MEASURES`.
        over: the field of the x axis.

    Returns:
        By implementation, in order of x: (x, value), or (x, median, minimum, maximum) of a time.
    """
    found: dict[str, list[tuple[float, ...]]] = {}
    for row in backend.rows:
        if measure in row:
            value = row[measure]
            numbers = read_spread(value) if isinstance(value, str) else (value,)
            found.setdefault(row["form"], []).append((row[over], *numbers))
    return {form: sorted(points) for form, points in found.items()}


def _figure(backends: Sequence[Backend], measures: Sequence[str], over: str) -> bytes:
    """Draw all panels; those of a column have the same axes."""
    figure = Figure(
        figsize=(3.1 * len(measures), 2.8 * len(backends) + 0.5), dpi=DPI, layout="constrained"
    )
    parts = figure.subfigures(len(backends), squeeze=False)[:, 0]
    forms = dict.fromkeys(row["form"] for backend in backends for row in backend.rows)
    colors = {form: f"C{number}" for number, form in enumerate(forms)}
    first: dict[str, Axes] = {}
    for backend, part in zip(backends, parts, strict=True):
        part.suptitle(backend.label, fontsize="medium", color=QUIET)
        for number, measure in enumerate(measures):
            axes = part.add_subplot(
                1, len(measures), number + 1, sharex=first.get(measure), sharey=first.get(measure)
            )
            first.setdefault(measure, axes)
            _panel(axes, curves(backend, measure, over), colors)
            axes.set_xlabel(OVER[over])
            axes.set_title(MEASURES[measure], fontsize="medium")
    ticks = sorted({row[over] for backend in backends for row in backend.rows})
    for axes in first.values():
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(
        [lines[form] for form in forms if form in lines],
        [form for form in forms if form in lines],
        loc="outside lower center",
        ncols=len(forms),
        frameon=False,
    )
    return png_bytes(figure)


def _panel(
    axes: Axes, shown: Mapping[str, Sequence[tuple[float, ...]]], colors: Mapping[str, str]
) -> None:
    """Draw the curves of a panel, a time with its minimum and maximum."""
    for form, points in shown.items():
        x, y, *bounds = zip(*points, strict=True)
        axes.plot(x, y, marker="o", markersize=4, color=colors[form], label=form)
        if bounds:
            axes.vlines(x, *bounds, color=colors[form], linewidth=1)
    if not shown:
        axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=QUIET)
