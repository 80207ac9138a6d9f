"""Store the pseudo-labels of one round: sharded TFDS records (array_record) and a manifest.

A folder `pseudo` is always complete: its shards are written one by one into a folder of another
name, which is renamed once it holds the manifest. The records hold labels and weights; the images
are read from the data set's unlabelled split by index, and their ids are compared.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from input_pipeline.files import UNFINISHED, atomic_file, remove, write_json
from input_pipeline.records import Records, text_of, write_hashes
from input_pipeline.slices import LazySequence, Slice, Slices
from input_pipeline.verified import read_signed, signed

SHARD_SLICES = 64  # records in each file
MANIFEST = "manifest.json"
MEND = "remove this folder and the rounds after it, and start again"  # if labels are damaged
_NAME, _SPLIT, _FORMAT = "pseudo_label", "train", "array_record"
_GRID = {"shape": (None, None), "dtype": np.uint8, "encoding": "zlib"}
_SUMS = {"shape": (None, 2), "dtype": np.float64, "encoding": "zlib"}  # without, float32 is stored
FEATURES = tfds.features.FeaturesDict(
    {
        "index": tfds.features.Tensor(shape=(), dtype=np.int64),
        "id": tfds.features.Text(),
        "mask": tfds.features.Tensor(**_GRID),
        "weight": tfds.features.Tensor(**_GRID),
        "confidence": tfds.features.Tensor(**_SUMS),
    }
)


@dataclass(frozen=True)
class PseudoLabel:
    """The pseudo-label of one unlabelled slice, on the slice's own grid.

    Attributes:
        index: index of the slice in the unlabelled split.
        id: name of the slice.
        mask: `[H, W]` uint8 class index.
        weight: `[H, W]` uint8, the weight of each pixel in the loss, in 255ths.
        confidence: `[K, 2]` float64, of the pixels for which each class was the most probable one,
            background first: the sum of its probabilities, and their number; empty in records of
            older versions.
    """

    index: int
    id: str
    mask: np.ndarray
    weight: np.ndarray
    confidence: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))


class PseudoWriter:
    """Writer of a round's pseudo-labels; it keeps the shards that a killed process completed.

    Args:
        folder: the folder to be written; the records are in a hidden folder beside it until
            `finish`.
        indices: indices of the slices to be labelled, in the order of the records.
    """

    def __init__(self, folder: Path, indices: Sequence[int]) -> None:
        self._folder = folder
        self._unfinished = folder.with_name(f".{folder.name}{UNFINISHED}")
        self._indices = indices
        self._count = max(1, -(-len(indices) // SHARD_SLICES))

    def todo(self, process_index: int, process_count: int) -> list[int]:
        """Return the numbers of the shards that this process has still to write.

        Args:
            process_index: number of this process, from 0.
            process_count: number of processes.
        """
        mine = range(process_index, self._count, process_count)
        return [shard for shard in mine if not self._path(shard).exists()]

    def shard_indices(self, shard: int) -> list[int]:
        """Return the indices of the slices of a shard.

        Args:
            shard: number of the shard, from 0.
        """
        return list(self._indices[shard * SHARD_SLICES : (shard + 1) * SHARD_SLICES])

    def write(self, shard: int, labels: Iterable[PseudoLabel]) -> None:
        """Write one shard, completely or not at all.

        Args:
            shard: number of the shard, from 0.
            labels: its pseudo-labels, in the order of `shard_indices`.

        Raises:
            OSError: the file cannot be written.
        """
        with atomic_file(self._path(shard)) as temporary:
            # One record per group, because records are read one by one, in random order.
            writer = ArrayRecordWriter(str(temporary), "group_size:1")
            try:
                for label in labels:
                    record = {name: getattr(label, name) for name in FEATURES}
                    writer.write(_serialized(record))
            finally:
                writer.close()

    def labels(self) -> "PseudoLabels":
        """Return the written pseudo-labels; every process must have written its shards."""
        for left in self._unfinished.glob(".*"):  # by a process that was killed
            remove(left)
        self._describe()
        return PseudoLabels(self._unfinished)

    def finish(self, manifest: dict[str, Any]) -> None:
        """Write hashes and manifest beside the records; rename the folder to its final name.

        Args:
            manifest: anything that JSON can hold.

        Raises:
            ValueError: a record cannot be read.
            OSError: a file cannot be written, or the folder cannot be renamed.
        """
        write_hashes(self._unfinished, [_SPLIT], MEND)
        write_json(self._unfinished / MANIFEST, signed(manifest))
        os.replace(self._unfinished, self._folder)

    def _path(self, shard: int) -> Path:
        name = f"{_NAME}-{_SPLIT}.{_FORMAT}-{shard:05d}-of-{self._count:05d}"
        return self._unfinished / name

    def _describe(self) -> None:
        """Write the metadata with which TFDS reads the shards."""
        shards = range(self._count)
        lengths = [len(self.shard_indices(shard)) for shard in shards]
        size = sum(self._path(shard).stat().st_size for shard in shards)
        split = tfds.core.SplitInfo(name=_SPLIT, shard_lengths=lengths, num_bytes=size)
        tfds.folder_dataset.write_metadata(
            data_dir=self._unfinished,
            features=FEATURES,
            split_infos=[split],
            description=__doc__,
            check_data=False,
        )


class PseudoLabels(LazySequence[PseudoLabel]):
    """The pseudo-labels of a folder, decoded each time they are accessed.

    Args:
        folder: a folder written by `PseudoWriter`.

    Raises:
        ValueError: the folder holds no such records, or others than were written; on access too.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no pseudo-labels can be read, there is no folder; {MEND}")
        self._source = Records(folder, _SPLIT, MEND)

    def __len__(self) -> int:
        return len(self._source)

    def _item(self, index: int) -> PseudoLabel:
        record = self._source[index]
        return PseudoLabel(
            index=int(record["index"]),
            id=text_of(record["id"]),
            mask=record["mask"],
            weight=record["weight"],
            confidence=record.get("confidence", np.zeros((0, 2))),
        )


class PseudoSlices(Slices):
    """Unlabelled slices with their pseudo-labels, to train on.

    Args:
        labels: the pseudo-labels of one round.
        unlabelled: the split for which the labels were made.

    Raises:
        ValueError: on access, if a label belongs to another slice.
    """

    def __init__(self, labels: PseudoLabels, unlabelled: Sequence[Slice]) -> None:
        self._labels = labels
        self._unlabelled = unlabelled

    def __len__(self) -> int:
        return len(self._labels)

    def _item(self, index: int) -> Slice:
        label = self._labels[index]
        there = label.index < len(self._unlabelled)
        item = self._unlabelled[label.index] if there else None
        if item is None or item.id != label.id:
            raise ValueError(
                f"pseudo-label of {label.id}: the unlabelled split has "
                f"{item.id if item else 'nothing'} in its place, as the data set has changed; "
                "start again with another --workdir"
            )
        return replace(item, mask=label.mask, weight=label.weight)


def _serialized(record: dict[str, Any]) -> bytes:
    """Return a record as TFDS writes it, but with its features in the same order in any process."""
    example = tf_example_pb2.Example.FromString(FEATURES.serialize_example(record))
    return example.SerializeToString(deterministic=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a finished folder.

    Args:
        folder: a folder written by `PseudoWriter`.

    Raises:
        ValueError: the manifest is damaged.
        OSError: the manifest cannot be read.
    """
    return read_signed(folder / MANIFEST, MEND)
