"""Lungs from intensity and shape, for slices that come without a lung mask.

No training and no knowledge of which way up the slice lies: every step treats rows, columns and
the four sides alike.
"""

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import disk


def threshold_lung_mask(image: np.ndarray, *, intensity: str, dilation: int) -> np.ndarray:
    """[H, W] uint8 lung mask, 1 inside the lungs (first version, being improved)."""
    smooth = ndimage.gaussian_filter(image.astype(np.float32), 1.0)
    level = -300.0 if intensity == "hu" else float(threshold_otsu(smooth))
    labels, count = ndimage.label(smooth < level)
    outside = {labels[r, c] for r in (0, -1) for c in (0, -1)}
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = [i for i in range(1, count + 1) if i not in outside and sizes[i] > 0.01 * image.size]
    lung = np.isin(labels, keep)
    radius = max(1, round(0.03 * max(image.shape)))
    padded = np.pad(lung, radius)
    closed = ndimage.binary_closing(padded, disk(radius))[radius:-radius, radius:-radius]
    return dilate(ndimage.binary_fill_holes(closed).astype(np.uint8), dilation)


def dilate(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Grow a [H, W] 0/1 mask by a disc of the given radius in pixels; uint8."""
    if pixels == 0 or not mask.any():
        return mask.astype(np.uint8)
    near = ndimage.distance_transform_edt(mask == 0) <= pixels
    return near.astype(np.uint8)
