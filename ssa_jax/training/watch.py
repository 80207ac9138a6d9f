"""What ends several processes when one of them hangs, with a message that names it.

One that dies is named by JAX, which ends the others, see `distributed.HEARTBEAT_SECONDS`.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import jax
from jax._src.distributed import global_state  # JAX has no public door to its key-value store

from ssa_jax.training.distributed import connected

HANG_SECONDS = 900  # without progress after which the processes end
POST_SECONDS = 2.0  # between two looks at what this process does
T = TypeVar("T")
KEY = "ssa_jax/doing"
READING, COMPUTING, VALIDATING = range(3)
TEXTS = ("reads slices for step", "computes step", "validates or saves after step")
FAILED = 1  # exit status


class Doing(NamedTuple):
    """What a process does.

    Attributes:
        step: of the training.
        what: READING, COMPUTING or VALIDATING, in which order a step is done.
        part: number of the parts of it that are done, such as slices.
    """

    step: int
    what: int
    part: int = 0


class Watch:
    """Follows what each process does, and ends this one where it gets no further.

    All do the same steps and wait for each other in each, so that the one that hangs is behind.
    """

    def __init__(self) -> None:
        self._now: Doing | None = None
        self._first: int | None = None

    def doing(self, step: int, what: int) -> None:
        """Note what the process begins.

        Args:
            step: of the training.
            what: see `Doing`.
        """
        if self._first is None:
            self._first = step
        self._now = Doing(step, what)

    def parts(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items, such as slices, each of which is progress in what the process does.

        Args:
            items: any.
        """
        for item in items:
            yield item
            if self._now is not None:
                self._now = self._now._replace(part=self._now.part + 1)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch during the block, where there are several processes.

        The first step is left out, because it compiles.
        """
        if not connected():
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._follow, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _follow(self, ended: threading.Event) -> None:
        """Post what this process does for the others; end it when that stays the same."""
        seen, since = None, time.monotonic()
        while not ended.wait(POST_SECONDS):
            now = self._now
            if now != seen:
                seen, since = now, time.monotonic()
                if now is not None:
                    text = f"{now.step} {now.what}"
                    key = f"{KEY}/{jax.process_index()}"
                    _store().key_value_set(key, text, allow_overwrite=True)
            elif now is None or now.step == self._first:
                since = time.monotonic()
            elif time.monotonic() - since > HANG_SECONDS:
                _end(now)


def _store() -> Any:
    """Return JAX's key-value store, which the connected processes share."""
    return global_state.client


def _end(mine: Doing) -> None:
    """Say what each process does and which of them are behind, and end this one."""
    posted = {
        int(key.rpartition("/")[2]): Doing(*map(int, value.split()))
        for key, value in _store().key_value_dir_get(KEY)
    }
    if jax.process_index() == 0:
        print(f"error: {hang_message(posted)}", file=sys.stderr, flush=True)
    if mine[:2] == min(posted.values())[:2]:
        faulthandler.dump_traceback(sys.stderr)
    if jax.process_index() == 0:  # without it the others end at once, before they have their say
        time.sleep(3 * POST_SECONDS)
    os._exit(FAILED)


def hang_message(posted: dict[int, Doing]) -> str:
    """Compose a message that names the processes which hold up the others.

    Args:
        posted: what each process does, by its number.
    """
    behind, ahead = min(posted.values()), max(posted.values())
    text = f"no progress for {HANG_SECONDS:g} s: "
    if behind == ahead:
        return f"{text}every process {TEXTS[behind.what]} {behind.step}; all end"
    late = [number for number, doing in posted.items() if doing == behind]
    names = ", ".join(map(str, sorted(late)))
    return (
        f"{text}process {names} {TEXTS[behind.what]} {behind.step} while others wait for it "
        f"({TEXTS[ahead.what]} {ahead.step}); all end"
    )
