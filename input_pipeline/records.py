"""Records in a folder that TFDS reads, each checked by the hash of what was written.

Beside the records, `hashes.json` holds the id and the hash of each one, in their order, so that a
damaged, missing or exchanged record is found where it is read; and what else the writer says of it,
so that this need not be read. Records of older versions have no such file and are read unchecked.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.files import write_json
from input_pipeline.slices import LazySequence
from input_pipeline.verified import read_signed, signed

HASHES = "hashes.json"


def record_sha256(record: Mapping[str, Any]) -> str:
    """Hash the name, type, shape and bytes of each feature of a record.

    Args:
        record: as TFDS decodes it: arrays, numbers, strings.
    """
    digest = hashlib.sha256()
    for name in sorted(record):
        value = record[name]
        value = value.encode() if isinstance(value, str) else value
        array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value)
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def text_of(value: str | bytes) -> str:
    """Return a record's text as a string.

    Args:
        value: as TFDS decodes it.
    """
    return value.decode() if isinstance(value, bytes) else value


def open_folder(folder: Path, mend: str) -> tfds.core.DatasetBuilder:
    """Return the builder with which the records of a folder are read.

    Args:
        folder: the folder.
        mend: what to do if they are damaged, for the message.

    Raises:
        ValueError: they cannot be read.
    """
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # of JSON, protobuf, TFDS: whatever a damaged file leads to
        raise ValueError(f"{folder}: no records can be read ({_reason(error)}); {mend}") from error


class Row(NamedTuple):
    """What is stored of a record; older versions have no facts.

    Attributes:
        id: of the record.
        sha256: its hash.
        facts: what the writer says of it besides.
    """

    id: str
    sha256: str
    facts: Any = None


class Records(LazySequence[dict[str, Any]]):
    """The records of a split, decoded and checked each time they are accessed.

    Args:
        folder: with records that TFDS reads.
        split: name of the split.
        mend: what to do if they are damaged, for the messages.

    Raises:
        ValueError: they cannot be read, or are not those that were written; on access too.
    """

    def __init__(self, folder: Path, split: str, mend: str) -> None:
        self._folder, self._split, self._mend = folder, split, mend
        builder = open_folder(folder, mend)
        try:
            self._info = builder.info.splits[split]
            self._source = builder.as_data_source(split)
            count = len(self._source)
        except Exception as error:
            raise self._unreadable(folder, error) from error
        self._known = _read_hashes(folder, mend).get(split)
        if self._known is not None and len(self._known) != count:
            expected = len(self._known)
            raise ValueError(
                f"{folder}: split {split!r} has {count} records, expected {expected}; {mend}"
            )

    def __len__(self) -> int:
        return len(self._source)

    def _item(self, index: int) -> dict[str, Any]:
        try:
            record = self._source[index]
        except Exception as error:  # of array_record, protobuf, zlib, TFDS
            raise self._unreadable(self._shard(index), error) from error
        if self._known is not None and record_sha256(record) != self._known[index].sha256:
            raise ValueError(
                f"{self._shard(index)}: damaged or exchanged: record {index} of {self._split!r} is "
                f"another than was written; {self._mend}"
            )
        return record

    def hashes(self) -> list[tuple[str, str]]:
        """Return the id and the hash of each record; where they are not stored, all are read."""
        if self._known is not None:
            return [(row.id, row.sha256) for row in self._known]
        return [(text_of(record["id"]), record_sha256(record)) for record in self]

    def stored(self, index: int) -> Row | None:
        """Return what `write_hashes` stored of a record; None if nothing is stored."""
        return None if self._known is None else self._known[index]

    def _shard(self, index: int) -> Path:
        """Return the file of a record, or the folder if its metadata does not say."""
        for path, length in zip(self._info.filepaths, self._info.shard_lengths, strict=False):
            if index < length:
                return Path(path)
            index -= length
        return self._folder

    def _unreadable(self, path: Path, error: Exception) -> ValueError:
        return ValueError(f"{path}: cannot be read ({_reason(error)}); {self._mend}")


def write_hashes(
    folder: Path,
    splits: Iterable[str],
    mend: str,
    facts: Callable[[dict[str, Any]], Any] = lambda record: None,
) -> None:
    """Read all records of a folder and store their hashes.

    Args:
        folder: with records that TFDS reads.
        splits: names of its splits.
        mend: what to do if they cannot be read, for the messages.
        facts: returns what is stored of a record besides, which JSON can hold.

    Raises:
        ValueError: a record cannot be read.
        OSError: the file cannot be written.
    """
    found = {
        split: [
            Row(text_of(record["id"]), record_sha256(record), facts(record))
            for record in Records(folder, split, mend)
        ]
        for split in splits
    }
    write_json(folder / HASHES, signed(found))


def _read_hashes(folder: Path, mend: str) -> dict[str, list[Row]]:
    """Read what is stored of the records by split; empty where nothing is."""
    path = folder / HASHES
    if not path.exists():
        return {}
    stored = read_signed(path, mend)
    try:
        return {split: [Row(*row) for row in rows] for split, rows in stored.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: holds no ids and hashes ({error}); {mend}") from error


def _reason(error: Exception) -> str:
    """Return the kind and the start of an error's text, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
