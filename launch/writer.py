"""Files a run leaves: whole or not at all, and a metric log that survives being killed."""

import csv
import gzip
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from input_pipeline.nifti import nifti_mask
from input_pipeline.scans import Scan

_HEADER = ["step", "name", "value"]
_UNFINISHED = ".unfinished"  # what `filling` writes to; one that is left over was killed


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to, and renames it to `path` at the end.

    Missing folders are made. Where the block raises, the temporary file goes and an older file
    at `path` stays as it was.

    Raises:
        OSError: the disk refuses; the error carries `path`.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    with _naming(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def filling(folder: Path, *, owned: Sequence[str] = ()) -> Iterator[Path]:
    """Gives a temporary folder inside `folder`, whose entries move up into `folder` at the end.

    Missing folders are made. Where the block raises, nothing new stays in `folder`, and `folder`
    itself goes if it is empty. One process at a time.

    Args:
        folder: what is to hold the results; its other entries stay.
        owned: names in `folder` that the new entries replace; those without a successor go too.

    Raises:
        OSError: the disk refuses, or an entry that is not owned is in the way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / _UNFINISHED
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        for name in owned:
            _remove(folder / name)
        for entry in sorted(temporary.iterdir()):
            os.replace(entry, folder / entry.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()  # only works when nothing is in it


def is_filled(folder: Path) -> bool:
    """Whether `folder` is there and holds more than what a killed `filling` left.

    Raises:
        OSError: it is no folder, or cannot be read.
    """
    return folder.exists() and any(entry.name != _UNFINISHED for entry in folder.iterdir())


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically.

    Raises:
        ValueError: a number is not finite, which JSON cannot say.
        OSError: the disk refuses.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes mappings as CSV, atomically; nested ones get a column per entry (`standard.dsc`).

    Columns stand in the order in which they first appear; None and absent entries are empty.

    Raises:
        OSError: the disk refuses.
    """
    flat = [_flatten(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)


def write_nifti_mask(path: Path, mask: np.ndarray, scan: Scan) -> None:
    """Writes a mask as a uint8 NIfTI label map on the grid of the scan's file, atomically.

    Args:
        path: .nii.gz (compressed) or .nii.
        mask: [slices, rows, columns] of `scan.voxels`, whole numbers 0..255.
        scan: the scan it was computed on, see `input_pipeline.nifti.nifti_mask`.

    Raises:
        ValueError: another suffix, or a mask that does not suit the scan.
        OSError: the disk refuses.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path}: a NIfTI file is named .nii or .nii.gz")
    image = nifti_mask(mask, scan)
    with replacing(path) as temporary, temporary.open("wb") as raw:
        if path.name.lower().endswith(".gz"):
            # No name and no time inside: equal masks give equal files.
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
                image.to_stream(file)
        else:
            image.to_stream(raw)


class MetricWriter:
    """Scalars of a run in `metrics.csv` (one `step,name,value` per line) and TensorBoard events.

    Each `write` reaches the operating system before it returns, so a killed process loses none
    of it. A run that resumes from the checkpoint of step s goes on in the same files: lines of
    later steps (written, then lost with their weights) and a line cut off by the kill are
    dropped, and TensorBoard is told to forget those steps. Write the metrics of a step before
    its checkpoint, and none gets lost or doubled.

    Args:
        workdir: the run's folder; events go to its folder `tensorboard`.
        resume_step: last step that the run has behind it; 0 for a new run, whose files start
            empty.

    Raises:
        ValueError: `metrics.csv` is there but is not what this class writes.
        OSError: the disk refuses.
    """

    def __init__(self, workdir: Path, *, resume_step: int = 0) -> None:
        self._path = workdir / "metrics.csv"
        first = resume_step + 1 if resume_step else 0
        kept = [row for row in _read_rows(self._path) if int(row[0]) < first]
        with (
            replacing(self._path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file, lineterminator="\n").writerows([_HEADER, *kept])
        self._file = self._path.open("a", newline="", encoding="utf-8")
        self._lines = csv.writer(self._file, lineterminator="\n")
        events = workdir / "tensorboard"
        events.mkdir(exist_ok=True)
        # Written in this thread: SummaryWriter's own thread dies silently on a full disk, and
        # the run then hangs on its queue. The suffix keeps two files of one second apart.
        self._events = EventsWriter(str(events / "events"), f".{resume_step:09d}")
        start = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(wall_time=time.time(), step=first, session_log=start))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records `values` at `step`.

        Raises:
            OSError: the disk refuses; the error carries the file's name.
        """
        with _naming(self._path):
            self._lines.writerows((step, name, repr(float(v))) for name, v in values.items())
            for name, value in values.items():
                scalar = Summary(value=[Summary.Value(tag=name, simple_value=float(value))])
                self._events.write_event(Event(wall_time=time.time(), step=step, summary=scalar))
            self.flush()

    def flush(self) -> None:
        """Hands everything written to the operating system."""
        self._file.flush()
        self._events.flush()

    def close(self) -> None:
        """Closes both files; nothing can be written afterwards."""
        with _naming(self._path):
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
    """The (step, value) pairs of each name in a `metrics.csv`, in the order of the file.

    Raises:
        ValueError: the file is not what `MetricWriter` writes.
        FileNotFoundError: it is not there.
    """
    if not path.exists():
        raise FileNotFoundError(2, "no such metrics file; train first", str(path))
    series: dict[str, list[tuple[int, float]]] = {}
    for step, name, value in _read_rows(path):
        series.setdefault(name, []).append((int(step), float(value)))
    return series


def progress(
    total: int, *, initial: int = 0, quiet: bool = False, what: str | None = None
) -> "tqdm[Any]":
    """A bar of steps on stderr; silent when `quiet` or where stderr is not a terminal."""
    silent = quiet or not sys.stderr.isatty()
    return tqdm(
        total=total, initial=initial, disable=silent, desc=what, unit="step", dynamic_ncols=True
    )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Gives an OSError without a file name (a full disk) that of `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _remove(path: Path) -> None:
    """Deletes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _read_rows(path: Path) -> list[list[str]]:
    """Lines of a `metrics.csv` without header and without a last line that was cut off."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        whole = [line for line in file if line.endswith("\n")]
    rows = list(csv.reader(whole))
    for number, row in enumerate(rows, start=1):
        if row != _HEADER if number == 1 else not _is_entry(row):
            raise ValueError(
                f"{path} line {number} is {','.join(row)[:60]!r}, expected 'step,name,value'; "
                "move the file away"
            )
    return rows[1:]


def _is_entry(row: list[str]) -> bool:
    try:
        return len(row) == 3 and int(row[0]) >= 0 and isinstance(float(row[2]), float)
    except ValueError:
        return False
