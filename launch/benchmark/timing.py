"""Time measurements: several runs in turns, in processes of their own, and the machine's peak."""

import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmark.compiling import compiling
from launch.cli import prepare_jax
from ssa_jax.ops import tuning

Run = Callable[[], Any]
Clock = Callable[[], float]
COPY_BYTES = 2**28
SECONDS_TO_END = 10  # for a process to end by itself


def in_turns(runs: Mapping[str, Run], repeats: int, warm_up: int = 2) -> dict[str, np.ndarray]:
    """Measure runs in turns, A B C A B C ..., so that a drifting machine affects all alike.

    Args:
        runs: by name; each returns when its work is done.
        repeats: measurements of each.
        warm_up: runs of each that are not counted.

    Returns:
        Seconds `[repeats]` float64 of each run, by name.
    """
    clocks = {name: partial(_seconds, run) for name, run in runs.items()}
    return read_in_turns(clocks, repeats, warm_up)


def read_in_turns(
    clocks: Mapping[str, Clock], repeats: int, warm_up: int = 2
) -> dict[str, np.ndarray]:
    """Measure runs that time themselves in turns, see `in_turns`.

    Args:
        clocks: by name; each runs once and returns its seconds.
        repeats: measurements of each.
        warm_up: runs of each that are not counted.

    Returns:
        Seconds `[repeats]` float64 of each run, by name.
    """
    for clock in clocks.values():
        for _ in range(warm_up):
            clock()
    seconds = [[clock() for clock in clocks.values()] for _ in range(repeats)]
    return dict(zip(clocks, np.array(seconds).T, strict=True))


def first_run(run: Run) -> dict[str, float]:
    """Measure the first of all runs, which compiles.

    Args:
        run: returns when its work is done.

    Returns:
        'seconds', and what JAX compiled in it if anything, see `compiling`.
    """
    with compiling() as spent:
        run()
    return spent if spent["programs"] else {"seconds": spent["seconds"]}


def second_run(run: Run) -> float:
    """Measure the second of two runs.

    During the first, caches hold data of another process, whose threads may still be active.

    Args:
        run: returns when its work is done.

    Returns:
        Seconds of the second run.
    """
    run()
    return _seconds(run)


@dataclass(frozen=True)
class RemoteClock:
    """A run in another process: called, it runs there, and returns the seconds.

    Attributes:
        label: of the process, for messages.
        connection: to the process.
        name: of the run.
    """

    label: str
    connection: Connection
    name: str

    def __call__(self) -> float:
        """Measure a run, see `second_run`."""
        return float(self._ask(second_run))

    def first(self) -> dict[str, float]:
        """Measure the first run, see `first_run`."""
        found: dict[str, float] = self._ask(first_run)
        return found

    def _ask(self, measure: Callable[[Run], Any]) -> Any:
        with _naming_process(self.label):
            self.connection.send((measure, self.name))
            return self.connection.recv()


@contextmanager
def in_processes(
    makers: Mapping[str, Callable[[], Mapping[str, Run]]],
) -> Iterator[dict[str, RemoteClock]]:
    """Start a process for each maker of runs, and time the runs there.

    Two frameworks in one process share a heap and a set of threads, and slow each other down. All
    processes keep their memory (see `cli.tune_cpu_allocator`); one works while the others sleep.

    Args:
        makers: functions that can be pickled and return runs by name, by a name for messages.

    Yields:
        Clocks of all runs, by the runs' names.

    Raises:
        RuntimeError: a process ended; its own traceback is on standard error.
    """
    with ExitStack() as stack:
        processes = {label: stack.enter_context(_process(maker)) for label, maker in makers.items()}
        clocks: dict[str, RemoteClock] = {}
        for label, connection in processes.items():
            with _naming_process(label):
                names = connection.recv()
            clocks |= {name: RemoteClock(label, connection, name) for name in names}
        yield clocks


@contextmanager
def _process(maker: Callable[[], Mapping[str, Run]]) -> Iterator[Connection]:
    """Start a process that serves a maker's runs, and end it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, maker), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        with suppress(OSError):
            ours.send(None)  # so that it ends by itself, and ends what it has started
        process.join(SECONDS_TO_END)
        process.terminate()


@contextmanager
def _naming_process(label: str) -> Iterator[None]:
    """Name the process in the error of a broken connection."""
    try:
        yield
    except (EOFError, OSError) as error:
        raise RuntimeError(f"{label}: its process ended, see above") from error


def _serve(connection: Connection, maker: Callable[[], Mapping[str, Run]]) -> None:
    """Send the names of the runs, then each measurement that is asked for, until None."""
    prepare_jax()
    runs = maker()
    connection.send(list(runs))
    for measure, name in iter(connection.recv, None):
        connection.send(measure(runs[name]))


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def jitted(function: Callable[..., Any], *arguments: Any) -> Run:
    """Make a run of a function that is compiled at its first run.

    Args:
        function: of arrays.
        arguments: copied to the device once.
    """
    compiled = jax.jit(function)
    placed = jax.device_put(arguments)
    return lambda: jax.block_until_ready(compiled(*placed))


def torch_installed() -> bool:
    """Return whether PyTorch is installed, without importing it."""
    return importlib.util.find_spec("torch") is not None


def spread(values: np.ndarray, digits: int = 3) -> str:
    """Format values as `median [minimum, maximum]`.

    Args:
        values: of the measurements.
        digits: significant ones.
    """
    numbers = (np.median(values), values.min(), values.max())
    median, least, most = (f"{value:.{digits}g}" for value in numbers)
    return f"{median} [{least}, {most}]"


def read_spread(text: str) -> tuple[float, float, float]:
    """Read median, minimum and maximum from the text of `spread`.

    Args:
        text: such as '2 [1, 4]'.
    """
    median, least, most = (float(part.strip("[,]")) for part in text.split())
    return median, least, most


def best_of(seconds: Mapping[str, np.ndarray]) -> str:
    """Return the name with the smallest median.

    Args:
        seconds: measurements by name.
    """
    return min(seconds, key=lambda name: float(np.median(seconds[name])))


def identity() -> dict[str, Any]:
    """Describe the machine by names and versions, without measuring anything."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "torch": importlib.metadata.version("torch") if torch_installed() else None,
    }


def machine(repeats: int = 7) -> dict[str, Any]:
    """Describe the machine, with its measured peak speeds.

    Args:
        repeats: measurements of each speed.

    Returns:
        What `identity` returns, GFLOP/s of a matmul for each type, and GB/s of a copy.
    """
    side = tuning.for_backend().matmul_side
    square = jax.random.normal(jax.random.key(0), (side, side), jnp.float32)
    factors = {dtype: square.astype(dtype) for dtype in ("float32", "bfloat16")}
    runs = {dtype: jitted(jnp.matmul, a, a) for dtype, a in factors.items()}
    runs["copy"] = jitted(lambda x: x + 1, jnp.ones(COPY_BYTES // 4, jnp.float32))
    seconds = {name: float(np.median(taken)) for name, taken in in_turns(runs, repeats).items()}
    return {
        **identity(),
        **{f"matmul_gflops_{dtype}": 2 * side**3 / seconds[dtype] / 1e9 for dtype in factors},
        "copy_gb_per_s": 2 * COPY_BYTES / seconds["copy"] / 1e9,
    }


def _processor() -> str:
    """Return the processor's name as Linux states it, or else as Python does."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2] for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor()
