"""What is noticed while the files of a data set are read: notes, and faults that stop a build."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def to_standard_error(line: str) -> None:
    """Print a line on standard error.

    Args:
        line: what is noticed.
    """
    print(line, file=sys.stderr)


def silent(line: str) -> None:
    """Print nothing.

    Args:
        line: what is noticed.
    """


class Report:
    """Collects notes and faults, a line for each, so that one bad file does not hide the next.

    Attributes:
        notes: sentences with the name of their file, in the order of reading.
        faults: why files cannot be used.

    Args:
        echo: prints a note as soon as it is made.
    """

    def __init__(self, echo: Callable[[str], Any] = to_standard_error) -> None:
        self.notes: list[str] = []
        self.faults: list[str] = []
        self.echo = echo

    def note(self, path: Path, sentences: Iterable[str]) -> None:
        """Keep and print what a reader says of a file.

        Args:
            path: the file.
            sentences: its notes.
        """
        for sentence in sentences:
            self.keep(f"{path}: {sentence}")

    def keep(self, line: str) -> None:
        """Keep and print a note, once.

        Args:
            line: the note, which names the file.
        """
        if line not in self.notes:
            self.notes.append(line)
            self.echo(line)

    def attempt(self, read: Callable[[], T]) -> T | None:
        """Return what a function returns; where it refuses a file, keep the fault and return None.

        Args:
            read: raises ValueError or OSError for a file that cannot be used.
        """
        try:
            return read()
        except (ValueError, OSError) as error:
            text = str(error)
            if isinstance(error, OSError) and error.strerror and error.filename:
                text = f"{error.filename}: {error.strerror}"
            self.fault(text)
            return None

    def fault(self, line: str) -> None:
        """Keep a fault, once.

        Args:
            line: the message, which names the file.
        """
        line = " ".join(line.split())
        if line not in self.faults:
            self.faults.append(line)

    def take_over(self, other: "Report") -> None:
        """Keep what another report holds, and print its notes.

        Args:
            other: of some of the files.
        """
        for line in other.notes:
            self.keep(line)
        for line in other.faults:
            self.fault(line)

    def raise_faults(self, source: Path) -> None:
        """Refuse the data set if any file of it cannot be used; further faults are printed first.

        Args:
            source: folder of the data set, for the message.

        Raises:
            ValueError: the first fault.
        """
        if not self.faults:
            return
        first, *others = self.faults
        for line in others:
            self.echo(line)
        more = f" (1 of {len(self.faults)} faults in {source}; the others are above)"
        raise ValueError(first + more * bool(others))
