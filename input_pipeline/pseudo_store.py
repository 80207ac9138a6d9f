"""One round's pseudo-labels: sharded TFDS records (array_record) and a manifest.

A folder `pseudo` is complete: its shards are written one by one, each under a temporary name, into
a folder of another name, which is renamed when the manifest is in it. The records hold labels and
weights; the image comes from the data set's unlabelled split, by index and checked by id.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from input_pipeline.lazy import LazySequence
from input_pipeline.preprocess import Slice

SHARD_SLICES = 64
MANIFEST = "manifest.json"
_NAME, _SPLIT, _FORMAT = "pseudo_label", "train", "array_record"
_GRID = {"shape": (None, None), "dtype": np.uint8, "encoding": "zlib"}
FEATURES = tfds.features.FeaturesDict(
    {
        "index": tfds.features.Tensor(shape=(), dtype=np.int64),
        "id": tfds.features.Text(),
        "mask": tfds.features.Tensor(**_GRID),
        "weight": tfds.features.Tensor(**_GRID),
    }
)


@dataclass(frozen=True)
class PseudoLabel:
    """The label of one unlabelled slice, on the slice's own grid.

    Attributes:
        index: the slice's place in the unlabelled split.
        id: the slice's name.
        mask: [H, W] uint8 class index.
        weight: [H, W] uint8, how much each pixel counts, in 255ths.
    """

    index: int
    id: str
    mask: np.ndarray
    weight: np.ndarray


class PseudoWriter:
    """Writes a round's pseudo-labels; what a killed process finished is not done again.

    Args:
        folder: where the records are to stand; an unfinished one stands beside it until then.
        indices: of the slices to be labelled, in the order of the records.
    """

    def __init__(self, folder: Path, indices: Sequence[int]) -> None:
        self._folder = folder
        self._unfinished = folder.with_name(f".{folder.name}.unfinished")
        self._indices = indices
        self._count = max(1, -(-len(indices) // SHARD_SLICES))

    def todo(self, process_index: int, process_count: int) -> list[int]:
        """Numbers of this process's shards that are not written yet."""
        mine = range(process_index, self._count, process_count)
        return [shard for shard in mine if not self._path(shard).exists()]

    def shard_indices(self, shard: int) -> list[int]:
        """Indices of the slices of a shard."""
        return list(self._indices[shard * SHARD_SLICES : (shard + 1) * SHARD_SLICES])

    def write(self, shard: int, labels: Iterable[PseudoLabel]) -> None:
        """Write one shard, whole or not at all; `labels` in the order of `shard_indices`."""
        path = self._path(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        writer = ArrayRecordWriter(str(temporary), "group_size:1")  # read one by one, at random
        try:
            for label in labels:
                record = {name: getattr(label, name) for name in FEATURES}
                writer.write(_serialized(record))
            writer.close()
            os.replace(temporary, path)
        finally:
            if writer.is_open():
                writer.close()
            temporary.unlink(missing_ok=True)

    def labels(self) -> "PseudoLabels":
        """What is written, once every shard of every process is."""
        for left in self._unfinished.glob(".*"):  # of a process that was killed
            left.unlink()
        self._describe()
        return PseudoLabels(self._unfinished)

    def finish(self, manifest: dict[str, Any]) -> None:
        """Put the manifest beside the records and give the folder its name."""
        text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
        (self._unfinished / MANIFEST).write_text(text, encoding="utf-8")
        os.replace(self._unfinished, self._folder)

    def _path(self, shard: int) -> Path:
        name = f"{_NAME}-{_SPLIT}.{_FORMAT}-{shard:05d}-of-{self._count:05d}"
        return self._unfinished / name

    def _describe(self) -> None:
        """Write what TFDS needs to read the shards."""
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
    """The records of a folder, decoded at each access.

    Raises:
        ValueError: the folder holds no such records.
    """

    def __init__(self, folder: Path) -> None:
        try:
            builder = tfds.builder_from_directory(folder)
            self._source = builder.as_data_source(_SPLIT)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{folder}: no pseudo-labels can be read ({error}); remove the folder and the "
                "rounds after it, and start again"
            ) from error

    def __len__(self) -> int:
        return len(self._source)

    def _item(self, index: int) -> PseudoLabel:
        record = self._source[index]
        name = record["id"]
        return PseudoLabel(
            index=int(record["index"]),
            id=name.decode() if isinstance(name, bytes) else name,
            mask=record["mask"],
            weight=record["weight"],
        )


class PseudoSlices(LazySequence[Slice]):
    """Unlabelled slices with their pseudo-labels: one more source to train on.

    Args:
        labels: of one round.
        unlabelled: the split that the labels were made for.

    Raises:
        ValueError: at access, where a label is of another slice.
    """

    def __init__(self, labels: PseudoLabels, unlabelled: Sequence[Slice]) -> None:
        self._labels = labels
        self._unlabelled = unlabelled

    def __len__(self) -> int:
        return len(self._labels)

    def _item(self, index: int) -> Slice:
        label = self._labels[index]
        item = self._unlabelled[label.index]
        if item.id != label.id:
            raise ValueError(
                f"pseudo-label of {label.id}: the unlabelled split has {item.id} in its place; "
                "the data set has changed since, start again in another --workdir"
            )
        return replace(item, mask=label.mask, weight=label.weight)


def _serialized(record: dict[str, Any]) -> bytes:
    """A record as TFDS writes it, but with its features in one order in every process."""
    example = tf_example_pb2.Example.FromString(FEATURES.serialize_example(record))
    return example.SerializeToString(deterministic=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder.

    Raises:
        ValueError: it is no JSON.
        OSError: it cannot be read.
    """
    path = folder / MANIFEST
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error}); start again") from None
