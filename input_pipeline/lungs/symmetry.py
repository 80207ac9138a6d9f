"""Find the dense part of a lung from the other lung, where it has little air or none.

Solid lung is as bright as muscle, heart and liver, so intensity does not show where it ends. If one
lung is much smaller than the other, the mirror image of the other one says where it should be.
"""

import numpy as np
from scipy import ndimage

from input_pipeline.lungs.inside import smoothed
from input_pipeline.lungs.left_right import LEFT, RIGHT, spine_column
from input_pipeline.lungs.outlines import beside_mediastinum, box_of, opening

MUCH_SMALLER = 0.6  # a lung with less than this share of the other's volume has lost a part of it
IN_VIEW = 0.9  # of the mirrored lung lies in the scan; else the small one is cut off, not dense
LIVER_MM = 15.0  # the right half of the diaphragm is higher by about this
SLICES = 12  # with air in both lungs, in which the mirror image is compared with the small lung
THINNEST = 0.05  # of the root of the other lung's section; thinner parts are errors of the mirror


def add_mirrored(
    mask: np.ndarray,
    lung_labels: np.ndarray,
    voxels: np.ndarray,
    *,
    level: float,
    spacing: tuple[float, float, float] | None,
) -> int:
    """Add the dense part of a lung that is much smaller than the other, in place.

    It is the tissue inside the mirror image of the other lung, slice by slice. Beside the part that
    has air, the mediastinum lies where that part says, since the heart is not symmetrical.

    Args:
        mask: `[slices, rows, columns]` of 0 and 1, the lungs found so far; changed in place.
        lung_labels: `[slices, rows, columns]` lung labels of the aerated parts.
        voxels: `[slices, rows, columns]` HU.
        level: HU from which a voxel counts as tissue.
        spacing: millimetres between (slices, rows, columns); None if unknown.

    Returns:
        The label of the lung that was completed; 0 if none was.
    """
    sizes = [np.count_nonzero(lung_labels == side) for side in (RIGHT, LEFT)]
    if max(sizes) == 0 or min(sizes) >= MUCH_SMALLER * max(sizes):
        return 0
    small, large = (RIGHT, LEFT) if sizes[0] < sizes[1] else (LEFT, RIGHT)
    spine = spine_column(lung_labels > 0, voxels)
    if spine is None:
        return 0
    outwards = -1 if small == RIGHT else 1
    inset, shift = _misfit(lung_labels == small, lung_labels == large, 2 * spine, outwards)
    axis = 2 * spine + shift
    image = axis - np.arange(lung_labels.shape[2])
    profile = np.count_nonzero(lung_labels == large, axis=(0, 1))
    if profile[(image >= 0) & (image < image.size)].sum() < IN_VIEW * profile.sum():
        return 0
    lower = 0 if spacing is None or small == LEFT else round(LIVER_MM / spacing[0])
    for index in np.flatnonzero((lung_labels == large).any(axis=(1, 2))).tolist():
        other = (lung_labels[index] == large) & (mask[index] > 0)
        expected = _shrunk(_mirrored(other, axis), inset)
        if lower:  # the liver: what is lung a little further down as well
            below = lung_labels[max(index - lower, 0)] == large
            expected &= _shrunk(_mirrored(below, axis), inset)
        expected &= (smoothed(voxels[index]) >= level) & (lung_labels[index] == 0)
        expected &= beside_mediastinum(lung_labels[index] == small, axis / 2, outwards)
        if expected.any():
            rows, columns = box_of(expected, margin=2)
            thinnest = THINNEST * float(np.sqrt(np.count_nonzero(other)))
            mask[index, rows, columns] |= opening(expected[rows, columns], thinnest)
    return small


def _mirrored(lung: np.ndarray, axis: float) -> np.ndarray:
    """Return the mirror image of a slice about the column `axis / 2`, `[rows, columns]` bool."""
    columns = np.rint(axis - np.arange(lung.shape[1])).astype(int)
    within = (columns >= 0) & (columns < lung.shape[1])
    image = np.zeros(lung.shape, bool)
    image[:, within] = lung[:, columns[within]]
    return image


def _shrunk(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Return a mask without the pixels nearer to its edge than some pixels."""
    return mask if not pixels else ndimage.distance_transform_edt(mask) > pixels


def _misfit(small: np.ndarray, large: np.ndarray, axis: float, outwards: int) -> tuple[int, int]:
    """Compare the mirrored large lung with the part of the small one that has air.

    Args:
        small: `[slices, rows, columns]` bool.
        large: `[slices, rows, columns]` bool.
        axis: twice the column of the mirror's axis.
        outwards: -1 if the small lung is where columns begin (the right one), else 1.

    Returns:
        The pixels by which the image reaches further to the front, usually; and the columns to add
        to `axis` so that, with so many pixels less at its edge, it ends where the small lung ends
        at the patient's side.
    """
    both = np.flatnonzero(small.any(axis=(1, 2)) & large.any(axis=(1, 2)))
    fronts, sides = [0.0], [0.0]
    for index in both[:: max(1, len(both) // SLICES)]:
        image, part = _mirrored(large[index], axis), small[index]
        rows = [np.flatnonzero(mask.any(axis=1)) for mask in (image, part)]
        fronts.append(float(rows[1][0] - rows[0][0]) if rows[0].size else 0.0)
        common = image.any(axis=1) & part.any(axis=1)
        if common.any():
            ends = [_last(mask[common], outwards) for mask in (image, part)]
            sides.append(float(np.median(ends[0] - ends[1])))
    inset = max(0, round(float(np.median(fronts[1:] or fronts))))
    overshoot = round(float(np.median(sides[1:] or sides)))
    return inset, -outwards * (overshoot - inset)


def _last(mask: np.ndarray, outwards: int) -> np.ndarray:
    """Return how far each row of a mask reaches outwards: its last column, or minus its first."""
    if outwards < 0:
        return -mask.argmax(axis=1)
    return mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
