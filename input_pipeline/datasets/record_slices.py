"""The slices of a built data set in its records: their features, and how they are decoded."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.records import Records, text_of
from input_pipeline.slices import About, Slice, Slices, class_counts


def picture_features(*grids: str) -> tfds.features.FeaturesDict:
    """Return the features of the records of 8-bit slices.

    Args:
        grids: names of the arrays `[H, W]` uint8 of a slice: image, mask, ...
    """
    grid = {"shape": (None, None), "dtype": np.uint8, "encoding": "zlib"}
    texts = {name: tfds.features.Text() for name in ("id", "patient")}
    return tfds.features.FeaturesDict(
        {name: tfds.features.Tensor(**grid) for name in grids} | texts
    )


def facts_of(record: Mapping[str, Any]) -> list[Any]:
    """Return what is stored of a record beside its hash: patient, volume, pixels of each class.

    Where pixels have weights, their number tells little and is left out.

    Args:
        record: of a slice.
    """
    mask = record.get("mask")
    pixels = None if mask is None or "weight" in record else class_counts(mask)
    return [text_of(record["patient"]), text_of(record.get("volume", "")), pixels]


class RecordSlices(Slices):
    """The slices of one built split, decoded each time they are accessed.

    Args:
        source: the records.
        labelled: whether their masks are labels.
        binary: whether to read both lesion classes as 1.
    """

    def __init__(self, source: Records, labelled: bool, binary: bool) -> None:
        self._source = source
        self._labelled = labelled
        self._binary = binary

    def __len__(self) -> int:
        return len(self._source)

    def _item(self, index: int) -> Slice:
        record = self._source[index]
        mask = record["mask"] if self._labelled else None
        if mask is not None and self._binary:
            mask = (mask > 0).astype(mask.dtype)
        return Slice(
            image=record["image"],
            mask=mask,
            lung=record.get("lung"),
            id=text_of(record["id"]),
            patient=text_of(record["patient"]),
            spacing=_spacing(record.get("spacing")),
            volume=text_of(record.get("volume", "")) or None,
            slice_spacing=float(record.get("slice_spacing", 0)) or None,
            weight=record.get("weight"),
        )

    def known(self, index: int) -> About | None:
        """See `Slices.known`; records of older versions have to be read."""
        row = self._source.stored(index)
        if row is None or row.facts is None:
            return None
        patient, volume, pixels = row.facts
        counts = tuple(pixels) if self._labelled and pixels is not None else None
        if counts is not None and self._binary:
            counts = (counts[0], sum(counts[1:]))
        return About(row.id, patient, volume or None, counts)


def _spacing(value: Sequence[float] | None) -> tuple[float, float] | None:
    """Return a record's spacing; None if it is absent or 0."""
    return None if value is None or not value[0] else (float(value[0]), float(value[1]))
