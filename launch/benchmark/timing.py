"""Clocks: several things measured in turns, and what the machine can do at most."""

import importlib.util
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
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
SECONDS_TO_END = 10


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
def apart(makers: Mapping[str, Callable[[], Mapping[str, Run]]]) -> Iterator[dict[str, Clock]]:
    """Clocks of runs in processes of their own, each made there by a function that pickles.

    Two frameworks in one process share a heap and a set of threads, and slow each other down. All
    processes keep their memory (see `command.keep_memory`); one works while the others sleep.

    Args:
      makers: by a name for messages; what a maker makes comes by the names of the runs.

    Raises:
      RuntimeError: a process ended; its own traceback is on standard error.
    """
    with ExitStack() as stack:
        processes = {label: stack.enter_context(_process(maker)) for label, maker in makers.items()}
        clocks: dict[str, Clock] = {}
        for label, connection in processes.items():
            with _told_if_ended(label):
                names = connection.recv()
            clocks |= {name: partial(_ask, label, connection, name) for name in names}
        yield clocks


@contextmanager
def _process(maker: Callable[[], Mapping[str, Run]]) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, maker), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        with suppress(OSError):
            ours.send(None)  # so that it ends by itself, and what it has started too
        process.join(SECONDS_TO_END)
        process.terminate()


@contextmanager
def _told_if_ended(label: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise RuntimeError(f"{label}: its process ended, see above") from error


def _ask(label: str, connection: Connection, name: str) -> float:
    """Seconds of a run in another process."""
    with _told_if_ended(label):
        connection.send(name)
        return float(connection.recv())


def _serve(connection: Connection, maker: Callable[[], Mapping[str, Run]]) -> None:
    """Make the runs, tell their names, and time one whenever asked, until asked for None."""
    keep_memory()
    runs = maker()
    connection.send(list(runs))
    for name in iter(connection.recv, None):
        connection.send(second_run(runs[name]))


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def jitted(function: Callable[..., Any], *arguments: Any) -> Run:
    """The function, compiled at its first run, on arguments that lie on the device."""
    compiled = jax.jit(function)
    placed = jax.device_put(arguments)
    return lambda: jax.block_until_ready(compiled(*placed))


def torch_installed() -> bool:
    """Whether there is a PyTorch to compare with; it is not imported for that."""
    return importlib.util.find_spec("torch") is not None


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
    factors = {dtype: square.astype(dtype) for dtype in ("float32", "bfloat16")}
    runs = {dtype: jitted(jnp.matmul, a, a) for dtype, a in factors.items()}
    runs["copy"] = jitted(lambda x: x + 1, jnp.ones(COPY_BYTES // 4, jnp.float32))
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


def _processor() -> str:
    """Its name where Linux tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2] for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor()
