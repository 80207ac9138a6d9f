"""Compile for TPUs and GPUs without one: `ssa-jax compile --config C --topology v5e:4x4 h100 ...`.

Compiles the training step and prediction for one chip of each topology with libtpu (extra `tpu`) or
XLA's CUDA compiler (extra `cuda`), and prints whether they fit in its memory, what they compute,
move and send, and the time that this takes at best by the chip's data sheet: a prediction, not a
measurement. A compilation takes minutes, which Ctrl-C waits for. With --out FILE.json the results
stay, and what is there is not compiled again; --layers lists the memory traffic by layer.
"""

import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path

from input_pipeline.files import write_json, write_text
from input_pipeline.verified import read_signed, signed
from launch import cli, configuration
from ssa_jax.evaluation.text_table import format_rows, markdown_table
from ssa_jax.experiment.ahead_of_time import PROGRAMS, Report, trace_for
from ssa_jax.experiment.compiled import compile_anew

HEADER = (
    "topology", "chips", "program", "px", "batch", "memory GB", "TFLOP", "traffic GB",
    "least GB", "collectives", "MB sent", "arithmetic ms", "memory ms", "network ms", "images/s",
    "balanced batch",
)  # fmt: skip


def main(arguments: list[str]) -> None:
    """Read the flags, compile every program and print a row for each."""
    parser = cli.make_parser("compile", __doc__)
    parser.add_argument(
        "--topology",
        nargs="+",
        required=True,
        help="v5e:2x2 to v5e:16x16, v6e:2x2, v5p:2x2x1, a100, h100, h200, h100:8, ...",
    )
    parser.add_argument("--batch", type=cli.positive_int, default=8, help="slices a chip [8]")
    parser.add_argument(
        "--programs",
        nargs="+",
        choices=PROGRAMS,
        default=list(PROGRAMS),
        help="which programs to compile [both]",
    )
    parser.add_argument("--layers", action="store_true", help="list the traffic by layer")
    parser.add_argument(
        "--out", type=cli.local_path, metavar="FILE.json", help="keeps results; FILE.md beside it"
    )
    options, settings = configuration.parse_with_settings(parser, arguments)
    if options.out and (options.out.suffix != ".json" or not options.out.parent.is_dir()):
        parser.error(f"--out {options.out}: expected a .json file in a folder that is there")
    kept = _kept(options.out) if options.out else {}
    reports = []
    for topology in options.topology:
        for program in options.programs:
            traced = trace_for(settings, topology, program, options.batch)
            key = traced.report.sha256
            if key not in kept:
                print(f"{topology}: compiling the {program} ...", file=sys.stderr, flush=True)
                compile_anew()  # JAX cannot read a GPU's program from its cache without one
                kept[key] = traced.compile()
                if options.out:
                    _keep(options.out, kept.values())
            reports.append(kept[key])
    print("\n".join(format_rows([HEADER, *map(cells, reports)])))
    for report in reports:
        print("".join(f"\n{line}" for line in remarks(report, layers=options.layers)))


def cells(report: Report) -> tuple[str, ...]:
    """Format a report as a row below `HEADER`.

    Args:
        report: of a program.
    """
    start = (report.topology, str(report.chips), report.program, str(report.size))
    if report.memory_gb is None:
        return (*start, str(report.batch), "too much", *[""] * (len(HEADER) - 6))
    sent = sum(size for _, size in report.collectives.values()) / 1e6
    balanced = report.balanced_batch
    return (
        *start,
        str(report.batch),
        f"{report.memory_gb:.2f}",
        f"{report.teraflops:.3f}",
        f"{report.traffic_gb:.2f}",
        f"{report.least_gb:.2f}",
        str(sum(number for number, _ in report.collectives.values())),
        f"{sent:.1f}",
        f"{report.arithmetic_ms:.2f}",
        f"{report.memory_ms:.2f}",
        f"{report.network_ms:.2f}",
        f"{report.images_per_second:.0f}",
        "never" if balanced is None else f"{balanced:.0f}",
    )


def remarks(report: Report, *, layers: bool) -> list[str]:
    """Say in words what a row leaves out.

    Args:
        report: of a program.
        layers: whether the traffic is listed by layer.
    """
    name = f"{report.topology}, {report.program}, {report.size} px, {report.batch} slices a chip"
    if report.memory_gb is None:
        return [f"{name}: does not fit. {report.doubt}"]
    kinds = ", ".join(
        f"{number} {kind} ({size / 1e6:.1f} MB)"
        for kind, (number, size) in report.collectives.items()
    )
    lines = [
        f"{name} ({report.dtype}): {report.predicted_ms:.1f} ms predicted, compiled in "
        f"{report.seconds:.0f} s; {report.started} operations started; {kinds or 'nothing sent'}"
    ]
    if report.xla_gb is not None:
        lines[0] += f"; XLA counts {report.xla_gb:.2f} GB"
    if layers:
        rows = [("layer", "MB", "least MB")]
        for layer in {**report.layers, **report.least}:
            moved, least = report.layers.get(layer, 0), report.least.get(layer, 0)
            rows.append((layer, f"{moved / 1e6:.0f}", f"{least / 1e6:.0f}"))
        lines += [f"  {line}" for line in format_rows(rows)]
    return lines


def _kept(path: Path) -> dict[str, Report]:
    """Read the results of a file by the hash of the program; none where it is missing."""
    if not path.exists():
        return {}
    rows = read_signed(path, "remove it or name another --out")
    return {sha256: Report(**row) for sha256, row in rows.items()}


def _keep(path: Path, reports: Iterable[Report]) -> None:
    """Write the results, and as a Markdown table beside them."""
    rows = list(reports)
    write_json(path, signed({report.sha256: dataclasses.asdict(report) for report in rows}))
    table = markdown_table([HEADER, *map(cells, rows)])
    write_text(path.with_suffix(".md"), "\n".join(table) + "\n")


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
