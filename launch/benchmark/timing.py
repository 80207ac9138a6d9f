"""Clocks: several things measured in turns, and what the machine can do at most."""

import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch.command import keep_memory

Run = Callable[[], Any]
MATMUL_SIDE = 2048
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
    for run in runs.values():
        for _ in range(warm_up):
            run()
    seconds = [[_seconds(run) for run in runs.values()] for _ in range(repeats)]
    return dict(zip(runs, np.array(seconds).T, strict=True))


def in_turns_apart(
    makers: Mapping[str, Callable[[], Run]], repeats: int, warm_up: int = 2
) -> dict[str, np.ndarray]:
    """`in_turns`, each run in a process of its own, made there by a function that pickles.

    Two frameworks in one process share a heap and a set of threads, and slow each other down. All
    processes keep their memory (see `command.keep_memory`); one works while the others sleep.

    Raises:
      RuntimeError: a process ended; its own traceback is on standard error.
    """
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        runs = {}
        for name, maker in makers.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, maker), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.terminate)
            runs[name] = _Remote(name, ours)
        for remote in runs.values():
            for _ in range(warm_up):
                remote()
        seconds = [[remote() for remote in runs.values()] for _ in range(repeats)]
    return dict(zip(runs, np.array(seconds).T, strict=True))


class _Remote:
    """Seconds of a run in another process."""

    def __init__(self, name: str, connection: Connection) -> None:
        self._name = name
        self._connection = connection

    def __call__(self) -> float:
        try:
            self._connection.send(True)
            return float(self._connection.recv())
        except (EOFError, OSError) as error:
            raise RuntimeError(f"{self._name}: its process ended, see above") from error


def _serve(connection: Connection, maker: Callable[[], Run]) -> None:
    """Time the run whenever asked, until the other side is gone.

    A first run is not counted: it meets caches that another process filled, whose threads may not
    sleep yet.
    """
    keep_memory()
    run = maker()
    while connection.recv():
        run()
        connection.send(_seconds(run))


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
    """What ran, and its measured ceilings: GFLOP/s of a float32 matmul, GB/s of a copy."""
    a = jnp.ones((MATMUL_SIDE, MATMUL_SIDE), jnp.float32)
    b = jnp.ones(COPY_BYTES // 4, jnp.float32)
    multiply, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    seconds = in_turns(
        {
            "matmul": lambda: multiply(a, a).block_until_ready(),
            "copy": lambda: copy(b).block_until_ready(),
        },
        repeats,
    )
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "matmul_gflops": 2 * MATMUL_SIDE**3 / float(np.median(seconds["matmul"])) / 1e9,
        "copy_gb_per_s": 2 * COPY_BYTES / float(np.median(seconds["copy"])) / 1e9,
    }


def _processor() -> str:
    """Its name where Linux tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2] for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor()
