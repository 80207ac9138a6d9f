"""The outline of a lung in one slice: what its shape says where intensity does not.

A lung is convex towards the chest wall, so dense parts there are found by convex hulls. Tissue in
which a large disc fits is an organ and stays outside.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

ON_EDGE = 1e-9  # pixels; a pixel whose centre is this near to the edge of a convex hull is inside
# Both radii are shares of the square root of the aerated area, so that pixel size does not matter.
CLOSING = 0.05  # includes vessels and small lesions at the edge of the lung
ORGAN = 0.115  # tissue in which a disc of this radius fits is heart, liver or spine
MEDIASTINUM_SLOPE = 1.0  # columns by which the edge of heart and vessels recedes in each row
MEDIAL_REACH = 0.2  # a lung's hull is cut this far beyond its centre, as a share of its extent


def dilate(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Grow a mask by a disc.

    Args:
        mask: `[H, W]` of 0 and 1.
        pixels: radius of the disc, 0 or more.

    Returns:
        `[H, W]` uint8.
    """
    if pixels == 0 or not mask.any():
        return mask.astype(np.uint8)
    grown = np.zeros(mask.shape, np.uint8)
    box = box_of(mask > 0, pixels)
    grown[box] = ndimage.distance_transform_edt(mask[box] == 0) <= pixels
    return grown


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Return a mask with its four neighbours added so many times; quicker than SciPy's dilation.

    Args:
        mask: `[H, W]` bool.
        pixels: how many times, 0 or more.
    """
    for _ in range(pixels):
        larger = mask.copy()
        larger[1:] |= mask[:-1]
        larger[:-1] |= mask[1:]
        larger[:, 1:] |= mask[:, :-1]
        larger[:, :-1] |= mask[:, 1:]
        mask = larger
    return mask


def box_of(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Return the bounding box of a mask that is not empty, widened by a margin."""
    rows, columns = (
        slice(max(int(places[0]) - margin, 0), int(places[-1]) + 1 + margin)
        for places in (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    )
    return rows, columns


def with_dense_parts(
    tissue: np.ndarray,
    aerated: tuple[np.ndarray, np.ndarray],
    middle: float | None = None,
) -> np.ndarray:
    """Return the lung mask of a slice: its aerated parts, and dense parts at the chest wall.

    Args:
        tissue: `[H, W]` bool, true where an organ may be.
        aerated: the aerated part of each lung, `[H, W]` bool.
        middle: column of the patient's middle, for a scan that holds one lung; else None, and the
            dense parts of a lung that is alone in its slice stay outside.

    Returns:
        `[H, W]` uint8, 1 inside the lungs.
    """
    scale = float(np.sqrt(aerated[0].sum() + aerated[1].sum()))
    lung = np.zeros(tissue.shape, bool)
    if not scale:
        return lung.astype(np.uint8)
    reach = 2 * int(ORGAN * scale) + 2  # pixels on which the opening depends
    box = box_of(aerated[0] | aerated[1], margin=reach)
    closed = [closing(part[box], CLOSING * scale) for part in aerated]
    organ = opening(tissue[box], ORGAN * scale)
    for one, other in (closed, closed[::-1]):
        if not one.any():
            continue
        if other.any():
            opposite = _centre(other)
        elif middle is not None:
            opposite = np.array([_centre(one)[0], middle - box[1].start])
        else:
            opposite = None
        hull = one if opposite is None else _costal_hull(one, opposite)
        lung[box] |= one | (_fill_holes(one | hull) & ~organ)
    return lung.astype(np.uint8)


def split_in_two(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide the pixels of a mask into two lungs by k-means, started along the longest axis."""
    points = np.argwhere(mask).astype(np.float64)
    centred = points - points.mean(axis=0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, 1]
    first = centred @ axis < 0
    rows, columns = points.T
    for _ in range(10):
        if first.all() or not first.any():
            break
        one, other = (
            (rows - rows[part].mean()) ** 2 + (columns - columns[part].mean()) ** 2
            for part in (first, ~first)
        )
        nearer = one < other
        if np.array_equal(nearer, first):
            break
        first = nearer
    lung = np.zeros_like(mask)
    lung[mask] = first
    return lung, mask & ~lung


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Return a mask with its holes filled."""
    if not mask.any():
        return mask
    box, filled = box_of(mask, margin=0), mask.copy()
    filled[box] = ndimage.binary_fill_holes(mask[box])
    return filled


def _centre(mask: np.ndarray) -> np.ndarray:
    """Return the mean (row, column) of the pixels of a mask that is not empty."""
    counts = (np.count_nonzero(mask, axis=axis) for axis in (1, 0))
    return np.array([np.average(np.arange(n.size), weights=n) for n in counts])


def closing(mask: np.ndarray, radius: float) -> np.ndarray:
    """Return the closing of a mask by a disc; pixels outside the image count as 0."""
    if not mask.any():
        return mask
    pad, box, closed = int(radius) + 1, box_of(mask, margin=0), mask.copy()
    grown = ndimage.distance_transform_edt(~np.pad(mask[box], pad)) <= radius
    shrunk = ndimage.distance_transform_edt(grown) > radius
    closed[box] |= shrunk[pad:-pad, pad:-pad]
    return closed


def opening(mask: np.ndarray, radius: float) -> np.ndarray:
    """Return the opening of a mask by a disc; outside the image its edge pixels are repeated."""
    pad = int(radius) + 1
    core = ndimage.distance_transform_edt(np.pad(mask, pad, mode="edge")) > radius
    if not core.any():
        return np.zeros_like(mask)
    opened = ndimage.distance_transform_edt(~core) <= radius
    return opened[pad:-pad, pad:-pad] & mask


def _costal_hull(lung: np.ndarray, opposite: np.ndarray) -> np.ndarray:
    """Return the convex hull of a lung without its part towards a place (the mediastinum).

    Args:
        lung: `[H, W]` bool, not empty.
        opposite: `[2]` row and column of the other lung's centre, or of the spine.
    """
    centre = _centre(lung)
    outward = centre - opposite
    rows, columns = np.ogrid[: lung.shape[0], : lung.shape[1]]
    along = (rows - centre[0]) * outward[0] + (columns - centre[1]) * outward[1]
    box, hull = box_of(lung, margin=0), np.zeros_like(lung)
    hull[box] = convex_hull(lung[box])
    return hull & (along > -MEDIAL_REACH * along[lung].max())


def convex_hull(mask: np.ndarray) -> np.ndarray:
    """Return the pixels whose centres are in the convex hull of a mask that is not empty.

    The result is that of scikit-image's `convex_hull_image`, for which a pixel is the diamond of
    the midpoints of its four edges. In each row the hull is one run of columns; computing its ends
    takes a tenth of the time of testing every pixel.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    first, last = mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    ends = np.concatenate([np.stack([rows, first], 1), np.stack([rows, last], 1)])
    corners = ends[:, None] + np.array([[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]])
    facets = ConvexHull(corners.reshape(-1, 2)).equations  # 0 or less for a point inside
    along, across, offset = (column[:, None] for column in facets.T)
    every = np.arange(rows[0], rows[-1] + 1)
    with np.errstate(divide="ignore"):
        edge = (ON_EDGE - offset - along * every) / across
    left = np.where(across < 0, edge, -np.inf).max(axis=0)
    right = np.where(across > 0, edge, np.inf).min(axis=0)
    columns = np.arange(mask.shape[1])
    hull = np.zeros_like(mask)
    hull[every] = (columns >= left[:, None]) & (columns <= right[:, None])
    return hull


def beside_mediastinum(aerated: np.ndarray, middle: float, outwards: int) -> np.ndarray:
    """Return the pixels beside heart and vessels, whose edge the aerated part of a lung shows.

    In rows without air the edge recedes towards the middle.

    Args:
        aerated: `[H, W]` bool, the part of one lung that has air.
        middle: column of the patient's middle.
        outwards: -1 if the lung is where columns begin (the right one), else 1.

    Returns:
        `[H, W]` bool; true everywhere if there is no air.
    """
    rows = np.flatnonzero(aerated.any(axis=1))
    if not rows.size:
        return np.ones(aerated.shape, bool)
    away = (np.arange(aerated.shape[1]) - middle) * outwards
    edge = np.where(aerated[rows], away, np.inf).min(axis=1)
    distance = np.abs(np.arange(aerated.shape[0])[:, None] - rows)
    limit = edge[distance.argmin(axis=1)] - MEDIASTINUM_SLOPE * distance.min(axis=1)
    return away >= limit[:, None]
