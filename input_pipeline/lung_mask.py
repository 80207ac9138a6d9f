"""Lungs from intensity and shape, for slices that come without a lung mask.

No training and no knowledge of which way up the slice lies: every step treats rows, columns and
the four sides alike. Aerated lung and ground-glass are found by their darkness. Dense lesions at
the pleura are as bright as muscle, so they are won back by shape: towards the chest wall a lung is
convex. A lobe that is consolidated through and through leaves no trace in the shape and is lost.
"""

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import convex_hull_image

AIR_HU = -1024.0
TISSUE_HU = -200.0  # between ground-glass (above -700) and fat (about -100)
TISSUE_FRACTION = 0.78  # the same level between the median lung and the median tissue, 8-bit
MAX_DARKNESS = 0.65  # 8-bit lung is darker than this share of its tissue; otherwise no lung
MIN_SHARE = 0.01  # of the body's pixels; smaller dark components are airways and bowel gas
GAS_HU = -925.0  # bowel gas: a small component whose darkest tenth lies below this (HU only)
GAS_SHARE = 0.05  # of the body's pixels; a larger component is lung however dark (emphysema)
# Radii below are shares of the square root of the aerated area, so pixel size does not matter.
CLOSING = 0.05  # vessels and small lesions at the lung's edge
ORGAN = 0.115  # tissue in which a disc of this radius fits is heart, liver or spine
MEDIAL_REACH = 0.2  # how far past a lung's centre, towards the other lung, its hull is trusted


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
    smooth = ndimage.gaussian_filter(np.maximum(image.astype(np.float32), AIR_HU), 1.0)
    level = TISSUE_HU if intensity == "hu" else _tissue_level(smooth)
    aerated = _aerated(smooth, level, GAS_HU if intensity == "hu" else -np.inf)
    if not aerated.any():
        return np.zeros(image.shape, np.uint8)
    scale = float(np.sqrt(aerated.sum()))
    sides = [_close(side, CLOSING * scale) for side in _split(aerated)]
    organ = _open(smooth >= level, ORGAN * scale)
    lung = sides[0] | sides[1]
    for side, other in (sides, sides[::-1]):
        lung |= ndimage.binary_fill_holes(side | _costal_hull(side, other)) & ~organ
    return dilate(lung.astype(np.uint8), dilation)


def dilate(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Grow a [H, W] 0/1 mask by a disc of the given radius in pixels; uint8."""
    if pixels == 0 or not mask.any():
        return mask.astype(np.uint8)
    near = ndimage.distance_transform_edt(mask == 0) <= pixels
    return near.astype(np.uint8)


def _tissue_level(smooth: np.ndarray) -> float:
    """Grey value that parts lung and ground-glass from tissue, -inf where there is no lung."""
    if np.ptp(smooth) == 0:
        return -np.inf
    middle = threshold_otsu(smooth)
    dark, bright = np.median(smooth[smooth <= middle]), np.median(smooth[smooth > middle])
    if dark > MAX_DARKNESS * bright:
        return -np.inf
    return float(dark + TISSUE_FRACTION * (bright - dark))


def _aerated(smooth: np.ndarray, level: float, gas: float) -> np.ndarray:
    """Dark components inside the body that are large enough for a lung and not pure gas."""
    labels, count = ndimage.label(smooth < level)
    outside = np.unique(labels[np.ix_((0, -1), (0, -1))])
    outside = outside[outside > 0]
    body = smooth.size - np.isin(labels, outside).sum()
    index = np.setdiff1d(np.arange(1, count + 1), outside)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[index]
    lung = [
        i
        for i, size in zip(index, sizes, strict=True)
        if size >= GAS_SHARE * body
        or (size >= MIN_SHARE * body and np.percentile(smooth[labels == i], 10) >= gas)
    ]
    return np.isin(labels, lung)


def _split(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Part the pixels of a mask into two lungs: two means, started along the longest axis."""
    points = np.argwhere(mask).astype(np.float64)
    centred = points - points.mean(axis=0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, 1]
    first = centred @ axis < 0
    for _ in range(10):
        if first.all() or not first.any():
            break
        means = points[first].mean(axis=0), points[~first].mean(axis=0)
        first = ((points - means[0]) ** 2).sum(1) < ((points - means[1]) ** 2).sum(1)
    one = np.zeros_like(mask)
    one[mask] = first
    return one, mask & ~one


def _close(mask: np.ndarray, radius: float) -> np.ndarray:
    """Closing by a disc; beyond the image there is nothing."""
    if not mask.any():
        return mask
    pad = int(radius) + 1
    grown = ndimage.distance_transform_edt(~np.pad(mask, pad)) <= radius
    closed = ndimage.distance_transform_edt(grown) > radius
    return mask | closed[pad:-pad, pad:-pad]


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
    points = np.argwhere(side)
    centre = points.mean(axis=0)
    outward = centre - np.argwhere(other).mean(axis=0)
    rows, columns = np.indices(side.shape)
    along = (rows - centre[0]) * outward[0] + (columns - centre[1]) * outward[1]
    return convex_hull_image(side) & (along > -MEDIAL_REACH * along[side].max())
