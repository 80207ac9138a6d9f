"""Calls made side by side in worker processes, whose results come in the order of the calls."""

import itertools
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T], jobs: int) -> Iterator[R]:
    """Yield what a function returns for each item, in their order.

    No more than `jobs` results wait to be taken. An interrupt or an error lets the calls that run
    come to their end and makes no more.

    Args:
        function: can be pickled, like the items and what it returns.
        items: each is the argument of a call.
        jobs: worker processes; with one the calls are made here, each when its result is taken.

    Raises:
        Exception: of the first call that raised.
    """
    if jobs == 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    remaining = iter(items)
    pool = ProcessPoolExecutor(jobs, context, initializer=_leave_interrupts_to_the_main_process)
    try:
        pending: deque[Future[R]] = deque()
        for item in itertools.islice(remaining, jobs):
            pending.append(pool.submit(function, item))
        while pending:
            result = pending.popleft().result()
            for item in itertools.islice(remaining, 1):
                pending.append(pool.submit(function, item))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_main_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
