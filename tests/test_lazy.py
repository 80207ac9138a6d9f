"""A lazy sequence is indexed as a list is."""

import pytest

from input_pipeline.lazy import LazySequence


class Squares(LazySequence[int]):
    def __len__(self) -> int:
        return 5

    def _item(self, index: int) -> int:
        return index**2


def test_it_is_indexed_as_a_list_is():
    lazy, plain = Squares(), [0, 1, 4, 9, 16]
    assert list(lazy) == plain
    assert [lazy[k] for k in range(-5, 5)] == [plain[k] for k in range(-5, 5)]
    for part in (slice(2), slice(1, None, 2), slice(None, None, -1), slice(3, 99)):
        assert lazy[part] == plain[part]


@pytest.mark.parametrize("index", [5, -6])
def test_what_is_not_there(index):
    with pytest.raises(IndexError, match=f"Squares has 5 items; asked for {index}"):
        Squares()[index]
