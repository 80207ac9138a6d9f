"""Assign the voxels of a lung mask to the right and to the left lung."""

import numpy as np
from scipy import ndimage

from input_pipeline.lungs.components import Components

RIGHT, LEFT = 1, 2
# A seam is a path from the front of a slice to its back that separates the lungs. Below, the plane
# is the sagittal one with the most lung.
ONE_LUNG = 0.35  # the scan has one lung if its seams cross more than this share of the plane's lung
SEAM_MARGIN = 0.2  # share of the lungs' width at the right and at the left without seams
SEAM_PULL = 2e-4  # cost, in lung pixels per row, of a seam one column away from its usual place
SEAM_SLIP = 0.05  # a component with less than this share beyond the seam lies on one side
SEAM_SLICES = 16  # slices whose seams are found at a time
ALONE = 0.98  # a scan has one lung if more than this share of it lies on one side of the spine
BONE_HU = (150.0, 750.0)  # what is brighter than the first counts as bone, up to the second
SPINE_SLICES = 32  # with lung, spread evenly, in which the spine is looked for
SPINE_BLUR = 0.02  # of the width; the spine is the place with the most bone in this surrounding
LEAST_BONE = 20.0  # HU above the first of BONE_HU in the mean there; with less no spine is seen


def label_left_right(lung: np.ndarray, voxels: np.ndarray | None = None) -> np.ndarray:
    """Label the right lung and the left lung of a mask.

    In each slice a seam from front to back separates them where it crosses the least lung, near the
    column that does so in the whole scan. A connected component that a seam hardly touches belongs
    to one side as a whole. If every seam would cut through the body of a lung, or if all lung lies
    on one side of the spine, there is only one lung: components to the patient's right of the spine
    are right, others left. Without a spine to see, the scan's middle column takes its place.

    Args:
        lung: `[slices, rows, columns]` of 0 and 1, with any number of slices; columns from the
            patient's right to the left.
        voxels: `[slices, rows, columns]` HU of the scan; None if unknown.

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
    spine = None if voxels is None else spine_column(lung, voxels)
    if spine is not None:
        before = profile[: round(spine)].sum() / profile.sum()
        if max(before, 1 - before) > ALONE:
            _label_by_column(labels, lung, spine)
            return labels
    seams, crossed = _seams(lung, profile)
    if crossed > ONE_LUNG * profile.max():
        _label_by_column(labels, lung, spine)
        return labels
    columns = np.arange(lung.shape[2])
    for index in range(len(lung)):
        labels[index] = np.where(columns <= seams[index][:, None], RIGHT, LEFT)
    _assign_components(labels, lung)
    return labels


def spine_column(lung: np.ndarray, voxels: np.ndarray) -> float | None:
    """Find the column of the spine: where the slices with lung hold the most bone.

    Args:
        lung: `[slices, rows, columns]` of 0 and 1.
        voxels: `[slices, rows, columns]` HU.

    Returns:
        The column; None if no spine is seen.
    """
    with_lung = [index for index, plane in enumerate(lung) if plane.any()]
    if not with_lung:
        return None
    places = np.linspace(0, len(with_lung) - 1, min(SPINE_SLICES, len(with_lung)))
    bone: np.ndarray = np.zeros(lung.shape[1:], np.float32)
    least, most = BONE_HU
    for place in places.round().astype(int):
        bone += np.clip(voxels[with_lung[place]].astype(np.float32), least, most) - least
    bone = ndimage.gaussian_filter(bone / len(places), SPINE_BLUR * bone.shape[1])
    if bone.max() < LEAST_BONE:
        return None
    return float(bone.argmax() % bone.shape[1])


def _label_by_column(labels: np.ndarray, lung: np.ndarray, column: float | None) -> None:
    """Label each component of a lung by the side of a column on which its centre lies.

    Regions of single slices that lie on the other side, tips of the other lung, get that side.

    Args:
        labels: `[slices, rows, columns]` zeros; changed in place.
        lung: `[slices, rows, columns]` of 0 and 1.
        column: the column; None if there is only one lung, and the scan's middle is to decide.
    """
    components = Components(lung)
    total = components.of_region.size + 1
    size, right, offset = (np.zeros(total) for _ in range(3))
    middle = (lung.shape[2] - 1) / 2 if column is None else column
    away = np.broadcast_to(np.arange(lung.shape[2]) - middle, lung.shape[1:])
    for index in range(len(lung)):
        regions = components.labels(index)
        size += np.bincount(regions.ravel(), minlength=total)
        right += np.bincount(regions[away <= 0], minlength=total)
        offset += np.bincount(regions.ravel(), weights=away.ravel(), minlength=total)
    if column is None:
        whole = np.full(components.count, offset[1:].sum())
    else:
        whole = components.totals(offset[1:])
    side = np.where(whole <= 0, RIGHT, LEFT)[components.of_region]
    if column is not None:
        apart = _one_side(right[1:] / size[1:])
        side = np.where(apart > 0, apart, side)
    choice = np.concatenate([[0], side]).astype(np.uint8)
    for index in range(len(lung)):
        labels[index] = choice[components.labels(index)]


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
