"""The only writer of whole files in the project: each file is written completely or not at all.

A file is written under a temporary name and renamed at the end. The temporary name contains the
host, the process and a random part, so that two jobs on a shared disk never use the same one.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_writes = True  # whether this process writes; of several, one does, see `leave_writing_to_others`
LOCK = ".lock"  # with this begin the names of files that say who uses a folder
UNFINISHED = ".unfinished"  # marks a temporary name; a killed process leaves such names behind
MOST_BYTES = 200  # of a name that `safe_name` returns; file systems allow 255, suffix included
UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|\ud800-\udc7f\udd00-\udfff]')  # on any system
ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")  # a byte of a name that is not UTF-8


def leave_writing_to_others() -> None:
    """Write no whole files from now on: another process of the same run does.

    The functions here and in `tables` then return without a trace, but for `atomic_file`, with
    which processes write parts of their own.
    """
    global _writes
    _writes = False


def temporary_name(path: Path) -> Path:
    """Return a hidden path beside `path` that no other process uses, with the same suffix.

    Args:
        path: the file or folder to be written.

    Returns:
        A path named `.{stem}.{host}-{process}-{random}.unfinished{suffix}`.
    """
    own = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.stem}.{own}{UNFINISHED}{path.suffix}")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Provide a temporary path beside `path` to write to, and rename it to `path` at the end.

    Missing folders are made. If the block raises, the temporary file is removed and an older file
    at `path` stays as it was.

    Args:
        path: the file to write.

    Yields:
        The temporary path; the block writes a file there.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    temporary = temporary_name(path)
    with naming(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(folder: Path, *, owned: Sequence[str] = ()) -> Iterator[Path]:
    """Provide a temporary folder inside `folder`, and move its entries to `folder` at the end.

    Missing folders are made. If the block raises, nothing new stays in `folder`, and `folder`
    itself is removed if it is empty. Files that a killed process of this host left are removed
    first.

    Args:
        folder: where the results are to be; its other entries stay.
        owned: names in `folder` that the new entries replace; those that get no new entry are
            removed too.

    Yields:
        The temporary folder; the block writes files and folders into it.

    Raises:
        OSError: the folder cannot be written, or has an entry of the same name that is not owned.
    """
    if not _writes:
        with tempfile.TemporaryDirectory() as discarded:
            yield Path(discarded)
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(folder / "results")
    try:
        remove_killed(folder, "results")
        temporary.mkdir()
        yield temporary
        for name in owned:
            remove(folder / name)
        for entry in sorted(temporary.iterdir()):
            os.replace(entry, folder / entry.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()  # only an empty folder is removed


def remove_killed(folder: Path, stem: str) -> None:
    """Remove the temporary files and folders that killed processes of this host left.

    Args:
        folder: the folder to clear.
        stem: stem of the paths for which `temporary_name` was called.

    Raises:
        OSError: the folder cannot be read, or a file cannot be removed.
    """
    start = f".{stem}."
    for entry in folder.iterdir():
        if entry.name.startswith(start) and UNFINISHED in entry.name:
            own = entry.name.removeprefix(start).rpartition(UNFINISHED)[0]
            host, _, process = own.rpartition("-")[0].rpartition("-")  # hosts may have a "-"
            if host == socket.gethostname() and not process_runs(process):
                remove(entry)


def remove(path: Path) -> None:
    """Delete a file or a folder with all its content; do nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_filled(folder: Path) -> bool:
    """Return whether `folder` holds anything but locks and leftovers of killed processes.

    Args:
        folder: need not exist.

    Raises:
        OSError: it is not a folder, or cannot be read.
    """
    names = (entry.name for entry in folder.iterdir()) if folder.exists() else ()
    return any(UNFINISHED not in name and not name.startswith(LOCK) for name in names)


def require_empty(folder: Path, flag: str) -> None:
    """Check that a folder to be written does not exist yet or is empty.

    Args:
        folder: the folder to be written.
        flag: the option with which the user named it, for the message.

    Raises:
        FileExistsError: it is not empty.
        OSError: it is not a folder, or cannot be read.
    """
    if is_filled(folder):
        raise FileExistsError(
            f"{folder}: is not empty, expected a new or an empty folder; name another folder as "
            f"{flag}, or empty this one"
        )


def require_own(folder: Path, owned: Sequence[str], *, what: str) -> None:
    """Check that files which results will replace in a folder are of earlier results.

    Args:
        folder: the folder of the results; it need not exist.
        owned: names of the results, the first one that all of them have.
        what: writes them, for the message.

    Raises:
        FileExistsError: one of the others is there without the first.
    """
    there = [name for name in owned if (folder / name).exists()]
    if there and owned[0] not in there:
        raise FileExistsError(
            f"{folder / there[0]}: is in the way, and no {what} wrote it; move it, or name "
            "another --out"
        )


def safe_name(name: str) -> str:
    r"""Return the name of a file, inside the folder it is put in, for an id of any origin.

    Slashes and what else no file name may hold become `_`, and so does a dot at the start. A name
    that had to be changed or is long ends in a hash of the whole, so that two ids never share one.

    Args:
        name: for instance the id of a record, which may hold anything.

    Example:
        >>> safe_name("case_01")
        'case_01'
        >>> safe_name("../x")
        '_._x_d6b96a97'
    """
    cleaned = re.sub(r"^\.", "_", UNSAFE.sub("_", name))
    data = cleaned.encode("utf-8", "surrogateescape")
    if cleaned == name and 0 < len(data) <= MOST_BYTES:
        return name
    kept = data[: MOST_BYTES - 9].decode("utf-8", "ignore")
    return f"{kept}_{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def encodable(text: str) -> str:
    r"""Return a text that UTF-8 can hold; a byte of a name that is not UTF-8 becomes `\udcNN`.

    Python holds the bytes of a name as lone surrogates where they are no text in the encoding of
    the file system; where that is not UTF-8, but the name is, its characters are returned.

    Args:
        text: any string.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 completely or not at all.

    Bytes of names that are not UTF-8 are written as `encodable` returns them.

    Args:
        path: the file; missing folders are made.
        text: its content.

    Raises:
        OSError: the file cannot be written.
    """
    write_bytes(path, encodable(text).encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file completely or not at all.

    Args:
        path: the file; missing folders are made.
        data: its content.

    Raises:
        OSError: the file cannot be written.
    """
    if not _writes:
        return
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file in UTF-8; what a killed process left of a line is removed.

    Args:
        path: the file; it and missing folders are made.
        line: without its end.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    if not _writes:
        return
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            if size := file.seek(0, os.SEEK_END):
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    file.truncate(path.read_bytes().rfind(b"\n") + 1)
            file.write(f"{line}\n".encode())


def read_lines(path: Path) -> list[str]:
    """Read the lines that `append_line` wrote, without what a killed process left of a line.

    Args:
        path: the file.

    Raises:
        UnicodeDecodeError: the file is damaged.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1].decode("utf-8").splitlines()


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, completely or not at all.

    Args:
        path: the file; missing folders are made.
        value: anything that the module json can write.

    Raises:
        ValueError: a number is not finite; JSON has no such number.
        OSError: the file cannot be written.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the name of `path` to an OSError that has no file name, such as that of a full disk.

    Args:
        path: the file that the block writes.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        if error.errno is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error


def process_runs(process: str) -> bool:
    """Return whether a process with that number is running on this host.

    Args:
        process: its number.
    """
    try:
        os.kill(int(process), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:  # it is running and belongs to another user
        return True
    return True
