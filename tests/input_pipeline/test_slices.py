"""A lazy sequence is indexed as a list is, and makes no item before it is asked for."""

import numpy as np
import pytest

from input_pipeline.slices import (
    About,
    Concatenated,
    LazySequence,
    Slice,
    Slices,
    Subset,
    abouts,
    known,
)


class Squares(LazySequence[int]):
    def __len__(self) -> int:
        return 5

    def _item(self, index: int) -> int:
        return index**2


class Counting(LazySequence[Slice]):
    """Slices named after their place, with a list of the places that were read."""

    def __init__(self, name: str, length: int) -> None:
        self.name, self.length = name, length
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.length

    def _item(self, index: int) -> Slice:
        self.read.append(index)
        image = np.full((2, 2), index, np.int16)
        return Slice(image, None, None, f"{self.name}{index}", self.name, None)


def ids(slices):
    return [item.id for item in slices]


def test_it_is_indexed_as_a_list_is():
    lazy, plain = Squares(), [0, 1, 4, 9, 16]
    assert list(lazy) == plain
    assert [lazy[k] for k in range(-5, 5)] == [plain[k] for k in range(-5, 5)]
    for part in (slice(2), slice(1, None, 2), slice(None, None, -1), slice(3, 99)):
        assert lazy[part] == plain[part]


@pytest.mark.parametrize("index", [5, -6])
def test_what_is_not_there(index):
    with pytest.raises(IndexError, match=f"Squares has 5 items, got the index {index}"):
        Squares()[index]


def test_a_subset_has_the_chosen_slices_in_the_chosen_order():
    source = Counting("a", 6)
    subset = Subset(source, (4, 0, 4, 2))
    assert (len(subset), source.read) == (4, [])
    assert ids(subset) == ["a4", "a0", "a4", "a2"]
    assert source.read == [4, 0, 4, 2]
    assert ids([subset[-1], subset[1]]) == ["a2", "a0"]
    assert ids(subset[1:3]) == ["a0", "a4"]
    np.testing.assert_array_equal(subset[0].image, np.full((2, 2), 4))
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"Subset has 4 items, got the index {index}"):
            subset[index]
    assert list(Subset(source, [])) == []


def test_a_subset_does_not_change_with_the_list_it_was_given():
    indices = [1, 3]
    subset = Subset(Counting("a", 6), indices)
    indices.append(5)
    assert ids(subset) == ["a1", "a3"]


def test_one_sequence_follows_another():
    first, second = Counting("a", 2), Counting("b", 3)
    both = Concatenated(first, second)
    assert (len(both), first.read, second.read) == (5, [], [])
    plain = ["a0", "a1", "b0", "b1", "b2"]
    assert ids(both) == plain
    assert (first.read, second.read) == ([0, 1], [0, 1, 2])
    assert [both[k].id for k in range(-5, 0)] == plain
    for part in (slice(1, 3), slice(None, None, -2), slice(4, 99)):
        assert ids(both[part]) == plain[part]
    for index in (5, -6):
        with pytest.raises(IndexError, match=f"Concatenated has 5 items, got the index {index}"):
            both[index]


def test_either_sequence_may_be_empty():
    full = Counting("a", 2)
    assert ids(Concatenated([], full)) == ids(Concatenated(full, [])) == ["a0", "a1"]
    nested = Concatenated(Subset(full, [1]), Concatenated(full, Subset(full, [0])))
    assert ids(nested) == ["a1", "a0", "a1", "a0"]


class Unread(Slices):
    """Slices that may not be read, of which all is known."""

    def __len__(self) -> int:
        return 3

    def _item(self, index: int) -> Slice:
        raise AssertionError(f"slice {index} is read")

    def known(self, index: int) -> About | None:
        return About(f"u{index}", "p", None, (index, 0))


def test_what_is_known_of_slices_is_not_read():
    mask = np.uint8([[0, 2], [2, 1]])
    read = [
        Slice(mask, mask, None, "a", "one", None, volume="v"),
        Slice(mask, None, None, "b", "two", None),
        Slice(mask, mask, None, "c", "two", None, weight=mask),
    ]
    both = Concatenated(Subset(Unread(), [2, 0]), read)
    assert list(abouts(both)) == [
        About("u2", "p", None, (2, 0)),
        About("u0", "p", None, (0, 0)),
        About("a", "one", "v", (1, 1, 2)),
        About("b", "two", None, None),
        About("c", "two", None, None),
    ]
    assert [known(both, k) is None for k in range(5)] == [False, False, True, True, True]
