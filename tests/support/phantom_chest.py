"""A chest scan whose lungs are known: no side equals the other, so no flip goes unnoticed."""

from typing import NamedTuple

import numpy as np

SHAPE = (44, 100, 130)
SPACING = (5.0, 3.0, 3.0)


class Chest(NamedTuple):
    """Voxels [slices, rows, columns] int16 HU, and masks on the same grid.

    `sides` holds the lung labels, 1 in the patient's right lung and 2 in the left; `dense` is the
    part of the right lung that is solid at the chest wall; `gas` maps names to other hollows.
    """

    voxels: np.ndarray
    sides: np.ndarray
    dense: np.ndarray
    gas: dict[str, np.ndarray]


def ellipsoid(centre, radii, shape=SHAPE):
    """Voxels within an ellipsoid, [slices, rows, columns] bool."""
    places = np.ogrid[tuple(slice(size) for size in shape)]
    return sum(((x - c) / r) ** 2 for x, c, r in zip(places, centre, radii, strict=True)) < 1


def chest() -> Chest:
    """Abdomen below, lungs in slices 10 to 36, neck above 38, the patient on a hollow table."""
    level, row, column = np.ogrid[tuple(slice(size) for size in SHAPE)]
    trunk = np.where(level < 38, 1.0, 0.45)
    body = ((row - 45) / (40 * trunk)) ** 2 + ((column - 64) / (58 * trunk)) ** 2 < 1
    right = ellipsoid((22, 46, 34), (13.1, 26, 20))  # columns run from the patient's right
    left = ellipsoid((24, 46, 92), (12, 24, 16))
    heart = ellipsoid((18, 40, 74), (9, 18, 14))
    left &= ~heart
    dense = right & ellipsoid((22, 56, 18), (4, 9, 6))
    gas = {
        "windpipe": np.broadcast_to(
            ((row - 40) ** 2 + (column - 64) ** 2 < 9) & (level > 30), SHAPE
        ),
        "stomach": ellipsoid((5, 30, 88), (4, 9, 11)),
        "table": np.broadcast_to((abs(row - 92) < 4) & (abs(column - 64) < 45), SHAPE),
    }
    hu = np.full(SHAPE, -1000.0)
    hu[body] = 40
    hu[np.broadcast_to((abs(row - 92) < 6) & (abs(column - 64) < 47), SHAPE)] = 100
    hu[right | left] = -850
    hu[dense] = 20
    for hollow in gas.values():
        hu[hollow] = -1000
    hu += np.random.default_rng(0).normal(0, 15, SHAPE)
    sides = (right + 2 * left).astype(np.uint8)
    return Chest(np.rint(hu).astype(np.int16), sides, dense, gas)
