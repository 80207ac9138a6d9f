"""Find which Hounsfield units the grey values of an 8-bit slice of unknown window stand for.

A window maps Hounsfield units to grey values linearly between its ends, so two landmarks of known
density undo it: aerated lung, and the soft tissue around it. What a window has clipped stays lost,
and a curve that is not linear (gamma) stays in part.
"""

import numpy as np

from input_pipeline.lungs.threshold import lung_and_tissue

LUNG_PERCENTILE = 10.0  # of aerated lung; lesions, which are denser, hardly change it
LUNG_HU = -900.0  # that percentile in healthy lung, after smoothing
BODY_HU = 30.0  # median of what is as dense as tissue: muscle and blood, with some fat and bone
LEAST_CONTRAST = 32.0  # grey values from lung to tissue; with fewer, 8 bits are too coarse


def anatomy_range(
    picture: np.ndarray, hu_window: tuple[float, float]
) -> tuple[float, float] | None:
    """Return the grey values that stand for the ends of a HU window, by lung and soft tissue.

    Lung is the 10th percentile of the aerated lung and stands for -900 HU; soft tissue is the
    median of all that is as dense, and stands for 30 HU. What `threshold_lung_mask` takes for
    lung counts as lung, even where a window shows it as one black; bars and a constant around the
    slice count for neither.

    Args:
        picture: `[H, W]` uint8, lung dark.
        hu_window: two Hounsfield units, low and high.

    Returns:
        The grey values of low and high, which may lie outside 0..255; None if the slice shows no
        lung, or less than 32 grey values between lung and tissue.
    """
    lung, tissue = lung_and_tissue(picture)
    if not lung.size or not tissue.size:
        return None
    dark, bright = float(np.percentile(lung, LUNG_PERCENTILE)), float(np.median(tissue))
    if bright - dark < LEAST_CONTRAST:
        return None
    grey_per_hu = (bright - dark) / (BODY_HU - LUNG_HU)
    low, high = (dark + (hu - LUNG_HU) * grey_per_hu for hu in hu_window)
    return low, high
