"""Sequences whose items are made at each access."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar, overload

T = TypeVar("T", covariant=True)


class LazySequence(Sequence[T], Generic[T]):
    """Whole numbers, negative ones too, give an item; slices give a list of them.

    A subclass defines `__len__` and `_item`.
    """

    @abstractmethod
    def _item(self, index: int) -> T:
        """Make the item of an index from 0 to the length less one."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """One item, or a list of them.

        Raises:
            IndexError: there is none of that index.
        """
        count = len(self)
        if isinstance(index, slice):
            return [self._item(k) for k in range(*index.indices(count))]
        if not -count <= index < count:
            raise IndexError(f"{type(self).__name__} has {count} items; asked for {index}")
        return self._item(int(index) % count)
