"""The figures of `tests.attention_places`, by hand."""

import numpy as np
import pytest

from tests.attention_places import places, with_interval


def test_where_the_maps_of_a_slice_look():
    mask, lung = np.zeros((40, 80), np.uint8), np.zeros((40, 80), np.uint8)
    mask[10:20, 40:50] = 2
    lung[5:30, 30:60] = 1
    maps = np.random.default_rng(0).random((40, 80, 4)) * 0.1
    maps[0, 40, 0] = 9  # the border
    maps[12:16, 41:51, 1] = 1  # 36 pixels of the lesion, and 4 of the lung beside it
    maps[12, 41, 1] = 9
    maps[13, 42, 2] = 9  # the same square of 5 x 10 pixels
    maps[28, 31, 3] = 9  # in the lung
    rows = places(maps, mask, lung)
    assert [row["border"] for row in rows] == [1, 0, 0, 0]
    assert [row["lungs"] for row in rows] == [0, 1, 1, 1]
    assert [row["lesion"] for row in rows] == [0, 1, 1, 0]
    assert [row["same place as next"] for row in rows] == [0, 1, 0, None]
    inside = rows[1]["lesion in strongest tenth"]
    assert inside is not None and 0.36 <= inside <= 0.5
    assert places(maps, mask, None)[1]["lungs"] is None


def test_the_interval_holds_the_mean():
    made = with_interval(np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0]))
    assert made["mean"] == pytest.approx(2 / 3)
    assert made["low"] < 2 / 3 < made["high"]
