"""Assign the voxels of a lung mask to the right and to the left lung."""

import numpy as np

from input_pipeline.lungs.components import Components

RIGHT, LEFT = 1, 2
# A seam is a path from the front of a slice to its back that separates the lungs. Below, the plane
# is the sagittal one with the most lung.
ONE_LUNG = 0.35  # the scan has one lung if its seams cross more than this share of the plane's lung
SEAM_MARGIN = 0.2  # share of the lungs' width at the right and at the left without seams
SEAM_PULL = 2e-4  # cost, in lung pixels per row, of a seam one column away from its usual place
SEAM_SLIP = 0.05  # a component with less than this share beyond the seam lies on one side
SEAM_SLICES = 16  # slices whose seams are found at a time


def label_left_right(lung: np.ndarray) -> np.ndarray:
    """Label the right lung and the left lung of a mask.

    In each slice a seam from front to back separates them where it crosses the least lung, near the
    column that does so in the whole scan. A connected component that a seam hardly touches belongs
    to one side as a whole. If every seam would cut through the body of a lung, there is only one
    lung: the right one if its centre of mass lies to the patient's right of the scan's middle
    column, else the left one.

    Args:
        lung: `[slices, rows, columns]` of 0 and 1, with any number of slices; columns from the
            patient's right to the left.

    Returns:
        `[slices, rows, columns]` uint8 lung labels: 0 none, 1 (RIGHT) the patient's right lung,
        2 (LEFT) the left one.
    """
    labels = np.zeros(lung.shape, np.uint8)
    profile = np.zeros(lung.shape[2], np.int64)  # lung voxels in each sagittal plane
    for plane in lung:
        profile += np.count_nonzero(plane, axis=0)
    if not profile.any():
        return labels
    seams, crossed = _seams(lung, profile)
    if crossed > ONE_LUNG * profile.max():
        centre = np.average(np.arange(profile.size), weights=profile)
        labels[lung > 0] = RIGHT if centre <= (profile.size - 1) / 2 else LEFT
        return labels
    columns = np.arange(lung.shape[2])
    for index in range(len(lung)):
        labels[index] = np.where(columns <= seams[index][:, None], RIGHT, LEFT)
    _assign_components(labels, lung)
    return labels


def _seams(lung: np.ndarray, profile: np.ndarray) -> tuple[np.ndarray, int]:
    """Find the path through each slice that separates right from left and crosses the least lung.

    Args:
        lung: `[slices, rows, columns]` of 0 and 1.
        profile: `[columns]` number of lung voxels in each sagittal plane.

    Returns:
        `[slices, rows]` the last column on the patient's right side, and the number of lung pixels
        that all paths together cross.
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


def _assign_components(labels: np.ndarray, lung: np.ndarray) -> None:
    """Assign components that a seam hardly touches to one side, and clear voxels without lung.

    A component that lies on both sides keeps the division by the seams, except for those of its
    regions in single slices that lie on one side.

    Args:
        labels: `[slices, rows, columns]` side of every voxel, RIGHT or LEFT; changed in place.
        lung: `[slices, rows, columns]` of 0 and 1.
    """
    components = Components(lung)
    total = components.of_region.size
    size, right = np.zeros(total), np.zeros(total)
    for index in range(len(lung)):
        regions = components.labels(index)
        size += np.bincount(regions.ravel(), minlength=total + 1)[1:]
        right += np.bincount(regions[labels[index] == RIGHT], minlength=total + 1)[1:]
    whole = _one_side(components.totals(right) / components.totals(size))[components.of_region]
    whole = np.where(whole > 0, whole, _one_side(right / size))
    choice = np.concatenate([[0], whole]).astype(np.uint8)
    for index in range(len(lung)):
        regions = components.labels(index)
        chosen = choice[regions]
        labels[index] = np.where((regions > 0) & (chosen == 0), labels[index], chosen)


def _one_side(share: np.ndarray) -> np.ndarray:
    """Return RIGHT or LEFT by the share that lies on the right side; 0 if it lies on both."""
    return np.select([share >= 1 - SEAM_SLIP, share <= SEAM_SLIP], [RIGHT, LEFT], 0)
