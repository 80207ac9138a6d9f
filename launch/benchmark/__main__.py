"""Measure speed: `ssa-jax benchmark WHAT [options]`.

`spatial_conv`, `train_step` and `inference` need no data and compare with PyTorch where it is
installed (`pip install torch`); `input` takes a configuration as `train` does, and `pseudo_labels`
the workdir of a trained network. What is compared is measured in turns in one run; a figure is the
median [minimum, maximum]. Results are also written to the folder `--out`.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from launch import cli
from launch.benchmark import input_rate, network, pseudo_labels, spatial_conv


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
    own.add_argument(
        "--repeats", type=cli.positive_int, default=9, help="times to measure each [9]"
    )
    own.add_argument(
        "--out", type=cli.local_path, default=Path("benchmarks"), help="folder [benchmarks]"
    )
    KINDS[chosen.what](own, arguments[1:])


def _spatial_conv(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    spatial_conv.add_options(parser)
    spatial_conv.measure(parser.parse_args(arguments))


def _network(parser: argparse.ArgumentParser, arguments: list[str], *, training: bool) -> None:
    network.add_options(parser, training=training)
    network.measure(parser.parse_args(arguments), training=training)


def _input(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    parser.add_argument(
        "--steps", type=cli.positive_int, default=20, help="of each measurement [20]"
    )
    options, settings = cli.parse_with_settings(parser, arguments)
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
    "spatial_conv": _spatial_conv,
    "train_step": partial(_network, training=True),
    "inference": partial(_network, training=False),
    "input": _input,
    "pseudo_labels": _pseudo_labels,
}

if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
