"""The slices of a built data set, decoded from its records."""

from collections.abc import Sequence
from typing import Any

from input_pipeline.records import text_of
from input_pipeline.slices import LazySequence, Slice


class RecordSlices(LazySequence[Slice]):
    """The slices of one built split, decoded each time they are accessed.

    Args:
        source: the records.
        labelled: whether their masks are labels.
        binary: whether to read both lesion classes as 1.
    """

    def __init__(self, source: Sequence[dict[str, Any]], labelled: bool, binary: bool) -> None:
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
        )


def _spacing(value: Sequence[float] | None) -> tuple[float, float] | None:
    """Return a record's spacing; None if it is absent or 0."""
    return None if value is None or not value[0] else (float(value[0]), float(value[1]))
