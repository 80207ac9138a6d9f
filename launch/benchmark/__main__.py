"""Measure speed: `python -m launch.benchmark WHAT [options]`.

`spatial_conv`, `train_step` and `inference` need no data and compare with PyTorch where it is
installed (`pip install torch`); `input` takes a configuration as `launch.train` does, and
`pseudo_labels` the workdir of a trained network. What is compared is measured in turns in one run;
a figure is the median [least, most]. Results also go to the folder `--out`.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from launch import command
from launch.benchmark import feed, network, pseudo_labels, spatial_conv


def main(arguments: list[str]) -> None:
    """Read what is to be measured, then its own options, and measure."""
    # A GPU's memory is shared with PyTorch's process; set before JAX looks for the GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    parser = argparse.ArgumentParser("launch.benchmark", description=__doc__, allow_abbrev=False)
    parser.add_argument("what", choices=list(KINDS))
    chosen = parser.parse_args(arguments[:1])
    own = argparse.ArgumentParser(f"launch.benchmark {chosen.what}", allow_abbrev=False)
    own.add_argument(
        "--repeats", type=command.positive_int, default=9, help="times to measure each [9]"
    )
    own.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder [benchmarks]")
    KINDS[chosen.what](own, arguments[1:])


def _spatial_conv(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    spatial_conv.add_options(parser)
    spatial_conv.measure(parser.parse_args(arguments))


def _network(parser: argparse.ArgumentParser, arguments: list[str], *, training: bool) -> None:
    network.add_options(parser, training=training)
    network.measure(parser.parse_args(arguments), training=training)


def _input(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    parser.add_argument(
        "--steps", type=command.positive_int, default=20, help="of each measurement [20]"
    )
    options, config = command.parse_with_config(parser, arguments)
    feed.measure(config, options.steps, options.repeats, options.out)


def _pseudo_labels(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a trained network")
    parser.add_argument(
        "--slices", type=command.positive_int, default=64, help="unlabelled slices [64]"
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
    command.run(main, sys.argv[1:])
