"""How long the programs of a training take to compile, one by one."""

import argparse
import itertools
import os
from collections.abc import Iterator

import jax

from launch.benchmark import network, results
from launch.benchmark.compiling import compiling
from launch.benchmark.timing import Run, identity
from launch.cli import positive_int
from ssa_jax.experiment.factory import DTYPES
from ssa_jax.models.ssa_net import SSANet
from ssa_jax.training.state import init_variables

COMPILED = "Compilation"  # title of the table


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this measurement: sizes, batches and types.

    Args:
        parser: to add them to.
    """
    parser.add_argument(
        "--sizes", nargs="+", type=positive_int, default=[64], help="image sides [64]"
    )
    parser.add_argument(
        "--batches", nargs="+", type=positive_int, default=[2], help="batch sizes [2]"
    )
    parser.add_argument(
        "--dtypes", nargs="+", choices=list(DTYPES), default=["float32"], help="[float32]"
    )
    results.add_resume_flag(parser)


def measure(options: argparse.Namespace) -> None:
    """Compile and run each program once, print, and write `compile_time.json` and `.md`.

    XLA's flags hold for a whole process, so that a comparison of flags takes several runs, with
    XLA_FLAGS set for each; --no-cache has all of them compile anew.

    Args:
        options: see `add_options`, with `out`.
    """
    found = results.Results(options.out, "compile_time", identity, resume=options.resume)
    flags = os.environ.get("XLA_FLAGS", "").strip() or "default"
    for size, batch, dtype in itertools.product(options.sizes, options.batches, options.dtypes):
        case = {"px": size, "batch": batch, "dtype": dtype, "XLA_FLAGS": flags}
        for name, run in _programs(size, batch, dtype):
            if not found.has(COMPILED, case | {"program": name}):
                found.add(COMPILED, [case | {"program": name} | _spent(run)])


def _programs(size: int, batch: int, dtype: str) -> Iterator[tuple[str, Run]]:
    """Yield what a training computes before and in its first step, in that order.

    Each can be run without those before it, whose rows may be there.
    """
    model, data = SSANet(skip="add", dtype=DTYPES[dtype]), network.random_batch(size, batch)
    yield (
        "initial weights",
        lambda: jax.block_until_ready(init_variables(model, jax.random.key(0), network.CHANNELS)),
    )
    variables = network.placed_variables(model)
    made: list[Run] = []

    def place() -> None:
        made.append(network.step_run(model, variables, data, 1))

    yield "optimiser's state, copies to the devices", place
    if not made:
        place()
    yield "training step", made[0]
    yield "inference", network.inference_run(model, variables, data, 1)


def _spent(run: Run) -> dict[str, float]:
    """Run once, and return what that took."""
    with compiling() as spent:
        run()
    return spent
