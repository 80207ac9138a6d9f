"""Metrics of a training on disk, as CSV and TensorBoard events; they survive a killed process."""

import csv
import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

FILE = "metrics.csv"
_HEADER = ["step", "name", "value"]


class MetricWriter:
    """Writer of scalars to `metrics.csv` (one `step,name,value` per line) and TensorBoard events.

    Each `write` flushes to the operating system before it returns, so a killed process loses
    nothing. A training that resumes from the checkpoint of step s continues the same files: lines
    of later steps, whose weights are lost, and an incomplete last line are removed, and TensorBoard
    discards those steps. Metrics that are written before their step's checkpoint are neither lost
    nor doubled.

    Args:
        workdir: folder of the training; events are written to its folder `tensorboard`.
        resume_step: last step that is done; 0 for a new training, whose files start empty.

    Raises:
        ValueError: `metrics.csv` exists and was not written by this class.
        OSError: a file cannot be written.
    """

    def __init__(self, workdir: Path, *, resume_step: int = 0) -> None:
        self._path = workdir / FILE
        first = resume_step + 1 if resume_step else 0
        events = workdir / "tensorboard"
        events.mkdir(parents=True, exist_ok=True)
        kept = sum(len(line) for line, step in _entries(self._path) if step < first)
        with self._path.open("ab") as file:
            file.truncate(len(_line(_HEADER)) + kept if kept else 0)
        self._file = self._path.open("a", newline="", encoding="utf-8")
        self._lines = csv.writer(self._file, lineterminator="\n")
        if not kept:
            self._lines.writerow(_HEADER)
        # Written in this thread: SummaryWriter's own thread dies silently on a full disk, and the
        # training then hangs on its queue. The suffix distinguishes two files of one second.
        self._events = EventsWriter(str(events / "events"), f".{resume_step:09d}")
        start = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(wall_time=time.time(), step=first, session_log=start))

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Write values of a step to the TensorBoard events alone, as they differ between runs.

        Args:
            step: as of `write`.
            values: by name.

        Raises:
            OSError: a file cannot be written; the error has the file's name.
        """
        with self._errors_named():
            self._add_events(step, values)
            self._events.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step.

        Args:
            step: not less than the step of an earlier call.
            values: by name.

        Raises:
            OSError: a file cannot be written; the error has the file's name.
        """
        with self._errors_named():
            self._lines.writerows((step, name, repr(float(v))) for name, v in values.items())
            self._add_events(step, values)
            self.flush()

    def flush(self) -> None:
        """Flush both files to the operating system."""
        self._file.flush()
        self._events.flush()

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Name the file in an error of the system that names none."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or str(self._path)
            raise

    def _add_events(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            scalar = Summary(value=[Summary.Value(tag=name, simple_value=float(value))])
            self._events.write_event(Event(wall_time=time.time(), step=step, summary=scalar))

    def close(self) -> None:
        """Close both files; nothing can be written afterwards.

        Raises:
            OSError: a file cannot be written; the error has the file's name.
        """
        with self._errors_named():
            try:
                self._file.close()
            finally:
                self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Read a `metrics.csv`.

    Args:
        path: of the file.

    Returns:
        The (step, value) pairs of each name, in the order of the file.

    Raises:
        ValueError: the file was not written by `MetricWriter`.
        FileNotFoundError: it does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(2, "no such metrics file; train first", str(path))
    series: dict[str, list[tuple[int, float]]] = {}
    for line, step in _entries(path):
        _, name, value = next(csv.reader([line.decode("utf-8")]))
        series.setdefault(name, []).append((step, float(value)))
    return series


def log_sha256(workdir: Path, step: int) -> str:
    """Hash the lines of the log up to a step, which stay what they are when a training resumes.

    Args:
        workdir: folder of the training.
        step: the last one to count.

    Raises:
        ValueError: `metrics.csv` exists and was not written by `MetricWriter`.
    """
    lines = (line for line, number in _entries(workdir / FILE) if number <= step)
    return hashlib.sha256(b"".join(lines)).hexdigest()


def shows_checkpoint(workdir: Path) -> bool:
    """Say whether the log goes on after the first validation, at whose end the state was saved.

    Args:
        workdir: folder of the training.

    Raises:
        ValueError: `metrics.csv` exists and was not written by `MetricWriter`.
    """
    entries = _entries(workdir / FILE)
    first = next((step for line, step in entries if b",validation/dsc," in line), None)
    return first is not None and any(step > first for _, step in entries)


def require_log(workdir: Path, step: int, expected: str | None) -> str | None:
    """Check that the log up to a step is what was written.

    Args:
        workdir: folder of the training.
        step: that the training resumes from; 0 for a new one.
        expected: what `log_sha256` gave; None if it is unknown.

    Returns:
        A note where the log is missing.

    Raises:
        ValueError: the log holds something else.
    """
    path = workdir / FILE
    if expected is not None and not path.exists():
        return f"{path}: not found; the log begins anew after step {step}"
    found = log_sha256(workdir, step)
    if expected is not None and found != expected:
        raise ValueError(
            f"{path}: damaged or changed: its lines up to step {step} are not what was written; "
            "restore it from a copy, or remove it to go on without them"
        )
    return None


def _entries(path: Path) -> list[tuple[bytes, int]]:
    """Read the lines and their steps, without the header and an incomplete last line."""
    if not path.exists():
        return []
    whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    entries = []
    for number, line in enumerate(whole, start=1):
        row = next(csv.reader([line.decode("utf-8", "replace")]), [])
        if row != _HEADER if number == 1 else not _is_entry(row):
            raise ValueError(
                f"{path}: line {number} is {','.join(row)[:60]!r}, expected 'step,name,value'; "
                "rename or delete the file"
            )
        if number > 1:
            entries.append((line, int(row[0])))
    return entries


def _is_entry(row: list[str]) -> bool:
    try:
        return len(row) == 3 and int(row[0]) >= 0 and isinstance(float(row[2]), float)
    except ValueError:
        return False


def _line(row: list[str]) -> bytes:
    return (",".join(row) + "\n").encode()
