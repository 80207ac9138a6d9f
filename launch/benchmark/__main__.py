"""Measure speed: `ssa-jax benchmark WHAT [options]`.

`all` measures everything worth knowing about a machine within a time limit, and `report` makes
Markdown of the results of one machine or several; `plot` draws the spatial convolution of several
backends side by side. Each measurement is also to be had alone.
`spatial_conv`, `train_step` and `inference` compare with PyTorch where it is installed
(`pip install torch`); they, `ceilings`, `compile_time` and `golden` (the authors' numbers, from a
checkout) need no data. `input` and `to_dsc` (the time until a DSC is reached) take a configuration
as `train` does, and `pseudo_labels` the workdir of a trained network. What is compared is measured
in turns in one run; a figure is the median [minimum, maximum]. Results are also written to the
folder `--out`, each row when it is there.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from launch import cli, configuration
from launch.benchmark import (
    compile_time,
    everything,
    golden,
    input_rate,
    network,
    plot,
    pseudo_labels,
    report,
    results,
    spatial_conv,
    spatial_conv_compiled,
    timing,
    to_dsc,
)


def main(arguments: list[str]) -> None:
    """Read the name of the measurement and its options, and measure.

    Args:
        arguments: the command line without the program's name.
    """
    # PyTorch's process shares the GPU's memory; this must be set before JAX finds the GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    parser = cli.make_parser("benchmark", __doc__)
    parser.add_argument("what", choices=list(KINDS))
    chosen = parser.parse_args(arguments[:1])
    own = cli.make_parser(f"benchmark {chosen.what}", None)
    if chosen.what in REPEATED:
        own.add_argument(
            "--repeats", type=cli.positive_int, default=9, help="times to measure each [9]"
        )
    if chosen.what != "plot":
        own.add_argument(
            "--out", type=cli.local_path, default=Path("benchmarks"), help="folder [benchmarks]"
        )
    KINDS[chosen.what](own, arguments[1:])


def _all(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    parser.description = (
        "Measure everything within a time limit, what tells most first; the same command goes on "
        "where it stopped. `golden` needs pytest (extra dev)."
    )
    parser.add_argument("--minutes", type=_minutes, required=True, help="time limit of the run")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to try the run; the figures say nothing"
    )
    options = parser.parse_args(arguments)
    everything.measure(options.minutes, options.out, quick=options.quick)


def _minutes(text: str) -> float:
    """Parse a flag's minutes."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; expected minutes, more than 0")
    return minutes


def _report(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    parser.description = (
        f"Print results as Markdown, a section for each machine; writes {report.FILE} to --out too."
    )
    parser.add_argument(
        "folders", nargs="+", type=cli.local_path, metavar="DIR", help="results of one machine"
    )
    options = parser.parse_args(arguments)
    text = report.sections(options.folders)
    report.save(options.out, options.folders, text)
    print(text, end="")


def _plot(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    parser.description = (
        "Draw the spatial convolution's implementations on square maps: a row of panels for each "
        "backend, a column for each measure."
    )
    plot.add_options(parser)
    plot.draw(parser.parse_args(arguments))


def _ceilings(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    options = parser.parse_args(arguments)
    found = results.Results(options.out, "ceilings", partial(timing.machine, options.repeats))
    print(results.markdown([found.machine]))


def _compile_time(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    compile_time.add_options(parser)
    compile_time.measure(parser.parse_args(arguments))


def _golden(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    golden.measure(parser.parse_args(arguments).out)


def _to_dsc(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    parser.add_argument("--dsc", type=float, default=0.5, help="of the validation [0.5]")
    options, settings = configuration.parse_with_settings(parser, arguments)
    to_dsc.measure(settings, options.dsc, options.out)


def _spatial_conv(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    spatial_conv.add_options(parser)
    options = parser.parse_args(arguments)
    measure = spatial_conv_compiled.measure if options.topology else spatial_conv.measure
    measure(options)


def _network(parser: argparse.ArgumentParser, arguments: list[str], *, training: bool) -> None:
    network.add_options(parser, training=training)
    network.measure(parser.parse_args(arguments), training=training)


def _input(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    parser.add_argument(
        "--steps", type=cli.positive_int, default=20, help="of each measurement [20]"
    )
    options, settings = configuration.parse_with_settings(parser, arguments)
    input_rate.measure(settings, options.steps, options.repeats, options.out)


def _pseudo_labels(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    parser.add_argument(
        "--workdir", type=cli.local_path, required=True, help="folder of a trained network"
    )
    parser.add_argument(
        "--slices", type=cli.positive_int, default=64, help="unlabelled slices [64]"
    )
    options = parser.parse_args(arguments)
    pseudo_labels.measure(options.workdir, options.slices, options.repeats, options.out)


KINDS: dict[str, Callable[[argparse.ArgumentParser, list[str]], None]] = {
    "all": _all,
    "report": _report,
    "plot": _plot,
    "ceilings": _ceilings,
    "compile_time": _compile_time,
    "golden": _golden,
    "to_dsc": _to_dsc,
    "spatial_conv": _spatial_conv,
    "train_step": partial(_network, training=True),
    "inference": partial(_network, training=False),
    "input": _input,
    "pseudo_labels": _pseudo_labels,
}

REPEATED = ("ceilings", "spatial_conv", "train_step", "inference", "input", "pseudo_labels")

if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
