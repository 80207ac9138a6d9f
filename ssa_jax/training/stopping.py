"""How a run stops when it is told to: SIGTERM, as from a scheduler, or Ctrl-C.

A training stops after the step that it does, a validation after the slice. Of several processes JAX
watches for SIGTERM, and all stop at the same place, whichever received it.
"""

import itertools
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

from ssa_jax.training.distributed import gathered

T = TypeVar("T")
STOPPING = "Stopping after the step, slice or compilation under way; Ctrl-C stops at once."
# Numbers of this process's looks at JAX's point to stop at, through all that it does. After a
# signal JAX stops at the number after the highest so far, so that none may be left out: with steps,
# a signal before the first one of a resumed training would never be acted on.
_LOOKS = itertools.count(1)


class Interrupted(Exception):
    """The run was interrupted; what is to be kept is saved."""


@contextmanager
def stop_flag() -> Iterator[Callable[[int], bool]]:
    """Yield a function that returns whether SIGTERM or Ctrl-C was received, given the step.

    A second Ctrl-C interrupts at once.
    """
    if jax.process_count() > 1:
        yield lambda step: _agreed()
        return
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        if not received:
            print(STOPPING, file=sys.stderr, flush=True)
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda step: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def until_stopped(
    items: Iterable[T], count: int, stop_requested: Callable[[], bool] | None = None
) -> Iterator[T]:
    """Yield items until this run is told to stop.

    All of several processes call this at the same place of it.

    Args:
        items: of this process.
        count: number of them; the other processes may have more or fewer.
        stop_requested: within `stop_flag`, whose function it asks. None elsewhere, where a signal
            interrupts a single process itself.

    Raises:
        Interrupted: a process received the signal; raised in all after equally many items, where
            they have as many.
    """
    stop_requested = stop_requested or _agreed
    left = iter(items)
    for _ in range(max(gathered(count))):
        if stop_requested():
            raise Interrupted("Stopped; the same command goes on from there.")
        yield from itertools.islice(left, 1)
    yield from left  # nothing, but what makes the items comes to its end


def _agreed() -> bool:
    """Return whether all of several processes are to stop here."""
    if jax.process_count() == 1:
        return False
    return bool(multihost_utils.reached_preemption_sync_point(next(_LOOKS)))
