"""One CT slice, and sequences whose slices are made each time they are accessed."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar, overload

import numpy as np

T = TypeVar("T", covariant=True)


@dataclass(frozen=True)
class Slice:
    """One CT slice on its own grid.

    Attributes:
        image: `[H, W]` int16 Hounsfield units, or uint8 grey values.
        mask: `[H, W]` uint8 class index 0, 1 or 2; None if the slice is unlabelled.
        lung: `[H, W]` uint8, 1 inside the lungs and 0 outside; None if the source has no lung
            mask.
        id: name of the slice, unique within its split.
        patient: name of the patient; a slice of an unknown patient counts as its own patient.
        spacing: millimetres between (rows, columns); None if unknown, as for 8-bit slices.
        volume: name of the scan that the slice belongs to; None for a single slice.
        slice_spacing: millimetres between the slices of that scan; None for a single slice.
        weight: `[H, W]` uint8, the weight of each pixel in the loss, in 255ths (the confidence of
            a pseudo-label); None if every pixel has the full weight.
    """

    image: np.ndarray
    mask: np.ndarray | None
    lung: np.ndarray | None
    id: str
    patient: str
    spacing: tuple[float, float] | None
    volume: str | None = None
    slice_spacing: float | None = None
    weight: np.ndarray | None = None


class LazySequence(Sequence[T], Generic[T]):
    """A sequence that makes each item when it is accessed.

    As a list, it is indexed by a positive or negative integer, or by a slice, which returns a list.
    A subclass defines `__len__` and `_item`.
    """

    @abstractmethod
    def _item(self, index: int) -> T:
        """Return the item at `index`, which is 0 or more and less than the length."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """Return one item, or a list of items.

        Args:
            index: integer or slice.

        Raises:
            IndexError: there is no item at that index.
        """
        count = len(self)
        if isinstance(index, slice):
            return [self._item(k) for k in range(*index.indices(count))]
        if not -count <= index < count:
            raise IndexError(f"{type(self).__name__} has {count} items, got the index {index}")
        return self._item(int(index) % count)


class About(NamedTuple):
    """What is known of a slice without its pixels.

    Attributes:
        id: as of `Slice`, like the next two.
        patient: see there.
        volume: see there.
        pixels: number of pixels of each class, background first; None if it is unlabelled, or if
            pixels have weights.
    """

    id: str
    patient: str
    volume: str | None
    pixels: tuple[int, ...] | None


class Slices(LazySequence[Slice]):
    """Slices, of which some is known before they are read."""

    def known(self, index: int) -> About | None:
        """Return what is known of a slice without reading it; None if it has to be read.

        Args:
            index: of the slice, 0 or more.
        """
        del index
        return None


def class_counts(mask: np.ndarray) -> list[int]:
    """Count the pixels of each class up to the highest that there is, background first.

    Args:
        mask: `[H, W]` class index.
    """
    counts: list[int] = np.bincount(np.ravel(mask)).tolist()
    return counts


def known(slices: Sequence[Slice], index: int) -> About | None:
    """Return what `Slices.known` does; None for other sequences.

    Args:
        slices: any.
        index: of the slice, 0 or more.
    """
    return slices.known(index) if isinstance(slices, Slices) else None


def about(slices: Sequence[Slice], index: int) -> About:
    """Return what `Slices.known` does, or read the slice for it.

    Args:
        slices: any.
        index: of the slice, 0 or more.
    """
    found = known(slices, index)
    if found is not None:
        return found
    item = slices[index]
    pixels = None
    if item.mask is not None and item.weight is None:
        pixels = tuple(class_counts(item.mask))
    return About(item.id, item.patient, item.volume, pixels)


def abouts(slices: Sequence[Slice]) -> Iterator[About]:
    """Yield what `about` returns, of each slice."""
    return (about(slices, index) for index in range(len(slices)))


class Subset(Slices):
    """Some of the slices of another sequence.

    Args:
        slices: the sequence to choose from.
        indices: which of its slices, in their new order.
    """

    def __init__(self, slices: Sequence[Slice], indices: Sequence[int]) -> None:
        self._slices = slices
        self._indices = list(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def _item(self, index: int) -> Slice:
        return self._slices[self._indices[index]]

    def known(self, index: int) -> About | None:
        """See `Slices.known`."""
        return known(self._slices, self._indices[index])


class Concatenated(Slices):
    """The slices of one sequence followed by those of another.

    Args:
        first: the first sequence.
        second: the second sequence.
    """

    def __init__(self, first: Sequence[Slice], second: Sequence[Slice]) -> None:
        self._first = first
        self._second = second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def _item(self, index: int) -> Slice:
        split = len(self._first)
        return self._first[index] if index < split else self._second[index - split]

    def known(self, index: int) -> About | None:
        """See `Slices.known`."""
        split = len(self._first)
        chosen = (self._first, index) if index < split else (self._second, index - split)
        return known(*chosen)
