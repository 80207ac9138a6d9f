"""The parts that several processes score: every slice once, volumes whole."""

import pytest

from ssa_jax.evaluation.scoring import volume_part


def parts_of(volumes: str, parts: int) -> list[list[int]]:
    def volume_of(place: int) -> str | None:
        return None if volumes[place] == "-" else volumes[place]

    return [list(volume_part(len(volumes), volume_of, part, parts)) for part in range(parts)]


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
