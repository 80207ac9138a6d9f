"""The parts that several processes score: every slice once, volumes whole."""

from typing import NamedTuple

import pytest

from ssa_jax.evaluation.scoring import volume_part


class Item(NamedTuple):
    volume: str | None


def parts_of(volumes: str, parts: int) -> list[list[int]]:
    slices = [Item(None if name == "-" else name) for name in volumes]
    return [list(volume_part(slices, part, parts)) for part in range(parts)]


@pytest.mark.parametrize(
    ("volumes", "expected"),
    [
        ("------", [[0, 1], [2, 3], [4, 5]]),
        ("aaabbb", [[0, 1, 2], [3, 4, 5], []]),
        ("aaaaaa", [[0, 1, 2, 3, 4, 5], [], []]),
        ("a-bbbb", [[0, 1], [2, 3, 4, 5], []]),
        ("ab", [[], [0], [1]]),
        ("", [[], [], []]),
    ],
)
def test_a_volume_is_in_one_part(volumes, expected):
    assert parts_of(volumes, 3) == expected
