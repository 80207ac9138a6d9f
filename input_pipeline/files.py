"""The only writer of whole files in the project: each file is written completely or not at all.

A file is written under a temporary name and renamed at the end. The temporary name contains the
host, the process and a random part, so that two jobs on a shared disk never use the same one.
"""

import csv
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished"  # marks a temporary name; a killed process leaves such names behind


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
    """Return whether `folder` exists and holds anything but leftovers of killed processes.

    Args:
        folder: need not exist.

    Raises:
        OSError: it is not a folder, or cannot be read.
    """
    return folder.exists() and any(UNFINISHED not in entry.name for entry in folder.iterdir())


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


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 completely or not at all.

    Args:
        path: the file; missing folders are made.
        text: its content.

    Raises:
        OSError: the file cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file completely or not at all.

    Args:
        path: the file; missing folders are made.
        data: its content.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


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


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, completely or not at all.

    Columns are in the order in which they first appear. None and absent entries become empty
    cells. A nested mapping becomes one column for each of its entries (`standard.dsc`).

    Args:
        path: the file; missing folders are made.
        rows: one mapping from column to value for each row.

    Raises:
        OSError: the file cannot be written.
    """
    flat = [_flatten(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    with (
        atomic_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)


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


def _flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the row with dotted names in place of nested mappings."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
