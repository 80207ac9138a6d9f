"""Calls in turns, or side by side in worker processes that a stopped main process stops too."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

from ssa_jax.ops.tuning import for_backend

SECONDS_BETWEEN_SIGNALS = 0.5

T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)


def made(
    calls: Mapping[Key, Callable[[], T]], jobs: int, *, prepare: Callable[[], Any]
) -> Iterator[tuple[Key, T]]:
    """Make calls, the first ones first, and yield their results as they come.

    Worker processes share the accelerators; on a CPU they divide its cores. The first error ends
    the others: each gets a SIGTERM, on which a training saves its state. So does an interrupt.

    Args:
        calls: by key; with several jobs they and what they return can be pickled.
        jobs: worker processes; with one the calls are made in this process, in turns.
        prepare: called in each worker before its first call; can be pickled.

    Yields:
        A call's key and its result.

    Raises:
        Exception: of the first call that raised.
    """
    if jobs == 1:
        yield from ((key, call()) for key, call in calls.items())
        return
    with _workers(jobs, prepare) as pool:
        keys = {pool.submit(call): key for key, call in calls.items()}
        for future in as_completed(keys):
            yield keys[future], future.result()


@contextmanager
def _workers(jobs: int, prepare: Callable[[], Any]) -> Iterator[ProcessPoolExecutor]:
    """Start worker processes, and end them at the end, whatever they do."""
    context = multiprocessing.get_context("spawn")
    cores: Any = context.SimpleQueue()
    for part in _parts_of_cores(jobs):
        cores.put(part)
    pool = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(cores, prepare))
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        while workers := multiprocessing.active_children():  # again once a training has saved
            for worker in workers:
                worker.terminate()
            workers[0].join(SECONDS_BETWEEN_SIGNALS)


def _parts_of_cores(jobs: int) -> list[set[int]]:
    """Return the cores of each worker; all of them where an accelerator computes."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if for_backend().asynchronous or jobs > len(cores):
        return [set(cores)] * jobs
    return [set(cores[number::jobs]) for number in range(jobs)]


def _begin(cores: Any, prepare: Callable[[], Any]) -> None:
    """Prepare a worker; Ctrl-C is the main process's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own = cores.get()
    if own:
        os.sched_setaffinity(0, own)
    prepare()
