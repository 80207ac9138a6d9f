"""The section of docs/performance.md on each measured machine, from the files of the benchmarks."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.files import write_text
from input_pipeline.verified import read_signed
from launch.benchmark import (
    compile_time,
    golden,
    input_rate,
    network,
    results,
    spatial_conv,
    spatial_conv_compiled,
    to_dsc,
)
from launch.benchmark.timing import read_spread

Row = Mapping[str, Any]
RECORD, FILE, PLOT = "all.json", "report.md", "spatial_conv_machines.png"
QUICK_SUFFIX = "-quick"  # of the folder of a run with tiny sizes
TRIED = "**Tiny sizes, to try the run itself: the figures say nothing of the machine.**"
NETWORK_CASE = ("px", "batch", "dtype")
THEIRS = "PyTorch"  # with this begin the names of what is compared


def sections(folders: Sequence[Path]) -> str:
    """Compose a section for each machine, and one of the spatial convolution side by side.

    Args:
        folders: of results, each of one machine: one that `all` made, or any `--out`.

    Raises:
        ValueError: a folder has no results, or a file is damaged.
        OSError: a file cannot be read.
    """
    machines = [_Machine(folder) for folder in folders]
    parts = [_section(machine) for machine in machines]
    if len(machines) > 1:
        parts.append(_side_by_side(machines))
    return "\n".join(filter(None, parts))


def save(out: Path, folders: Sequence[Path], text: str) -> None:
    """Write `report.md`, and for several machines the plot of their spatial convolutions.

    Args:
        out: folder to write to.
        folders: see `sections`.
        text: of `sections`.

    Raises:
        OSError: a file cannot be written.
    """
    write_text(out / FILE, text)
    if len(folders) > 1:
        bars = _bars([_Machine(folder) for folder in folders])
        if bars:
            results.plot_bars(out / PLOT, bars, "ms, forward and backward")


class _Machine:
    """The results of one machine.

    Args:
        folder: searched for results, with its folders.

    Attributes:
        about: the machine, see `timing.identity`, with its ceilings where they were measured.
        stages: what became of the stages of a run of `all`, by name.
        label: of its columns and bars, the folder's name.
    """

    def __init__(self, folder: Path) -> None:
        self.label = folder.absolute().name
        self.stages = _stages(folder / RECORD)
        self._tables: dict[tuple[str, str], list[list[Row]]] = defaultdict(list)
        self.about: dict[str, Any] = {}
        days: list[str] = []
        order = {name: number for number, name in enumerate(self.stages)}
        for path in sorted(files(folder), key=lambda p: order.get(p.parent.name, len(order))):
            tables = results.read(path)
            about = tables.pop("machine")
            days.append(about.pop("date"))
            self.about = about | self.about  # the first of several ceilings counts
            for title, rows in tables.items():
                self._tables[path.stem, title].append(rows)
        if not self.about:
            raise ValueError(f"{folder}: no results of `ssa-jax benchmark` in it")
        self.about["date"] = max(days)

    def rows(self, kind: str, title: str) -> list[Row]:
        """Return the rows of a table, from all files of a kind."""
        return [row for rows in self._tables[kind, title] for row in rows]

    def cases(
        self, kind: str, title: str, columns: Sequence[str]
    ) -> list[tuple[dict[str, Any], list[Row]]]:
        """Group the rows of a table by the values of some columns.

        Rows of two files stay apart, as they were not measured in turns.
        """
        found = []
        for rows in self._tables[kind, title]:
            groups: dict[tuple[Any, ...], list[Row]] = {}
            for row in rows:
                groups.setdefault(tuple(row[column] for column in columns), []).append(row)
            found += [(dict(zip(columns, key, strict=True)), rows) for key, rows in groups.items()]
        return found

    @property
    def name(self) -> str:
        """Name of the device, or of the processor where that computes."""
        found = self.about["processor"] if self.about["device"] == "cpu" else self.about["device"]
        return str(found)


def files(folder: Path) -> list[Path]:
    """Return the files of results in a folder and its folders.

    Args:
        folder: of one machine.
    """
    return sorted(path for name in KINDS for path in folder.rglob(f"{name}.json"))


def _stages(record: Path) -> dict[str, Any]:
    """Return what became of the stages of a run of `all`; nothing where there was none."""
    if not record.exists():
        return {}
    stages: dict[str, Any] = read_signed(record, "remove it and measure again")["stages"]
    return stages


def _section(machine: _Machine) -> str:
    """Compose the section of a machine."""
    about = machine.about
    torch = f"PyTorch {about['torch']}" if about["torch"] else "without PyTorch"
    parts = [
        f"## {machine.name}, {about['date']}",
        *([TRIED] if machine.label.endswith(QUICK_SUFFIX) else []),
        f"{about['cores']} cores of {about['processor']}; Python {about['python']}, JAX "
        f"{about['jax']}, {torch}.{_ceilings(about)}",
        _missing(machine.stages),
        *(table(machine) for table in KINDS.values()),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _ceilings(about: Row) -> str:
    """Say what the machine reaches, where that was measured."""
    if "copy_gb_per_s" not in about:
        return ""
    return (
        f" A large matmul reaches {about['matmul_gflops_float32'] / 1e3:.3g} TFLOP/s in float32 "
        f"and {about['matmul_gflops_bfloat16'] / 1e3:.3g} in bfloat16, a copy "
        f"{about['copy_gb_per_s']:,.0f} GB/s."
    )


def _missing(stages: Mapping[str, Any]) -> str:
    """List the stages that were not done, with the reason."""
    lines = [
        f"- `{name}` ({stage['answers']}): {stage['state']}; {stage['note']}"
        for name, stage in stages.items()
        if stage["state"] != "done"
    ]
    return "\n".join(["Not measured, not to the end, or with faults:", "", *lines]) if lines else ""


def _compiled(machine: _Machine) -> str:
    """Compose the table of compile times: of the programs alone, and of the measured networks."""
    alone = machine.rows("compile_time", compile_time.COMPILED)
    parts = [_titled("Compile time of each program of a training, s", alone)]
    for kind in ("train_step", "inference"):
        rows = machine.rows(kind, network.FIRST)
        title = f"First run of what is compared, which compiles, {kind.replace('_', ' ')}"
        parts.append(_titled(title, rows))
    return "\n\n".join(filter(None, parts))


def _golden(machine: _Machine) -> str:
    """Compose the table of the golden tests."""
    return _titled("Against the authors' numbers", machine.rows("golden", golden.GOLDEN))


def _network(kind: str, what: str) -> Callable[[_Machine], str]:
    """Return the composer of a table of the network beside PyTorch's best variant."""

    def table(machine: _Machine) -> str:
        cases = machine.cases(kind, network.SPEED, NETWORK_CASE)
        compared = [case | _compared(group) for case, group in cases]
        parts = machine.rows(kind, network.PARTS)
        tables = (
            _titled(f"{what}, images a second", compared),
            _titled(f"{what} by part, each compiled and timed alone, ms", parts),
        )
        return "\n\n".join(filter(None, tables))

    return table


def _compared(group: Sequence[Row]) -> dict[str, Any]:
    """Reduce the rows of one case to ours, PyTorch's best, and the ratio."""
    ours = next(row for row in group if not row["what"].startswith(THEIRS))
    theirs = [row for row in group if row["what"].startswith(THEIRS)]
    best = max(theirs, key=lambda row: read_spread(row["images/s"]), default=None)
    return {
        "ssa_jax": ours["images/s"],
        "PyTorch's best": best and f"{best['images/s']} ({best['what']})",
        "ratio": ours["this / PyTorch's best"],
        "share of matmul ceiling": ours["share of matmul ceiling"],
    }


def _spatial(machine: _Machine) -> str:
    """Compose the table of the spatial convolution: its forms beside each other."""
    rows: list[Row] = []
    forms = dict.fromkeys(row["form"] for row in machine.rows("spatial_conv", spatial_conv.SPEED))
    for case, group in machine.cases("spatial_conv", spatial_conv.SPEED, spatial_conv.CASE):
        fastest = _fastest(group)
        ratio = fastest["PyTorch's best / this"]
        taken = {**dict.fromkeys(forms), **{row["form"]: row["ms"] for row in group}}
        rows.append(case | taken | {"fastest": fastest["form"], "PyTorch's best / fastest": ratio})
    compiled = machine.rows("spatial_conv", spatial_conv.COMPILE)
    tables = (
        _titled("Spatial convolution, ms", rows),
        _titled("Spatial convolution: compile time over rows", compiled),
    )
    return "\n\n".join(filter(None, tables))


def _fastest(group: Iterable[Row], *, ours: bool = True) -> Row:
    """Return the row of the fastest form, of ours or of PyTorch's; empty if there is none."""
    chosen = (row for row in group if row["form"].startswith(THEIRS) != ours)
    return min(chosen, key=lambda row: read_spread(row["ms"]), default={})


def _plain(kind: str, title: str, heading: str) -> Callable[[_Machine], str]:
    """Return the composer of a table that is shown as it is."""
    return lambda machine: _titled(heading, machine.rows(kind, title))


KINDS: dict[str, Callable[[_Machine], str]] = {  # by name of the files, in the section's order
    "ceilings": lambda machine: "",
    "train_step": _network("train_step", "Training step"),
    "inference": _network("inference", "Inference"),
    "spatial_conv": _spatial,
    spatial_conv_compiled.NAME: _plain(
        spatial_conv_compiled.NAME,
        spatial_conv_compiled.COMPILED,
        "Spatial convolution, compiled for chips that were not at hand",
    ),
    "golden": _golden,
    "compile_time": _compiled,
    "to_dsc": _plain("to_dsc", to_dsc.REACHED, "From nothing to a network that segments"),
    "input": _plain("input", input_rate.SPEED, "Input"),
}


def _side_by_side(machines: Sequence[_Machine]) -> str:
    """Compose the section that compares the spatial convolution of several machines."""
    cases: dict[tuple[Any, ...], dict[str, Any]] = {}
    for machine in machines:
        for case, group in machine.cases("spatial_conv", spatial_conv.SPEED, spatial_conv.CASE):
            row, fastest = cases.setdefault(tuple(case.values()), dict(case)), _fastest(group)
            # Of several stages with this case the first one counts, which has all forms.
            row.setdefault(f"{machine.label}, ms", f"{fastest['ms']} ({fastest['form']})")
            row.setdefault(f"{machine.label}, PyTorch's / ours", fastest["PyTorch's best / this"])
    table = _titled("The fastest form on each machine", list(cases.values()))
    if not table:
        return ""
    return f"## Spatial convolution by machine\n\n{table}\n\n![Times by machine]({PLOT})\n"


def _bars(machines: Sequence[_Machine]) -> results.Bars:
    """Return the milliseconds forward and backward by bar, ours and PyTorch's, and case."""
    bars: dict[str, dict[str, float]] = {}
    for machine in machines:
        for case, group in machine.cases("spatial_conv", spatial_conv.SPEED, spatial_conv.CASE):
            if case["direction"] != spatial_conv.BOTH:
                continue
            label = f"{case['B x H x W']}\n{case['dtype']}"
            for ours, what in ((True, "ssa_jax"), (False, "PyTorch")):
                if row := _fastest(group, ours=ours):
                    bar = bars.setdefault(f"{machine.label}, {what}", {})
                    bar.setdefault(label, read_spread(row["ms"])[0])
    return bars


def _titled(title: str, rows: Sequence[Row]) -> str:
    """Format a table with its title; nothing without rows."""
    return f"{title}:\n\n{results.markdown(rows)}" if rows else ""
