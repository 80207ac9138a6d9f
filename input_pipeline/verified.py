"""JSON files that carry a hash of what they hold, which is checked when they are read back."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from input_pipeline.files import write_json

HASH = "content_sha256"  # name under which a file holds the hash of its other entries


def signed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value with the hash of its entries, to be written by `files.write_json`.

    Args:
        value: anything that JSON can hold, without an entry 'content_sha256'.
    """
    return {**value, HASH: value_sha256(value)}


def value_sha256(value: Any) -> str:
    """Hash a value as JSON holds it, whatever the order of its entries.

    Args:
        value: anything that JSON can hold.
    """
    stored = json.loads(json.dumps(value))  # names are strings there, and sorted as such
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash the bytes of a file.

    Args:
        path: the file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_signed(path: Path, mend: str) -> dict[str, Any]:
    """Read a file that `signed` made, or one without a hash, as older versions wrote.

    Args:
        path: the file.
        mend: what to do if it is damaged, for the message.

    Returns:
        Its entries without the hash.

    Raises:
        ValueError: it is no JSON object, or not what was written.
        OSError: it cannot be read.
    """
    value = read_json(path, mend)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}, expected an object; {mend}")
    if HASH not in value:
        return value
    stored = value.pop(HASH)
    if stored != value_sha256(value):
        raise ValueError(
            f"{path}: damaged or changed: the hash of what it holds is another than its '{HASH}'; "
            f"{mend}; after a change on purpose, remove its entry '{HASH}'"
        )
    return value


def read_json(path: Path, mend: str) -> Any:
    """Read a JSON file of our own.

    Args:
        path: the file.
        mend: what to do if it is damaged, for the message.

    Raises:
        ValueError: it is not JSON.
        OSError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error}); {mend}") from None


def keep_record(path: Path, record: Mapping[str, Any], *, what: str, mend: str) -> None:
    """Write the settings that all results of a folder share, or check that they are the same.

    Args:
        path: JSON file in that folder.
        record: the settings, anything that JSON can hold.
        what: the results, for the message.
        mend: what to do about other settings, for the message.

    Raises:
        ValueError: the file holds other settings, or is damaged.
        OSError: it cannot be read or written.
    """
    here = json.loads(json.dumps(record))
    if not path.exists():
        write_json(path, signed(here))
        return
    there = read_signed(path, mend)
    if differing := _differences(here, there):
        raise ValueError(f"{path}: other {what} than these ({', '.join(differing)}); {mend}")


def _differences(here: Mapping[str, Any], there: Mapping[str, Any], within: str = "") -> list[str]:
    """Compose the settings that differ; lists are too long to be shown."""
    found = []
    for key in {**here, **there}:
        mine, theirs, name = here.get(key), there.get(key), f"{within}{key}"
        if mine == theirs:
            continue
        if isinstance(mine, dict) and isinstance(theirs, dict):
            found += _differences(mine, theirs, f"{name}.")
        elif isinstance(mine, list | dict) or isinstance(theirs, list | dict):
            found.append(f"{name} differ")
        else:
            found.append(f"{name} is {mine!r} here and {theirs!r} there")
    return found
