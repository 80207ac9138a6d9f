"""Progress on standard error: a bar on a terminal, else a line now and then."""

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

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
    return nullcontext(_Lines(total, initial, what))


class _Lines:
    """Progress as a line every thirty seconds; nothing is printed of what takes less."""

    def __init__(self, total: int, initial: int, what: str | None) -> None:
        self.n = initial
        self._total = total
        self._label = f"{what}: " if what else ""
        self._text = ""
        self._start = self._last = time.monotonic()

    def update(self, n: int = 1) -> None:
        self.n += n
        now = time.monotonic()
        if now - self._last < SECONDS:
            return
        self._last = now
        done = f"{self._label}{self.n} of {self._total} steps after {now - self._start:.0f} s"
        print(f"{done}{self._text}", file=sys.stderr, flush=True)

    def set_postfix_str(self, s: str = "") -> None:
        self._text = f", {s}" if s else ""
