"""Compute lung masks of slices and scans from intensity and shape, without training.

Aerated lung and ground-glass are found because they are dark. Dense lesions at the pleura are as
bright as muscle; they are included because a lung is convex towards the chest wall. A lobe that is
completely consolidated does not show in that shape and is missed. A single slice may have any
orientation: every step treats rows and columns, and the four sides of the image, alike.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.filters import threshold_otsu

from input_pipeline.lungs.components import Components
from input_pipeline.lungs.left_right import LEFT, RIGHT, label_left_right

AIR_HU = -1024.0  # lower values, which mark the outside of the scan, count as this one
TISSUE_HU = -200.0  # between ground-glass (above -700) and fat (about -100)
TISSUE_FRACTION = 0.78  # in 8 bits: the same level, between the medians of lung and of tissue
MAX_DARKNESS = 0.65  # in 8 bits: lung is darker than this share of its tissue, else there is none
MIN_SHARE = 0.01  # of the body's pixels; smaller dark components are airways and bowel gas
GAS_HU = -925.0  # bowel gas: a small component whose darkest tenth is below this (HU only)
GAS_SHARE = 0.05  # of the body's pixels; a larger component is lung even if dark (emphysema)
ON_EDGE = 1e-9  # pixels; a pixel whose centre is this near to the edge of a convex hull is inside
# Both radii are shares of the square root of the aerated area, so that pixel size does not matter.
CLOSING = 0.05  # includes vessels and small lesions at the edge of the lung
ORGAN = 0.115  # tissue in which a disc of this radius fits is heart, liver or spine
MEDIAL_REACH = 0.2  # a lung's hull is cut this far beyond its centre, as a share of its extent
BLUR_MM = 1.0  # smoothing of a scan; one pixel, if that is less or the spacing is unknown
# Conditions that a connected component of a whole scan must meet to count as lung.
AERATED_HU = -500.0
MIN_AERATED = 0.3  # minimal share of its voxels below AERATED_HU; stool has fewer
PURE_GAS = 0.8  # with this share of its voxels below GAS_HU or more it is gas, however large
MIN_OF_LARGEST = 0.02  # minimal size as a share of the largest component that is lung
MIN_ML = 10.0  # minimal volume in millilitres


def threshold_lung_mask(image: np.ndarray, *, intensity: str, dilation: int) -> np.ndarray:
    """Compute the lung mask of one axial slice.

    A dark component that contains a corner of the image is air outside the body; a lung that a
    tight crop cuts off at a side of the image is kept. 8-bit slices must have the usual lung window
    (lung dark, fat and muscle bright).

    Args:
        image: `[H, W]` Hounsfield units (any signed dtype; values below -1024 count as air), or
            uint8 grey values.
        intensity: 'hu' or 'uint8', which of the two.
        dilation: pixels by which the mask is grown at the end, 0 or more.

    Returns:
        `[H, W]` uint8, 1 inside the lungs, without the airways outside them; all 0 if the slice
        holds no lung.

    Raises:
        ValueError: `intensity` is neither of the two.
    """
    if intensity not in ("hu", "uint8"):
        raise ValueError(f"intensity is {intensity!r}, expected 'hu' or 'uint8'")
    smooth = _smooth(image)
    level = TISSUE_HU if intensity == "hu" else _tissue_level(smooth)
    aerated = _aerated(smooth, level, GAS_HU if intensity == "hu" else -np.inf)
    if not aerated.any():
        return np.zeros(image.shape, np.uint8)
    return dilate(_with_dense_parts(smooth >= level, _split(aerated)), dilation)


def volume_lung_mask(
    voxels: np.ndarray, *, spacing: tuple[float, float, float] | None, dilation: int
) -> np.ndarray:
    """Compute the lung mask of a whole scan.

    Each slice is treated as by `threshold_lung_mask`, but which connected components are lung is
    decided in the whole scan. Components that are small in one slice are kept if they belong to a
    lung; gas in the bowel, the windpipe above the lungs and hollow parts of the table are removed.
    In addition to the input, this needs two bytes per voxel and a few slices.

    Args:
        voxels: `[slices, rows, columns]` HU, int16 or float32; slices inferior to superior, columns
            from the patient's right to the left.
        spacing: millimetres between (slices, rows, columns); None if unknown.
        dilation: pixels by which the mask is grown in each slice at the end, 0 or more.

    Returns:
        `[slices, rows, columns]` uint8, 1 inside the lungs; all 0 if the scan holds no lung.
    """
    if len(voxels) == 1:  # there are no neighbouring slices to decide by
        return threshold_lung_mask(voxels[0], intensity="hu", dilation=dilation)[None]
    mask = np.zeros(voxels.shape, np.uint8)
    blur = 1.0 if spacing is None else min(1.0, BLUR_MM / max(spacing[1:]))
    _keep_lungs(mask, voxels, blur, spacing)
    lung_labels = label_left_right(mask)
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        lung = _lung_of_slice(_smooth(voxels[index], blur), lung_labels[index])
        mask[index] = dilate(lung, dilation)
    return mask


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
    box = _box(mask > 0, pixels)
    grown[box] = ndimage.distance_transform_edt(mask[box] == 0) <= pixels
    return grown


def _tissue_level(smooth: np.ndarray) -> float:
    """Return the grey value between lung with ground-glass and tissue; -inf if there is no lung."""
    if np.ptp(smooth) == 0:
        return -np.inf
    middle = threshold_otsu(smooth)
    dark, bright = np.median(smooth[smooth <= middle]), np.median(smooth[smooth > middle])
    if dark > MAX_DARKNESS * bright:
        return -np.inf
    return float(dark + TISSUE_FRACTION * (bright - dark))


def _smooth(image: np.ndarray, pixels: float = 1.0) -> np.ndarray:
    """Return the image as float32, smoothed by a Gaussian of this standard deviation in pixels."""
    return ndimage.gaussian_filter(np.maximum(image.astype(np.float32), AIR_HU), pixels)


def _dark_regions(smooth: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Find the dark components inside the body.

    Returns:
        `[H, W]` number of the component of each pixel (0 for other pixels), the numbers that occur,
        and the number of pixels of the body.
    """
    labels, count = ndimage.label(smooth < level)
    outside = np.zeros(count + 1, bool)
    outside[labels[np.ix_((0, -1), (0, -1))]] = True
    outside[0] = False
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    body = int(smooth.size - sizes[outside].sum())
    outside[0] = True
    labels[outside[labels]] = 0
    return labels, np.flatnonzero(~outside), body


def _aerated(smooth: np.ndarray, level: float, gas: float) -> np.ndarray:
    """Return the dark components inside the body that are large enough for a lung and not gas."""
    labels, index, body = _dark_regions(smooth, level)
    sizes = np.bincount(labels.ravel())
    lung = [
        i
        for i in index
        if sizes[i] >= GAS_SHARE * body
        or (sizes[i] >= MIN_SHARE * body and np.percentile(smooth[labels == i], 10) >= gas)
    ]
    return np.isin(labels, lung)


def _keep_lungs(
    mask: np.ndarray,
    voxels: np.ndarray,
    blur: float,
    spacing: tuple[float, float, float] | None,
) -> None:
    """Set `mask` to 1 in the aerated parts of the lungs.

    Args:
        mask: `[slices, rows, columns]` zeros; changed in place.
        voxels: `[slices, rows, columns]` HU.
        blur: standard deviation of the smoothing in pixels.
        spacing: millimetres between (slices, rows, columns); None if unknown.
    """
    # Of each region of a slice: pixels, pixels of gas, aerated pixels, share of the body's pixels.
    regions = [np.zeros((4, 0))]
    for index, image in enumerate(voxels):
        smooth = _smooth(image, blur)
        labels, numbers, body = _dark_regions(smooth, TISSUE_HU)
        counts = [
            np.bincount(labels[inside], minlength=labels.max() + 1)[numbers]
            for inside in (labels > 0, smooth < GAS_HU, smooth < AERATED_HU)
        ]
        size, gas = counts[0], counts[1]
        lung = (size >= GAS_SHARE * body) | (gas <= 0.1 * size)
        mask[index] = np.isin(labels, numbers[lung])
        regions.append(np.stack([*counts, size / max(body, 1)])[:, lung])
    components = Components(mask)
    lung = _are_lungs(components, np.concatenate(regions, axis=1), spacing)[components.of_region]
    chosen = np.concatenate([[False], lung])
    for index in range(len(mask)):
        mask[index] = chosen[components.labels(index)]


def _are_lungs(
    components: Components, regions: np.ndarray, spacing: tuple[float, float, float] | None
) -> np.ndarray:
    """Return which components are lungs.

    Args:
        components: connected components of the scan.
        regions: `[4, regions]` of each region of a slice: pixels, pixels of gas, aerated pixels,
            share of the body's pixels.
        spacing: millimetres between (slices, rows, columns); None if unknown.

    Returns:
        `[count]` bool.
    """
    size, gas, aerated = (components.totals(row) for row in regions[:3])
    section = np.zeros(components.count)
    np.maximum.at(section, components.of_region, regions[3])
    lung = (section >= MIN_SHARE) & (gas < PURE_GAS * size) & (aerated >= MIN_AERATED * size)
    if spacing is not None:
        lung &= size * np.prod(spacing) >= 1000.0 * MIN_ML
    largest = size[lung].max(initial=0.0)
    return lung & (size >= MIN_OF_LARGEST * largest)


def _lung_of_slice(smooth: np.ndarray, lung_labels: np.ndarray) -> np.ndarray:
    """Return the lung mask of one slice of a scan.

    Args:
        smooth: `[rows, columns]` HU, smoothed.
        lung_labels: `[rows, columns]` lung labels of the aerated parts, not all 0.

    Returns:
        `[rows, columns]` uint8, 1 inside the lungs.
    """
    other_gas = (_dark_regions(smooth, TISSUE_HU)[0] > 0) & (lung_labels == 0)
    solid = (smooth >= TISSUE_HU) | other_gas
    box = _box(lung_labels > 0, margin=2)
    labels = lung_labels[box]
    # The chest wall is as thick as an organ, so only tissue between the lungs is considered.
    inside = _convex_hull(labels > 0) & solid[box]
    lung = np.zeros(lung_labels.shape, np.uint8)
    lung[box] = _with_dense_parts(inside, (labels == RIGHT, labels == LEFT))
    return lung


def _box(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    """Return the bounding box of a mask that is not empty, widened by a margin."""
    places = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return tuple(slice(max(int(p[0]) - margin, 0), int(p[-1]) + 1 + margin) for p in places)


def _with_dense_parts(tissue: np.ndarray, aerated: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the lung mask of a slice: its aerated parts, and dense parts at the chest wall.

    Args:
        tissue: `[H, W]` bool, true where an organ may be.
        aerated: the aerated part of each lung, `[H, W]` bool.

    Returns:
        `[H, W]` uint8, 1 inside the lungs.
    """
    scale = float(np.sqrt(aerated[0].sum() + aerated[1].sum()))
    lung = np.zeros(tissue.shape, bool)
    if not scale:
        return lung.astype(np.uint8)
    reach = 2 * int(ORGAN * scale) + 2  # pixels on which the opening depends
    box = _box(aerated[0] | aerated[1], margin=reach)
    closed = [_close(part[box], CLOSING * scale) for part in aerated]
    organ = _open(tissue[box], ORGAN * scale)
    for one, other in (closed, closed[::-1]):
        lung[box] |= one | (_fill_holes(one | _costal_hull(one, other)) & ~organ)
    return lung.astype(np.uint8)


def _split(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    box, filled = _box(mask, margin=0), mask.copy()
    filled[box] = ndimage.binary_fill_holes(mask[box])
    return filled


def _centre(mask: np.ndarray) -> np.ndarray:
    """Return the mean (row, column) of the pixels of a mask that is not empty."""
    counts = (np.count_nonzero(mask, axis=axis) for axis in (1, 0))
    return np.array([np.average(np.arange(n.size), weights=n) for n in counts])


def _close(mask: np.ndarray, radius: float) -> np.ndarray:
    """Return the closing of a mask by a disc; pixels outside the image count as 0."""
    if not mask.any():
        return mask
    pad, box, closed = int(radius) + 1, _box(mask, margin=0), mask.copy()
    grown = ndimage.distance_transform_edt(~np.pad(mask[box], pad)) <= radius
    shrunk = ndimage.distance_transform_edt(grown) > radius
    closed[box] |= shrunk[pad:-pad, pad:-pad]
    return closed


def _open(mask: np.ndarray, radius: float) -> np.ndarray:
    """Return the opening of a mask by a disc; outside the image its edge pixels are repeated."""
    pad = int(radius) + 1
    core = ndimage.distance_transform_edt(np.pad(mask, pad, mode="edge")) > radius
    if not core.any():
        return np.zeros_like(mask)
    opened = ndimage.distance_transform_edt(~core) <= radius
    return opened[pad:-pad, pad:-pad] & mask


def _costal_hull(lung: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the convex hull of one lung without its part towards the other (the mediastinum)."""
    if not lung.any() or not other.any():
        return lung
    centre = _centre(lung)
    outward = centre - _centre(other)
    rows, columns = np.ogrid[: lung.shape[0], : lung.shape[1]]
    along = (rows - centre[0]) * outward[0] + (columns - centre[1]) * outward[1]
    box, hull = _box(lung, margin=0), np.zeros_like(lung)
    hull[box] = _convex_hull(lung[box])
    return hull & (along > -MEDIAL_REACH * along[lung].max())


def _convex_hull(mask: np.ndarray) -> np.ndarray:
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
