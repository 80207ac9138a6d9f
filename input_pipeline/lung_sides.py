"""Which of the lungs of a scan is the right one."""

import numpy as np

from input_pipeline.components import Components

RIGHT, LEFT = 1, 2
ONE_LUNG = 0.35  # the seams cross more than this share of the largest sagittal plane: one lung
SEAM_MARGIN = 0.2  # of the lungs' width, left and right, that the seams keep out of
SEAM_PULL = 2e-4  # lung pixels that a seam gives to be a column nearer to its place, per row
SEAM_SLIP = 0.05  # a part with less than this share beyond the seam lies on one side
SEAM_SLICES = 16  # at a time


def lung_sides(lung: np.ndarray) -> np.ndarray:
    """Tell the right lung from the left.

    In each slice a seam from front to back parts them where it crosses least lung, near the column
    that does so over the whole scan; a part that a seam hardly touches goes to one side as a whole.
    Where every seam would cross a lung through its body there is one lung alone: it is the right
    one if its centre of mass lies to the patient's right of the scan's middle column.

    Args:
        lung: [slices, rows, columns] of 0 and 1, any number of slices; columns from the patient's
            right to the left.

    Returns:
        uint8 of that shape: 0 outside, 1 (RIGHT) the patient's right lung, 2 (LEFT) the left.
    """
    sides = np.zeros(lung.shape, np.uint8)
    profile = np.zeros(lung.shape[2], np.int64)  # lung in each sagittal plane
    for plane in lung:
        profile += np.count_nonzero(plane, axis=0)
    if not profile.any():
        return sides
    seams, crossed = _seams(lung, profile)
    if crossed > ONE_LUNG * profile.max():
        centre = np.average(np.arange(profile.size), weights=profile)
        sides[lung > 0] = RIGHT if centre <= (profile.size - 1) / 2 else LEFT
        return sides
    columns = np.arange(lung.shape[2])
    for index in range(len(lung)):
        sides[index] = np.where(columns <= seams[index][:, None], RIGHT, LEFT)
    _settle(sides, lung)
    return sides


def _seams(lung: np.ndarray, profile: np.ndarray) -> tuple[np.ndarray, int]:
    """Paths through each slice that part right from left and cross the least lung.

    Returns:
        [slices, rows] the last column on the patient's right side, and how many pixels of lung
        the paths cross in all.
    """
    present = np.flatnonzero(profile)
    margin = round(SEAM_MARGIN * (present[-1] - present[0]))
    first, last = present[0] + margin, present[-1] - margin + 1
    band = profile[first:last]
    away = np.abs(np.arange(band.size) - (band.size - 1) / 2)
    near = np.abs(np.arange(band.size) - np.lexsort((away, band))[0]) * SEAM_PULL
    seams = np.empty(lung.shape[:2], np.int64)
    crossed = 0
    for start in range(0, len(lung), SEAM_SLICES):
        inside = lung[start : start + SEAM_SLICES, :, first:last] > 0
        cost = near + inside[:, 0]
        steps = np.empty(inside.shape, np.int8)
        for row in range(1, inside.shape[1]):
            padded = np.pad(cost, ((0, 0), (1, 1)), constant_values=np.inf)
            before = np.stack([padded[:, 1:-1], padded[:, :-2], padded[:, 2:]])
            best = before.argmin(axis=0)
            steps[:, row] = np.array([0, -1, 1], np.int8)[best]
            cost = before.min(axis=0) + near + inside[:, row]
        column = cost.argmin(axis=1)
        every = np.arange(len(inside))
        for row in range(inside.shape[1] - 1, -1, -1):
            seams[start : start + len(inside), row] = column + first
            crossed += int(inside[every, row, column].sum())
            if row:
                column = column + steps[every, row, column]
    return seams, crossed


def _settle(sides: np.ndarray, lung: np.ndarray) -> None:
    """Give what a seam hardly touches to one side, and clear what is no lung; `sides` changes."""
    parts = Components(lung)
    total = parts.of_region.size
    size, right = np.zeros(total), np.zeros(total)
    for index in range(len(lung)):
        labels = parts.labels(index)
        size += np.bincount(labels.ravel(), minlength=total + 1)[1:]
        right += np.bincount(labels[sides[index] == RIGHT], minlength=total + 1)[1:]
    whole = _one_side(parts.totals(right) / parts.totals(size))[parts.of_region]
    whole = np.where(whole > 0, whole, _one_side(right / size))
    choice = np.concatenate([[0], whole]).astype(np.uint8)
    for index in range(len(lung)):
        labels = parts.labels(index)
        settled = choice[labels]
        sides[index] = np.where((labels > 0) & (settled == 0), sides[index], settled)


def _one_side(share: np.ndarray) -> np.ndarray:
    """The side of parts of which this share lies on the right; 0 where it is not clear."""
    return np.select([share >= 1 - SEAM_SLIP, share <= SEAM_SLIP], [RIGHT, LEFT], 0)
