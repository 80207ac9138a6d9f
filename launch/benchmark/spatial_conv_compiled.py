"""Programs of the spatial convolution for TPUs and GPUs that are not at hand: not run."""

import argparse
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from launch.benchmark import results
from launch.benchmark.spatial_conv import Case, cases, compile_with_facts, implementations, work
from launch.benchmark.timing import identity
from ssa_jax.experiment.chips import devices_of, least_ms
from ssa_jax.experiment.compiled import compile_anew
from ssa_jax.experiment.hlo import Program
from ssa_jax.ops import tuning
from ssa_jax.ops.spatial_conv import PASSES

NAME = "spatial_conv_compiled"  # of the files
COMPILED = "Compiled for chips that are not at hand"  # title of the table


def measure(options: argparse.Namespace) -> None:
    """Compile every case for a chip of each topology; write `spatial_conv_compiled.json` and `.md`.

    Args:
        options: see `spatial_conv.add_options`, with `out`.

    Raises:
        ValueError: the compiler is missing, or an unknown topology.
    """
    compile_anew()  # a program in the cache is of no use: reading it needs the chip
    chips = {topology: devices_of(topology)[0] for topology in options.topology}
    found = results.Results(options.out, NAME, identity, resume=options.resume)
    for topology, chip in chips.items():
        for case in cases(options):
            columns = {"topology": topology, **case.columns}
            if not found.has(COMPILED, columns):
                found.add(COMPILED, [columns | row for row in _programs(case, chip, options)])


def _programs(case: Case, chip: Any, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Compile the implementations in one case for a chip; yield a row for each."""
    placed = NamedSharding(Mesh(np.array([chip]), ("chip",)), PartitionSpec())
    x, kernel = (
        jax.ShapeDtypeStruct(shape, case.dtype, sharding=placed)
        for shape in ((*case.shape, case.channels), (case.size, case.channels, case.channels))
    )
    arguments = x, {name: kernel for name, _, _ in PASSES}, x
    operations = work(case).operations
    for name, function in implementations(case.direction, options).items():
        with tuning.compiling_for(chip.platform):
            compiled, facts = compile_with_facts(function, arguments)
        traffic = sum(Program(compiled.as_text()).traffic().values())
        arithmetic, moving = least_ms(chip.device_kind, operations, traffic)
        yield {
            "form": name,
            **facts,
            "code MB": compiled.memory_analysis().generated_code_size_in_bytes / 1e6,
            "GFLOP": operations / 1e9,
            "traffic MB": traffic / 1e6,
            "arithmetic ms": arithmetic,
            "memory ms": moving,
        }
