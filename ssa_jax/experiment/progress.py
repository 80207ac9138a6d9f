"""Progress bars on standard error."""

import sys
from typing import Any

from tqdm import tqdm


def progress(
    total: int, *, initial: int = 0, quiet: bool = False, what: str | None = None
) -> "tqdm[Any]":
    """Make a progress bar, hidden where standard error is not a terminal.

    Args:
        total: number of steps.
        initial: steps that are done already.
        quiet: hide the bar.
        what: label before the bar.
    """
    silent = quiet or not sys.stderr.isatty()
    return tqdm(
        total=total, initial=initial, disable=silent, desc=what, unit="step", dynamic_ncols=True
    )
