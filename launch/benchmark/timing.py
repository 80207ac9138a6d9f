"""Clocks: several things measured in turns, and what the machine can do at most."""

import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch.command import keep_memory

Run = Callable[[], Any]
Clock = Callable[[], float]
MATMUL_SIDE = {"cpu": 2048}
MATMUL_SIDE_OTHERWISE = 8192
COPY_BYTES = 2**28


def in_turns(runs: Mapping[str, Run], repeats: int, warm_up: int = 2) -> dict[str, np.ndarray]:
    """Seconds of each run, measured A B C A B C ..., so that a drifting machine hits all alike.

    Args:
      runs: by name; each returns when its work is done.
      repeats: measurements of each.
      warm_up: runs of each that are not counted.

    Returns:
      `[repeats]` float64 for each name.
    """
    clocks = {name: partial(_seconds, run) for name, run in runs.items()}
    return read_in_turns(clocks, repeats, warm_up)


def read_in_turns(
    clocks: Mapping[str, Clock], repeats: int, warm_up: int = 2
) -> dict[str, np.ndarray]:
    """`in_turns` for runs that time themselves."""
    for clock in clocks.values():
        for _ in range(warm_up):
            clock()
    seconds = [[clock() for clock in clocks.values()] for _ in range(repeats)]
    return dict(zip(clocks, np.array(seconds).T, strict=True))


def second_run(run: Run) -> float:
    """Seconds of a run after one that is not counted.

    The first meets caches that another process filled, whose threads may not sleep yet.
    """
    run()
    return _seconds(run)


@contextmanager
def apart(maker: Callable[[], Mapping[str, Run]]) -> Iterator[dict[str, Clock]]:
    """Clocks of runs in a process of their own, made there by a function that pickles.

    Two frameworks in one process share a heap and a set of threads, and slow each other down. All
    processes keep their memory (see `command.keep_memory`); one works while the others sleep.

    Raises:
      RuntimeError: the process ended; its own traceback is on standard error.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, maker), daemon=True)
    process.start()
    theirs.close()
    try:
        names = _answer(ours, None)
        yield {name: partial(_answer, ours, name) for name in names}
    finally:
        process.terminate()


def _answer(connection: Connection, asked: str | None) -> Any:
    try:
        connection.send(asked)
        return connection.recv()
    except (EOFError, OSError) as error:
        raise RuntimeError("A benchmark's process ended, see above") from error


def _serve(connection: Connection, maker: Callable[[], Mapping[str, Run]]) -> None:
    """Make the runs, tell their names, and time one whenever asked, until terminated."""
    keep_memory()
    connection.recv()
    runs = maker()
    connection.send(list(runs))
    while True:
        connection.send(second_run(runs[connection.recv()]))


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def spread(values: np.ndarray, digits: int = 3) -> str:
    """Median [least, most]."""
    numbers = (np.median(values), values.min(), values.max())
    median, least, most = (f"{value:.{digits}g}" for value in numbers)
    return f"{median} [{least}, {most}]"


def best_of(seconds: Mapping[str, np.ndarray]) -> str:
    """The name with the smallest median."""
    return min(seconds, key=lambda name: float(np.median(seconds[name])))


def machine(repeats: int = 7) -> dict[str, Any]:
    """What ran, and its measured ceilings: GFLOP/s of a matmul by type, GB/s of a copy."""
    side = MATMUL_SIDE.get(jax.default_backend(), MATMUL_SIDE_OTHERWISE)
    square = jax.random.normal(jax.random.key(0), (side, side), jnp.float32)
    b = jnp.ones(COPY_BYTES // 4, jnp.float32)
    multiply, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    factors = {dtype: square.astype(dtype) for dtype in ("float32", "bfloat16")}
    runs: dict[str, Run] = {
        dtype: partial(_finished, multiply, a, a) for dtype, a in factors.items()
    }
    runs["copy"] = partial(_finished, copy, b)
    seconds = {name: float(np.median(taken)) for name, taken in in_turns(runs, repeats).items()}
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
        **{f"matmul_gflops_{dtype}": 2 * side**3 / seconds[dtype] / 1e9 for dtype in factors},
        "copy_gb_per_s": 2 * COPY_BYTES / seconds["copy"] / 1e9,
    }


def _finished(function: Callable[..., jax.Array], *arguments: jax.Array) -> None:
    function(*arguments).block_until_ready()


def _processor() -> str:
    """Its name where Linux tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2] for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor()
