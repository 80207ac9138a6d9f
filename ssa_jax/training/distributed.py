"""Several processes that train one network: their start, what they share, and who writes.

A decision that leads to a file or to a collective operation is taken by the main process alone, see
`decided`, so that no two processes go different ways.
"""

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")

AUTO, OFF = "auto", "off"
CONNECT_SECONDS = 300  # that a process waits for the others at the start
HEARTBEAT_SECONDS = 60  # without a sign of life after which a process counts as dead
NOTICE_SECONDS = 6  # that the others take to learn it
# With which JAX's runtime begins the text of an error, of whatever class, here those of a lost
# connection: https://grpc.io/docs/guides/status-codes
STATUS_CODE = re.compile(r"(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): ")


class DecidedElsewhere(ValueError):
    """The main process raised an error, which it prints."""


def start(how: str, processes: int | None = None, process: int | None = None) -> bool:
    """Connect this process with the others; to be called before JAX is used.

    Args:
        how: 'auto' takes what JAX finds out on TPU pods, Kubernetes, Slurm and under Open MPI, and
            is a single process elsewhere; 'off' is a single process; else 'HOST:PORT' of process 0.
        processes: their number, with HOST:PORT.
        process: the number of this one, from 0, with HOST:PORT.

    Returns:
        Whether there are several processes.

    Raises:
        ValueError: HOST:PORT without a number, or a number without HOST:PORT.
        RuntimeError: the others did not connect in time.
    """
    stated = (processes is not None, process is not None)
    if how in (AUTO, OFF):
        if any(stated):
            raise ValueError(
                f"--processes and --process are given with --distributed {how}; expected the "
                "address of process 0, as in --distributed HOST:PORT"
            )
        if how == OFF or not _found_by_jax():
            return False
    else:
        if not all(stated) or not how.rpartition(":")[2].isdecimal() or ":" not in how:
            raise ValueError(
                f"--distributed {how}: expected auto, off, or HOST:PORT with --processes N and "
                "--process I"
            )
        if not 0 <= cast(int, process) < cast(int, processes):
            raise ValueError(f"--process {process}; expected 0 to {cast(int, processes) - 1}")
        _initialize(how, processes, process)
    return jax.process_count() > 1


def _found_by_jax() -> bool:
    """Connect the processes that a cluster has started, if JAX recognises one."""
    try:
        _initialize()
    except ValueError:  # no coordinator is known: JAX recognises no cluster
        return False
    except RuntimeError as error:
        if "before" not in str(error):  # JAX is in use already, as where a program calls a command
            raise
        return False
    return True


def _initialize(
    address: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        address,
        processes,
        process,
        initialization_timeout=CONNECT_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )


def connected() -> bool:
    """Return whether this process is one of several that are connected."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def of_runtime(error: Exception) -> bool:
    """Return whether JAX's runtime raised an error, as where a process has lost another.

    It does so with a ValueError too, where the value of an array is fetched that it failed to
    compute.

    Args:
        error: any.
    """
    return isinstance(error, jax.errors.JaxRuntimeError) or bool(STATUS_CODE.match(str(error)))


def wait_for_the_dead() -> None:
    """After an error wait until JAX would know which process has died.

    It then ends this one with a message that names it. Operations over all processes fail at once
    on a CPU where one has died, without saying which.
    """
    print(
        "error: this process ends; if another has died before it, JAX says within "
        f"{HEARTBEAT_SECONDS} s which",
        file=sys.stderr,
        flush=True,
    )
    time.sleep(HEARTBEAT_SECONDS + NOTICE_SECONDS)


def described() -> str:
    """Say what was found: processes, devices and their kinds."""
    kinds = Counter(device.device_kind for device in jax.devices())
    listed = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    return f"{jax.process_count()} processes, {jax.device_count()} devices: {listed}"


def barrier(name: str) -> None:
    """Wait until every process has called this; a single process returns at once.

    Args:
        name: of the barrier; processes at different ones are an error.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def is_main_process() -> bool:
    """Return whether this process is the one that writes files."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Print a line on standard error, once for all processes.

    Args:
        text: of the line.
    """
    if is_main_process():
        print(text, file=sys.stderr, flush=True)


def decided(function: Callable[[], T]) -> T:
    """Call a function in the main process alone, and return its value in all.

    Args:
        function: returns a value that JSON can hold.

    Raises:
        DecidedElsewhere: in the others, if it raises a ValueError or an OSError in the main one,
            which raises that.
    """
    if jax.process_count() == 1:
        return function()
    error: Exception | None = None
    outcome: dict[str, Any] = {}
    if is_main_process():
        try:
            outcome = {"value": function()}
        except (ValueError, OSError) as raised:
            error, outcome = raised, {"error": str(raised)}
    outcome = gathered(outcome)[0]
    if error is not None:
        raise error
    if "error" in outcome:
        raise DecidedElsewhere(outcome["error"])
    return cast(T, outcome["value"])


def gathered(value: T) -> list[T]:
    """Return the values of all processes, in their order.

    Args:
        value: this one's, that JSON can hold; its floats come back to the bit.
    """
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(data)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]
