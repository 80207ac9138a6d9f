"""Results of a benchmark as JSON, Markdown and a plot."""

from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from input_pipeline.files import write_bytes, write_json, write_text
from input_pipeline.verified import read_signed, signed
from ssa_jax.figures.drawing import DPI, png_bytes

Row = Mapping[str, Any]
Curves = Mapping[str, Sequence[tuple[float, float]]]
Bars = Mapping[str, Mapping[str, float]]


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


class Results:
    """The tables of a measurement: `NAME.json` and `NAME.md`, written whenever rows are added.

    What a measurement that is cut short has found so far is kept in this way.

    Args:
        out: folder of the files.
        name: of the files.
        about: describes the machine, see `timing.machine`; called unless that is known.
        resume: go on with the rows of the file, if there is one, instead of starting anew.

    Attributes:
        machine: its description, with the 'date' on which the measurement began.

    Raises:
        ValueError: the file to resume is damaged.
    """

    def __init__(
        self, out: Path, name: str, about: Callable[[], Row], *, resume: bool = False
    ) -> None:
        self._path = out / f"{name}.json"
        kept = read(self._path) if resume and self._path.exists() else {}
        self.machine: dict[str, Any] = kept.pop("machine", None) or {
            **about(),
            "date": date.today().isoformat(),
        }
        self._tables: dict[str, list[Row]] = kept
        self._save()

    def add(self, title: str, rows: Sequence[Row]) -> None:
        """Add rows to a table, write the files and print the rows.

        Args:
            title: of the table.
            rows: values by column.
        """
        self._tables.setdefault(title, []).extend(rows)
        self._save()
        print(f"{markdown(rows)}\n", flush=True)

    def has(self, title: str, case: Row) -> bool:
        """Return whether a table has a row with certain values.

        Args:
            title: of the table.
            case: the values by column.
        """
        return any(case.items() <= row.items() for row in self.rows(title))

    def rows(self, title: str) -> list[Row]:
        """Return the rows of a table.

        Args:
            title: of the table.
        """
        return self._tables.get(title, [])

    def _save(self) -> None:
        write_json(self._path, signed({"machine": self.machine, **self._tables}))
        parts = [markdown([self.machine])]
        parts += [f"**{title}**\n\n{markdown(rows)}" for title, rows in self._tables.items()]
        write_text(self._path.with_suffix(".md"), "\n\n".join(parts) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read a file of `Results`: the 'machine', and the rows of each table by its title.

    Args:
        path: the JSON file.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    return read_signed(path, "remove it and measure again")


def add_resume_flag(parser: ArgumentParser) -> None:
    """Add the flag of a measurement that can go on where it was cut short.

    Args:
        parser: to add it to.
    """
    parser.add_argument(
        "--resume", action="store_true", help="keep what --out has, and measure what is missing"
    )


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


def plot_bars(path: Path, bars: Bars, y_label: str) -> None:
    """Draw a group of bars for each case, one of each name, over a logarithmic y axis.

    Args:
        path: of the PNG file.
        bars: values by case, by name; a name may lack cases.
        y_label: title of the y axis.
    """
    cases = list(dict.fromkeys(case for values in bars.values() for case in values))
    width = 0.8 / len(bars)
    figure = Figure(figsize=(1.2 * max(len(cases), 4), 3.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for number, (name, values) in enumerate(bars.items()):
        places = [cases.index(case) + (number + 0.5) * width - 0.4 for case in values]
        axes.bar(places, list(values.values()), width, label=name)
    axes.set_yscale("log")
    axes.set_xticks(range(len(cases)), cases)
    axes.set_ylabel(y_label)
    figure.legend(loc="outside upper center", frameon=False)
    write_bytes(path, png_bytes(figure))
