"""Progress on standard error: a bar on a terminal, else a line now and then."""

import sys
import threading
import time
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

from tqdm import tqdm

SECONDS = 30.0  # between two lines


class Progress(Protocol):
    """What shows the progress."""

    n: Any  # steps that are done

    def update(self, n: Any = 1) -> Any:
        """Add steps that are done."""

    def set_postfix_str(self, s: str = "") -> Any:
        """Set a text to be shown behind the steps."""


def progress(
    total: int, *, initial: int = 0, quiet: bool = False, what: str | None = None
) -> AbstractContextManager[Progress]:
    """Show the progress of steps: by a bar, or by lines where standard error is not a terminal.

    Args:
        total: number of steps.
        initial: steps that are done already.
        quiet: show nothing.
        what: label before the bar.
    """
    if quiet or sys.stderr.isatty():
        return tqdm(
            total=total, initial=initial, disable=quiet, desc=what, unit="step", dynamic_ncols=True
        )
    return _Lines(total, initial, what)


def duration(seconds: float) -> str:
    """Return a time as people say it: '40 s', '12 min', '3.5 h'.

    Args:
        seconds: of the time.
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


class _Lines:
    """Progress as a line every thirty seconds; nothing is printed of what takes less."""

    def __init__(self, total: int, initial: int, what: str | None) -> None:
        self.n = initial
        self._total = total
        self._label = f"{what}: " if what else ""
        self._text = ""
        self._start = self._last = time.monotonic()
        self._first: tuple[float, int] | None = None  # time and number of the first steps
        self._begun = threading.Event()  # with them, or it has ended

    def __enter__(self) -> Self:
        threading.Thread(target=self._until_begun, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._begun.set()

    def _until_begun(self) -> None:
        """Show that no step is done yet, of which the first may compile for minutes."""
        while not self._begun.wait(SECONDS):
            self._show(time.monotonic())

    def update(self, n: int = 1) -> None:
        self._begun.set()
        self.n += n
        now = time.monotonic()
        self._first = self._first or (now, self.n)
        if now - self._last < SECONDS:
            return
        self._show(now)

    def _show(self, now: float) -> None:
        self._last = now
        done = f"{self._label}{self.n} of {self._total} steps after {now - self._start:.0f} s"
        print(f"{done}{self._left(now)}{self._text}", file=sys.stderr, flush=True)

    def _left(self, now: float) -> str:
        """Estimate the time left by the speed since the first steps, which compile."""
        if self._first is None:
            return ""
        since, done = self._first
        if self.n == done or self.n >= self._total:
            return ""
        return f", about {duration((now - since) / (self.n - done) * (self._total - self.n))} left"

    def set_postfix_str(self, s: str = "") -> None:
        self._text = f", {s}" if s else ""
