"""Lesions of a chest CT phantom whose shapes, sizes and places are those that radiologists draw.

A lesion is where a random field in the lungs exceeds a bound. The field is smooth noise of all
scales up to `LARGEST_SCALE`, whose power falls with frequency as a power law: so there are a few
large lesions and many small ones. It is alike in both lungs in part, higher near the chest wall
and, as it differs between patients, towards the back, the base and one side. Small spared regions,
from fine noise, make the outlines ragged. The bound is set so that the lesions fill a stated share
of the lungs.

The constants were fitted to statistics of the 50 masks of COVID-19 lesions of MosMedData (Morozov
et al. 2020, COVID19_1110); `python -m tests.lesion_shapes` prints both beside each other.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from input_pipeline.datasets.ct_phantom.body import Anatomy, Array, cavity, lungs
from input_pipeline.datasets.ct_phantom.lung import LUNG_LENGTH

VOXEL = 3.0  # mm, of the fields
SHAPE = (80, 76, 100)  # voxels (z, y, x) of the fields: 240 x 228 x 300 mm
COARSE = 2  # voxels of the fields to a side of one of the grid on which lungs are computed

SLOPE = 6.0  # of the power spectrum: power falls as frequency to the power of -SLOPE
LARGEST_SCALE = 80.0  # mm, wavelength above which the power rises no more
SMALLEST_SCALE = 2.6  # mm, standard deviation of the smoothing of the noise
SYMMETRY = 0.3  # the share of the other lung's noise that is added
SPARED, SPARED_SCALE = 1.2, 2.4  # depth of the spared regions, and their smoothing in mm
SMALLEST = 3  # pixels of a lesion in a slice; smaller ones are not outlined
# What is added to the noise, of standard deviation 1.
WALL, WALL_DEPTH = 1.0, 14.0  # at the chest wall, and the depth in mm over which it fades
BACK = (0.8, 0.8)  # 100 mm behind the middle: mean and standard deviation between patients
BASE = (0.5, 1.3)  # 100 mm below the middle: mean and standard deviation between patients
SIDE = 0.3  # in the left lung, subtracted in the right: standard deviation between patients
CORE = 0.5  # how far consolidation keeps to the middle of lesions


@dataclass(frozen=True)
class Lesions:
    """The lesions of one patient, as fields `[z, y, x]` on a grid of `VOXEL` mm.

    Attributes:
        glass: positive inside the lesions, in standard deviations of the noise.
        solid: positive in their consolidations, where `glass` is positive too.
        by_height: `[z]`, voxels of lesion in the lungs at each height.
    """

    glass: Array
    solid: Array
    by_height: NDArray[np.integer]


def draw_noise(
    rng: np.random.Generator,
    slope: float,
    smallest: float,
    shape: tuple[int, ...] = SHAPE,
    spacing: float = VOXEL,
) -> Array:
    """Draw a field of mean 0 and variance 1 whose power falls with frequency as a power law.

    Args:
        rng: the source of randomness.
        slope: power falls as frequency to the power of -slope; 0 for white noise.
        smallest: standard deviation of the smoothing in mm.
        shape: of the field.
        spacing: mm from one of its points to the next, along all axes.

    Returns:
        `shape` float32.
    """
    white = rng.standard_normal(shape, np.float32)
    field = fft.irfftn(fft.rfftn(white) * _filter(slope, smallest, shape, spacing), shape)
    return (field - field.mean()) / field.std()


def draw_lesions(
    body: Anatomy, rng: np.random.Generator, burden: float, solid_share: float
) -> Lesions:
    """Draw the lesions of one patient.

    Args:
        body: the patient's body.
        rng: the source of randomness.
        burden: share of the lungs that lesions fill, above 0 and below 1.
        solid_share: share of the lesions that is consolidation, from 0 to 1.
    """
    z, y, x = (
        ((np.arange(n // COARSE, dtype=np.float32) + 0.5) * COARSE - n / 2) * VOXEL for n in SHAPE
    )
    z, y, x = np.meshgrid(z, y, x, indexing="ij")
    level = 0.5 + z / LUNG_LENGTH
    bias = WALL * np.exp(-np.clip(-cavity(body, x, y, level), 0, None) / WALL_DEPTH)
    bias += rng.normal(*BACK) * y / 100 + rng.normal(*BASE) * z / 100
    bias += SIDE * rng.normal() * np.sign(x)
    inside = _enlarged(lungs(body, x, y, level)) < 0
    noise = draw_noise(rng, SLOPE, SMALLEST_SCALE)
    spared = np.clip(draw_noise(rng, 0.0, SPARED_SCALE), 0, None)
    glass = noise + SYMMETRY * noise[..., ::-1] - SPARED * spared + _enlarged(bias)
    noise = draw_noise(rng, SLOPE, SMALLEST_SCALE)
    glass, solid = bounded(glass, noise, inside, burden, solid_share)
    return Lesions(glass, solid, np.count_nonzero(inside & (glass > 0), axis=(1, 2)))


def bounded(
    glass: Array, noise: Array, inside: NDArray[np.bool_], burden: float, solid_share: float
) -> tuple[Array, Array]:
    """Set the bounds of lesions and of their consolidations, so that they fill stated shares.

    Args:
        glass: field that is higher where lesions are likelier, of any shape, like the next two.
        noise: by which consolidations differ from the middle of lesions.
        inside: true in the lungs.
        burden: share of the lungs that lesions fill.
        solid_share: share of the lesions that is consolidation.

    Returns:
        Fields float32 that are positive inside the lesions, and inside their consolidations.
    """
    glass = glass - np.quantile(glass[inside], 1 - burden)
    core = CORE * glass + noise
    ill = inside & (glass > 0)
    solid = core - np.quantile(core[ill], 1 - solid_share) if solid_share else -np.ones_like(core)
    return glass.astype(np.float32), solid.astype(np.float32)


def sample(field: Array, x: Array, y: Array, z: float) -> Array:
    """Interpolate a field of lesions at points of one slice.

    Args:
        field: `SHAPE`, of `Lesions`.
        x: coordinates to the patient's left in mm, any shape.
        y: coordinates to the back in mm, of the same shape.
        z: height of the slice in mm, 0 at the apex.

    Returns:
        The field at the points, of their shape.
    """
    place = np.clip(z / VOXEL - 0.5, 0, SHAPE[0] - 1)
    low = min(int(place), SHAPE[0] - 2)
    plane = field[low] + np.float32(place - low) * (field[low + 1] - field[low])
    at = [v / VOXEL + (n - 1) / 2 for v, n in zip((y, x), SHAPE[1:], strict=True)]
    return ndimage.map_coordinates(plane, at, order=1, mode="nearest")


def outlined(lesion: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the lesions of a slice without parts that are too small for anybody to outline.

    Args:
        lesion: `[H, W]`, true inside lesions.
    """
    parts, count = ndimage.label(lesion, np.ones((3, 3)))
    return lesion & (np.bincount(parts.ravel(), minlength=count + 1)[parts] >= SMALLEST)


@lru_cache(maxsize=8)
def _filter(slope: float, smallest: float, shape: tuple[int, ...], spacing: float) -> Array:
    """Return the amplitude of each frequency of the noise that `draw_noise` describes."""
    axes = [fft.fftfreq(n, spacing) for n in shape[:-1]] + [fft.rfftfreq(shape[-1], spacing)]
    squared = sum(axis**2 for axis in np.ix_(*axes))
    power_law = (squared + LARGEST_SCALE**-2) ** (-slope / 4)
    return (power_law * np.exp(-2 * (np.pi * smallest) ** 2 * squared)).astype(np.float32)


def _enlarged(coarse: Array) -> Array:
    """Interpolate a field from the coarse grid to `SHAPE`, linearly."""
    for axis in range(coarse.ndim):
        old = np.moveaxis(coarse, axis, 0)
        before, after = np.concatenate([old[:1], old[:-1]]), np.concatenate([old[1:], old[-1:]])
        pairs = np.stack([0.75 * old + 0.25 * before, 0.75 * old + 0.25 * after], axis=1)
        coarse = np.moveaxis(pairs.reshape(-1, *old.shape[1:]), 0, axis)
    return coarse
