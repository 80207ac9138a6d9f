"""Lungs of slices and scans that come without a lung mask.

From intensity and shape, without training. Aerated lung and ground-glass are found by their
darkness. Dense lesions at the pleura are as bright as muscle, so they are won back by shape:
towards the chest wall a lung is convex. A lobe that is consolidated through and through leaves no
trace in the shape and is lost. A slice alone may lie any way up: every step treats rows, columns
and the four sides alike.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.filters import threshold_otsu

from input_pipeline.components import Components
from input_pipeline.lung_sides import LEFT, RIGHT, lung_sides

AIR_HU = -1024.0
TISSUE_HU = -200.0  # between ground-glass (above -700) and fat (about -100)
TISSUE_FRACTION = 0.78  # the same level between the median lung and the median tissue, 8-bit
MAX_DARKNESS = 0.65  # 8-bit lung is darker than this share of its tissue; otherwise no lung
MIN_SHARE = 0.01  # of the body's pixels; smaller dark components are airways and bowel gas
GAS_HU = -925.0  # bowel gas: a small component whose darkest tenth lies below this (HU only)
GAS_SHARE = 0.05  # of the body's pixels; a larger component is lung however dark (emphysema)
ON_EDGE = 1e-9  # pixels; a pixel's centre so near to the edge of a convex hull lies in it
# Radii below are shares of the square root of the aerated area, so pixel size does not matter.
CLOSING = 0.05  # vessels and small lesions at the lung's edge
ORGAN = 0.115  # tissue in which a disc of this radius fits is heart, liver or spine
MEDIAL_REACH = 0.2  # how far past a lung's centre, towards the other lung, its hull is trusted
BLUR_MM = 1.0  # smoothing of a scan; a pixel, where that is less or the spacing unknown
# What a part of a whole scan must be to count as lung.
AERATED_HU = -500.0
MIN_AERATED = 0.3  # of its voxels are darker than that; faeces are not
PURE_GAS = 0.8  # of its voxels are below GAS_HU: not lung, however large
MIN_OF_LARGEST = 0.02  # of the voxels of the largest such part
MIN_ML = 10.0


def threshold_lung_mask(image: np.ndarray, *, intensity: str, dilation: int) -> np.ndarray:
    """Find the lungs of one axial slice.

    Air outside the body is what is dark and holds a corner of the image; a lung that a tight crop
    cuts at a side of the image stays. 8-bit slices must show the usual lung window (lung dark,
    fat and muscle bright).

    Args:
        image: [H, W], HU (any signed dtype; below -1024 counts as air) or uint8.
        intensity: 'hu' or 'uint8', says which.
        dilation: pixels added around the mask at the end, 0 or more.

    Returns:
        [H, W] uint8, 1 inside the lungs, airways outside the lungs left out; all 0 where the
        slice holds no lung.

    Raises:
        ValueError: `intensity` is neither.
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
    """Find the lungs of a whole scan.

    Each slice as `threshold_lung_mask` does it, but what is lung is decided over the whole scan: a
    part that is small in its slice counts when it hangs together with a lung, and gas in the bowel,
    the windpipe above the lungs and hollows of the table do not. Beyond the input it takes two
    bytes per voxel and a few slices.

    Args:
        voxels: [slices, rows, columns] HU, int16 or float32; slices inferior to superior, columns
            from the patient's right to the left.
        spacing: millimetres between (slices, rows, columns); None when unknown.
        dilation: pixels added around the mask in each slice at the end, 0 or more.

    Returns:
        [slices, rows, columns] uint8, 1 inside the lungs; all 0 where the scan holds no lung.
    """
    if len(voxels) == 1:  # nothing above or below to judge by
        return threshold_lung_mask(voxels[0], intensity="hu", dilation=dilation)[None]
    mask = np.zeros(voxels.shape, np.uint8)
    blur = 1.0 if spacing is None else min(1.0, BLUR_MM / max(spacing[1:]))
    _keep_lungs(mask, voxels, blur, spacing)
    sides = lung_sides(mask)
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        lung = _lung_of_slice(_smooth(voxels[index], blur), sides[index])
        mask[index] = dilate(lung, dilation)
    return mask


def dilate(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Grow a [H, W] 0/1 mask by a disc of the given radius in pixels; uint8."""
    if pixels == 0 or not mask.any():
        return mask.astype(np.uint8)
    grown = np.zeros(mask.shape, np.uint8)
    box = _box(mask > 0, pixels)
    grown[box] = ndimage.distance_transform_edt(mask[box] == 0) <= pixels
    return grown


def _tissue_level(smooth: np.ndarray) -> float:
    """Grey value that parts lung and ground-glass from tissue, -inf where there is no lung."""
    if np.ptp(smooth) == 0:
        return -np.inf
    middle = threshold_otsu(smooth)
    dark, bright = np.median(smooth[smooth <= middle]), np.median(smooth[smooth > middle])
    if dark > MAX_DARKNESS * bright:
        return -np.inf
    return float(dark + TISSUE_FRACTION * (bright - dark))


def _smooth(image: np.ndarray, pixels: float = 1.0) -> np.ndarray:
    return ndimage.gaussian_filter(np.maximum(image.astype(np.float32), AIR_HU), pixels)


def _dark_regions(smooth: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Dark components inside the body: labels [H, W] (0 elsewhere), their numbers, body pixels."""
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
    """Dark components inside the body that are large enough for a lung and not pure gas."""
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
    """Write the aerated parts of the lungs into `mask` [slices, rows, columns], which is zero."""
    regions = [np.zeros((4, 0))]  # of all slices: size, gas, well aerated, share of its body
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
    parts = Components(mask)
    lung = _are_lungs(parts, np.concatenate(regions, axis=1), spacing)[parts.of_region]
    chosen = np.concatenate([[False], lung])
    for index in range(len(mask)):
        mask[index] = chosen[parts.labels(index)]


def _are_lungs(
    parts: Components, regions: np.ndarray, spacing: tuple[float, float, float] | None
) -> np.ndarray:
    """Which components are lungs, [count] bool."""
    size, gas, aerated = (parts.totals(row) for row in regions[:3])
    section = np.zeros(parts.count)
    np.maximum.at(section, parts.of_region, regions[3])
    lung = (section >= MIN_SHARE) & (gas < PURE_GAS * size) & (aerated >= MIN_AERATED * size)
    if spacing is not None:
        lung &= size * np.prod(spacing) >= 1000.0 * MIN_ML
    largest = size[lung].max(initial=0.0)
    return lung & (size >= MIN_OF_LARGEST * largest)


def _lung_of_slice(smooth: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """The lungs of a slice, uint8, from its aerated parts (RIGHT, LEFT, 0 elsewhere), not empty."""
    other_gas = (_dark_regions(smooth, TISSUE_HU)[0] > 0) & (sides == 0)
    solid = (smooth >= TISSUE_HU) | other_gas
    box = _box(sides > 0, margin=2)
    part = sides[box]
    # The wall of the chest is thick and no organ: only what lies between the lungs can be one.
    inside = _convex_hull(part > 0) & solid[box]
    lung = np.zeros(sides.shape, np.uint8)
    lung[box] = _with_dense_parts(inside, (part == RIGHT, part == LEFT))
    return lung


def _box(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    """The bounding box of a mask that is not empty, widened by a margin."""
    places = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return tuple(slice(max(int(p[0]) - margin, 0), int(p[-1]) + 1 + margin) for p in places)


def _with_dense_parts(tissue: np.ndarray, sides: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The lungs of a slice, uint8, from the aerated parts of the one and the other."""
    scale = float(np.sqrt(sides[0].sum() + sides[1].sum()))
    lung = np.zeros(tissue.shape, bool)
    if not scale:
        return lung.astype(np.uint8)
    box = _box(sides[0] | sides[1], margin=2 * int(ORGAN * scale) + 2)  # as far as opening looks
    closed = [_close(side[box], CLOSING * scale) for side in sides]
    organ = _open(tissue[box], ORGAN * scale)
    for side, other in (closed, closed[::-1]):
        lung[box] |= side | (_fill_holes(side | _costal_hull(side, other)) & ~organ)
    return lung.astype(np.uint8)


def _split(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Part the pixels of a mask into two lungs: two means, started along the longest axis."""
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
    side = np.zeros_like(mask)
    side[mask] = first
    return side, mask & ~side


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        return mask
    box, filled = _box(mask, margin=0), mask.copy()
    filled[box] = ndimage.binary_fill_holes(mask[box])
    return filled


def _centre(mask: np.ndarray) -> np.ndarray:
    """Mean (row, column) of the pixels of a mask that is not empty."""
    counts = (np.count_nonzero(mask, axis=axis) for axis in (1, 0))
    return np.array([np.average(np.arange(n.size), weights=n) for n in counts])


def _close(mask: np.ndarray, radius: float) -> np.ndarray:
    """Closing by a disc; beyond the image there is nothing."""
    if not mask.any():
        return mask
    pad, box, closed = int(radius) + 1, _box(mask, margin=0), mask.copy()
    grown = ndimage.distance_transform_edt(~np.pad(mask[box], pad)) <= radius
    shrunk = ndimage.distance_transform_edt(grown) > radius
    closed[box] |= shrunk[pad:-pad, pad:-pad]
    return closed


def _open(mask: np.ndarray, radius: float) -> np.ndarray:
    """Opening by a disc; beyond the image the edge pixels go on."""
    pad = int(radius) + 1
    core = ndimage.distance_transform_edt(np.pad(mask, pad, mode="edge")) > radius
    if not core.any():
        return np.zeros_like(mask)
    opened = ndimage.distance_transform_edt(~core) <= radius
    return opened[pad:-pad, pad:-pad] & mask


def _costal_hull(side: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The convex hull of one lung, less its part towards the other lung (the mediastinum)."""
    if not side.any() or not other.any():
        return side
    centre = _centre(side)
    outward = centre - _centre(other)
    rows, columns = np.ogrid[: side.shape[0], : side.shape[1]]
    along = (rows - centre[0]) * outward[0] + (columns - centre[1]) * outward[1]
    box, hull = _box(side, margin=0), np.zeros_like(side)
    hull[box] = _convex_hull(side[box])
    return hull & (along > -MEDIAL_REACH * along[side].max())


def _convex_hull(mask: np.ndarray) -> np.ndarray:
    """The pixels whose centres lie in the convex hull of the pixels of a mask that is not empty.

    As scikit-image's `convex_hull_image`, a pixel being the diamond of its four edges' middles. In
    each row the hull is one run of columns, which takes a tenth of the time of asking every pixel.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    first, last = mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    ends = np.concatenate([np.stack([rows, first], 1), np.stack([rows, last], 1)])
    corners = ends[:, None] + np.array([[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]])
    facets = ConvexHull(corners.reshape(-1, 2)).equations  # a point inside gives nothing above 0
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
