"""How much of the lungs lesions fill, and how dense they are."""

import math
from dataclasses import dataclass

import numpy as np

from input_pipeline.datasets.ct_phantom.body import Array

LEAST_BURDEN, MOST_BURDEN = 0.004, 0.6


@dataclass(frozen=True)
class Opacity:
    """How dense the lesions of one patient are, in HU, and how sharp their borders.

    Attributes:
        glass: added by ground-glass.
        solid: HU of consolidation.
        paving: added by thickened septa (crazy paving).
        softness: width of the border, in standard deviations of the lesions' field.
        ragged: by which fine texture moves the border, in the same unit.
    """

    glass: float
    solid: float
    paving: float
    softness: float
    ragged: float


def draw_burden(rng: np.random.Generator, median: float, deviation: float) -> tuple[float, float]:
    """Draw the share of the lungs that lesions fill, and the share of consolidation among them.

    Args:
        rng: the source of randomness.
        median: of the first share.
        deviation: standard deviation of its logarithm.
    """
    burden = float(np.clip(median * math.exp(deviation * rng.normal()), LEAST_BURDEN, MOST_BURDEN))
    return burden, float(rng.beta(0.8, 1.1)) if rng.random() > 0.2 else 0.0


def draw_opacity(rng: np.random.Generator) -> Opacity:
    """Draw how dense the lesions of one patient are.

    Args:
        rng: the source of randomness.
    """
    return Opacity(
        glass=rng.uniform(110, 330),
        solid=rng.uniform(-400, 0),
        paving=rng.uniform(50, 150) if rng.random() < 0.35 else 0.0,
        softness=rng.uniform(0.12, 0.4),
        ragged=rng.uniform(0.1, 0.35),
    )


def with_lesions(
    healthy: Array, glass: Array, solid: Array, middle: Array, fine: Array, opacity: Opacity
) -> Array:
    """Return the HU of the lung with its lesions.

    Args:
        healthy: HU of the healthy lung, of any shape, like the next four.
        glass: field of the lesions, positive inside.
        solid: field of the consolidations.
        middle: noise of a middle scale.
        fine: noise of a fine scale.
        opacity: how dense the lesions are.
    """
    density = _smooth_step((glass + opacity.ragged * middle) / opacity.softness)
    target = healthy + opacity.glass * (1 + 0.25 * middle) + 30.0 * fine
    target += opacity.paving * np.exp(-((middle / 0.22) ** 2))
    hu = healthy + np.clip(np.clip(target, None, -250.0) - healthy, 0, None) * density
    core = density * _smooth_step(solid / 0.12)
    return hu + np.clip(opacity.solid + 70.0 * middle + 30.0 * fine - hu, 0, None) * core


def _smooth_step(value: Array) -> Array:
    """Return the logistic function."""
    return 1.0 / (1.0 + np.exp(-np.clip(value, -30, 30)))
