"""A run of many inputs: each result is kept when it is done, and a bad input costs itself alone.

The folder of results holds a journal with one line for each result that is about to be written and
one for each finished input, so that the same command goes on with what is missing, even after it
was killed, and knows files that it wrote itself from those that were there.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.files import append_line, read_lines, remove, require_empty
from input_pipeline.io.archive import archive_of
from input_pipeline.io.nifti_header import files_of
from input_pipeline.tables import write_table
from input_pipeline.verified import keep_record
from ssa_jax.experiment.lock import in_use

JOURNAL = ".results"
ERRORS = "errors"
ENTRY = ("name", "input", "stamp", "files", "rows")  # what the line of a finished input holds
LISTED = 20  # failures printed at the end; `errors.csv` holds all
INPUT_ERRORS = (ValueError, OSError, MemoryError)  # what a bad input raises


class InputsFailed(Exception):
    """Some inputs of a run failed; the message lists them with their reasons."""


class RunOptions(NamedTuple):
    """How a run treats its folder.

    Attributes:
        overwrite: start anew instead of going on with what is missing.
        shard: (I, N) to do the I-th (from 1) of N parts of the inputs, for N jobs side by side.
    """

    overwrite: bool = False
    shard: tuple[int, int] = (1, 1)

    @property
    def suffix(self) -> str:
        """End of the names of the shard's files; '' without shards."""
        part, parts = self.shard
        return "" if parts == 1 else f".{part}-of-{parts}"

    @contextmanager
    def only_run(self, out: Path) -> Iterator[None]:
        """Hold the lock of a folder of results, which only other shards may use meanwhile.

        A run that starts anew removes what others made, and does not start while they run.

        Args:
            out: the folder; made if it does not exist.

        Raises:
            OSError: another run uses it, or the lock cannot be written.
        """
        shared = self.suffix and not self.overwrite
        with in_use(out, self.suffix, beside=f".*-of-{self.shard[1]}" if shared else ""):
            yield


class Finished(NamedTuple):
    """The result of one input.

    Attributes:
        rows: of the table.
        files: names of the files in the folder of results.
        save: writes them; None where nothing is written.
        line: says it to the user; '' says nothing.
    """

    rows: Sequence[Mapping[str, Any]]
    files: tuple[str, ...] = ()
    save: Callable[[], None] | None = None
    line: str = ""


class Batch:
    """The results of a run of many inputs in their folder.

    Attributes:
        missing: the inputs of this run and shard that have no result yet, by name.
        done: number of the run's inputs that have one already.

    Args:
        out: the folder; new, empty, or of the same command.
        inputs: path of each input by the name of its result.
        record: what made the results, as JSON; results of another record are not mixed.
        record_name: file of the record in `out`.
        table: name of the table in `out`, without its suffix.
        options: see `RunOptions`.
        also: second file of an input by the name of its result, whose change counts too.
        stated: what the user states about the inputs; with another statement, a result is another.
        stays: whether the folder stays after the run, so that its tables are worth naming.

    Raises:
        FileExistsError: `out` holds other files and no results.
        ValueError: its results were made otherwise, or are of another input of the same name.
        OSError: it cannot be read or written.
    """

    def __init__(
        self,
        out: Path,
        inputs: Mapping[str, Path],
        *,
        record: Mapping[str, Any],
        record_name: str,
        table: str,
        options: RunOptions,
        also: Mapping[str, Path] | None = None,
        stated: str = "",
        stays: bool = True,
    ) -> None:
        part, parts = options.shard
        self._out = out
        self._suffix = options.suffix
        self._table = table
        self._also = also or {}
        self._stays = stays
        self._stated = f" ({stated})" if stated else ""
        self._overwrite = options.overwrite
        self._failed: dict[Path, str] = {}
        if options.overwrite and (out / record_name).exists():
            self._clear()
            remove(out / record_name)
        self._require_empty_or(out / record_name)
        keep_record(out / record_name, record, what="results", mend="name another --out folder")
        self._begun: set[str] = set()  # names whose files a run was about to write
        self._entries = self._read()
        self._own = dict(list(inputs.items())[part - 1 :: parts])
        self.missing = {n: path for n, path in self._own.items() if not self._holds(n, path)}
        self.done = len(self._own) - len(self.missing)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of all finished inputs, or of those of the shard, sorted by the inputs' names."""
        mine = (name for name in self._entries if not self._suffix or name in self._own)
        return [row for name in sorted(mine) for row in self._entries[name]["rows"]]

    def knows(self, name: str) -> bool:
        """Return whether a run wrote, or with `overwrite` is to write, the files of this name.

        Args:
            name: of the result.
        """
        return name in self._begun or self._overwrite

    def each(
        self, work: Callable[[str, Path], Finished], *, echo: Callable[[str], Any] = print
    ) -> None:
        """Do what is missing, input by input.

        Args:
            work: from the name and path of an input to its result, which is not written yet.
            echo: prints a line about the run.

        Raises:
            OSError: a result cannot be written.
        """
        if self.done:
            echo(f"{self._out}: holds {self.done} of {len(self.missing) + self.done} already")
        for number, (name, path) in enumerate(self.missing.items(), start=1):
            try:
                result = work(name, path)
            except INPUT_ERRORS as error:
                self.fail(path, error)
                continue
            self.add(name, result)
            if result.line:
                echo(f"[{number}/{len(self.missing)}] {path}: {result.line}")

    def add(self, name: str, result: Finished) -> None:
        """Write a result, and note that it is done.

        Args:
            name: of the input.
            result: of the input.

        Raises:
            OSError: it cannot be written.
        """
        if result.save is not None:
            if name not in self._begun:
                self._note({"begun": name, "files": list(result.files)})
            result.save()
        path = self._own[name]
        entry: dict[str, Any] = {
            "name": name,
            "input": f"{path}{self._stated}",
            "stamp": self._stamp(name, path),
        }
        entry |= {"files": list(result.files), "rows": [dict(row) for row in result.rows]}
        self._note(entry)
        self._entries[name] = entry

    def fail(self, path: Path, error: BaseException) -> None:
        """Note that an input failed, and print why.

        Args:
            path: of the input.
            error: the reason.
        """
        reason = " ".join(str(error).split()) or type(error).__name__
        self._failed[path] = reason.removeprefix(f"{path}: ")
        print(f"failed: {path}: {self._failed[path]}", file=sys.stderr)

    @contextmanager
    def finish(self) -> Iterator[None]:
        """Write the tables at the end of the block, even if it is interrupted.

        Raises:
            InputsFailed: some inputs failed.
            OSError: a table cannot be written.
        """
        try:
            yield
        finally:
            self._write_tables()
        if self._failed:
            raise InputsFailed(self._report())

    @property
    def _journal(self) -> Path:
        return self._out / f"{JOURNAL}{self._suffix}.jsonl"

    def _note(self, line: Mapping[str, Any]) -> None:
        """Append a line to the journal."""
        append_line(self._journal, json.dumps(line))

    def _require_empty_or(self, record: Path) -> None:
        """Check that the folder is empty, or that a run of this kind has begun in it."""
        try:
            if not record.exists():
                require_empty(self._out, "--out")
        except FileExistsError:
            if not record.exists():  # another shard may have begun in the meantime
                raise

    def _read(self) -> dict[str, dict[str, Any]]:
        """Read the journals of all shards."""
        entries: dict[str, dict[str, Any]] = {}
        for path in sorted(self._out.glob(f"{JOURNAL}*.jsonl")):
            for number, line in enumerate(read_lines(path), start=1):
                try:
                    entry = json.loads(line)
                    if "begun" in entry:
                        self._begun.add(entry["begun"])
                    else:
                        entries[entry["name"]] = {key: entry[key] for key in ENTRY}
                except (ValueError, TypeError, KeyError):
                    raise ValueError(
                        f"{path}: line {number} is damaged; start anew with --overwrite"
                    ) from None
        return entries

    def _holds(self, name: str, path: Path) -> bool:
        """Say whether an input has a result that is newer than the input."""
        entry = self._entries.get(name)
        if entry is None or not all((self._out / file).exists() for file in entry["files"]):
            return False
        given = f"{path}{self._stated}"
        if entry["input"] != given:
            raise ValueError(
                f"{self._out}: holds {name} of {entry['input']}, expected that of {given}; name "
                "another --out folder, or start anew with --overwrite"
            )
        return entry["stamp"] == self._stamp(name, path)

    def _stamp(self, name: str, path: Path) -> list[int]:
        """Return what changes when an input changes: bytes in all, and time of the last change."""
        also = self._also.get(name)
        sources = [path] if also is None or not also.exists() else [path, also]
        files = [file for source in sources for file in _files(source)]
        states = [file.stat() for file in files]
        return [sum(s.st_size for s in states), max((s.st_mtime_ns for s in states), default=0)]

    def _clear(self) -> None:
        """Remove the results of earlier runs."""
        for path in self._out.glob(f"{JOURNAL}*.jsonl"):
            for line in read_lines(path):
                try:
                    files = json.loads(line)["files"]
                except (ValueError, TypeError, KeyError):
                    continue
                for name in files:
                    remove(self._out / Path(name).name)
            remove(path)
        for stem in (self._table, ERRORS):
            for path in self._out.glob(f"{stem}*.csv"):
                remove(path)

    def _write_tables(self) -> None:
        """Write the rows of all results, and those of the failures."""
        write_table(self._out / f"{self._table}{self._suffix}.csv", self.rows)
        errors = self._out / f"{ERRORS}{self._suffix}.csv"
        if self._failed:
            write_table(errors, [{"file": str(p), "error": e} for p, e in self._failed.items()])
        else:
            errors.unlink(missing_ok=True)

    def _report(self) -> str:
        """List the failures."""
        lines = [f"  {path}: {reason}" for path, reason in self._failed.items()]
        if len(lines) > LISTED:
            lines[LISTED:] = [f"  and {len(lines) - LISTED} more"]
        head = f"{len(self._failed)} of {len(self.missing) + self.done} inputs failed"
        if self._stays:
            table = self._out / f"{ERRORS}{self._suffix}.csv"
            head += f", see {table}; the same command tries them again"
        head += ":"
        return "\n".join([head, *lines])


def print_notes(path: Path, notes: Iterable[str]) -> None:
    """Print what is to be said about an input, a line each, on standard error.

    Args:
        path: of the input.
        notes: sentences.
    """
    for note in notes:
        print(f"{path}: {note}", file=sys.stderr)


def _files(path: Path) -> list[Path]:
    """List a file (with the other of a pair), a folder with all it holds, or an input's archive."""
    if path.is_dir():
        return [path, *(file for file in path.rglob("*") if file.exists())]
    archive = archive_of(path)
    return files_of(path) if archive is None else [archive]
