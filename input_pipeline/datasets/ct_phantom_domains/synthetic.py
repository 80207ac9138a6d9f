"""Draw synthetic lesions into a real 8-bit slice: shapes and densities of the phantoms, real lungs.

So that a network learns lesions before real vessels, airways and chest walls without a doctor's
label. A slice may have lesions of its own. Where smoothed lung is denser than healthy, nobody knows
what is there, and the pixel gets weight 0; only consolidation drawn over it is sure.

The field of `lesions` is drawn in the plane, with the power law that a plane through it has.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from input_pipeline.datasets.ct_phantom.body import Array
from input_pipeline.datasets.ct_phantom_domains.lesions import (
    BACK,
    SIDE,
    SLOPE,
    SMALLEST_SCALE,
    SPARED,
    SPARED_SCALE,
    WALL,
    WALL_DEPTH,
    bounded,
    draw_noise,
    outlined,
)
from input_pipeline.datasets.ct_phantom_domains.opacities import (
    draw_burden,
    draw_opacity,
    with_lesions,
)
from input_pipeline.datasets.ct_phantom_domains.patients import PRETRAINING_BURDEN
from input_pipeline.grey_values import anatomy_range
from input_pipeline.lungs.threshold import threshold_lung_mask

WIDTH = 260.0  # mm, of the rows: both lungs, to which a slice is cropped, the right one above
MIDDLE_SCALE, FINE_SCALE = 3.5, 1.0  # mm, standard deviations of the smoothing of textures
BLUR = 0.6  # pixels, of what is added
HEALTHY_SCALE = 3.0  # mm, smoothing before lung is called healthy
HEALTHY_HU = -720.0  # smoothed lung above is in doubt


class Synthetic(NamedTuple):
    """A slice with synthetic lesions.

    Attributes:
        image: `[H, W]` uint8 grey values.
        mask: `[H, W]` uint8: 0 background, 1 ground-glass opacity, 2 consolidation.
        weight: `[H, W]` uint8: 255, or 0 where the slice may have a lesion of its own.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    weight: NDArray[np.uint8]


def with_synthetic_lesions(
    image: NDArray[np.uint8], rng: np.random.Generator, *, spine_first: bool
) -> Synthetic | None:
    """Draw lesions into the lungs of a slice.

    Args:
        image: `[H, W]` grey values, cropped to the lungs, the columns along front and back.
        rng: the source of randomness.
        spine_first: whether the spine is at the first columns instead of the last ones.

    Returns:
        The slice with lesions; None if no lung is found, or too little contrast.
    """
    ends = anatomy_range(image, (-1000.0, 0.0))
    lung = threshold_lung_mask(image, intensity="uint8", dilation=0) > 0
    if ends is None or not lung.any():
        return None
    grey_per_hu = (ends[1] - ends[0]) / 1000.0
    before = ((image - ends[0]) / grey_per_hu - 1000.0).astype(np.float32)
    spacing = WIDTH / image.shape[0]
    glass, solid = _draw_fields(lung, spacing, rng, spine_first=spine_first)
    middle, fine = (
        draw_noise(rng, 0.0, scale, image.shape, spacing) for scale in (MIDDLE_SCALE, FINE_SCALE)
    )
    after = with_lesions(before, glass, solid, middle, fine, draw_opacity(rng))
    added = ndimage.gaussian_filter(np.where(lung, after - before, 0.0), BLUR) * grey_per_hu
    mask = np.where(outlined(lung & (glass > 0)), np.where(solid > 0, 2, 1), 0)
    doubtful = lung & (_smoothed_within(before, lung, HEALTHY_SCALE / spacing) > HEALTHY_HU)
    return Synthetic(
        np.rint(np.clip(image + added, 0, 255)).astype(np.uint8),
        mask.astype(np.uint8),
        np.where(doubtful & (mask != 2), 0, 255).astype(np.uint8),
    )


def _draw_fields(
    lung: NDArray[np.bool_], spacing: float, rng: np.random.Generator, *, spine_first: bool
) -> tuple[Array, Array]:
    """Draw the fields of lesions and consolidations, `[H, W]`, as `lesions.draw_lesions` does."""
    burden, solid_share = draw_burden(rng, *PRETRAINING_BURDEN)
    depth = ndimage.distance_transform_edt(np.pad(lung, 1))[1:-1, 1:-1] * spacing
    across, along = ((np.arange(n) - (n - 1) / 2) * spacing for n in lung.shape)
    bias = WALL * np.exp(-depth / WALL_DEPTH)
    bias += rng.normal(*BACK) * (-along if spine_first else along) / 100
    bias += SIDE * rng.normal() * np.sign(across)[:, None]
    spared = np.clip(draw_noise(rng, 0.0, SPARED_SCALE, lung.shape, spacing), 0, None)
    glass = draw_noise(rng, SLOPE - 1, SMALLEST_SCALE, lung.shape, spacing) - SPARED * spared + bias
    noise = draw_noise(rng, SLOPE - 1, SMALLEST_SCALE, lung.shape, spacing)
    return bounded(glass, noise, lung, burden, solid_share)


def _smoothed_within(values: Array, lung: NDArray[np.bool_], deviation: float) -> Array:
    """Return the weighted mean of the lung around each pixel; pixels outside do not count."""
    inside = lung.astype(np.float32)
    share = ndimage.gaussian_filter(inside, deviation)
    return ndimage.gaussian_filter(values * inside, deviation) / np.maximum(share, 1e-6)
