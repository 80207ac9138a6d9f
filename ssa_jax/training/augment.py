"""Random changes to training slices on the device: those of `input_pipeline.augment` in JAX.

Ranges, probabilities and interpolation are the same; the random numbers are JAX's own, so that a
slice is changed by another draw from the same distribution.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Batch = dict[str, Any]
STREAM = 1  # of a step's random numbers


@dataclass(frozen=True)
class Ranges:
    """How much a slice may be changed; see `Augmentation` in `input_pipeline.augment`."""

    flip_horizontal: bool
    flip_vertical: bool
    rotation_degrees: float
    scaling: float
    intensity_shift: float
    intensity_gain: float
    gamma: float
    noise_sd: float
    probability: float


class Change(NamedTuple):
    """A change of one slice, of scalars; the example of each is the one that changes nothing.

    Attributes:
        flip_horizontal: whether left and right are mirrored, False.
        flip_vertical: whether front and back are, False.
        angle: of the rotation after that, radians, clockwise as displayed, 0.
        factor: by which it is enlarged about its centre, 1.
        power: of the intensity, 1.
        gain: that multiplies it then, 1.
        shift: added then, in units of the window, 0.
        noise_sd: standard deviation of the white noise added last, in units of the window, 0.
    """

    flip_horizontal: Array
    flip_vertical: Array
    angle: Array
    factor: Array
    power: Array
    gain: Array
    shift: Array
    noise_sd: Array


def slice_keys(seed: int, step: Array, places: Array) -> Array:
    """Return the key of each slice of a step's batch.

    Args:
        seed: of the training.
        step: its number, a scalar.
        places: `[B]` int, places of the slices in the batch of all devices.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), STREAM)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)


def augmented(keys: Array, batch: Batch, ranges: Ranges) -> Batch:
    """Change each slice of a batch at random.

    Args:
        keys: `[B]`, one for each slice; the same key gives the same change.
        batch: 'image' `[B, S, S, C]` float32 in [0, 1], whose channel 1 (if any) is the lung mask;
            'mask' `[B, S, S]` int32 class index; 'weight' `[B, S, S, 1]` float32 in [0, 1].
        ranges: of the changes.

    Returns:
        The same names, shapes and dtypes; other entries of the batch as they are. Pixels that were
        outside the image have image 0 before the change of intensity, mask 0 and weight 0. The
        intensity is clipped to [0, 1].
    """

    def one(key: Array, image: Array, mask: Array, weight: Array) -> tuple[Array, Array, Array]:
        numbers, white = jax.random.split(key)
        noise = jax.random.normal(white, mask.shape)
        return apply(draw(numbers, ranges), noise, image, mask, weight)

    names = ("image", "mask", "weight")
    changed = jax.vmap(one)(keys, *(batch[name] for name in names))
    return batch | dict(zip(names, changed, strict=True))


def draw(key: Array, ranges: Ranges) -> Change:
    """Draw the change of one slice.

    Args:
        key: the only source of randomness.
        ranges: of the change.
    """
    numbers = jax.random.uniform(key, (11,))
    coins, chosen = numbers[:2] < 0.5, numbers[2:5] < ranges.probability
    turn, zoom, shift, gain, power = 2 * numbers[5:10] - 1
    moved, recoloured, noisy = chosen
    return Change(
        flip_horizontal=coins[0] & ranges.flip_horizontal,
        flip_vertical=coins[1] & ranges.flip_vertical,
        angle=jnp.where(moved, jnp.radians(turn * ranges.rotation_degrees), 0.0),
        factor=jnp.where(moved, (1 + ranges.scaling) ** zoom, 1.0),
        power=jnp.where(recoloured, (1 + ranges.gamma) ** power, 1.0),
        gain=jnp.where(recoloured, 1 + gain * ranges.intensity_gain, 1.0),
        shift=jnp.where(recoloured, shift * ranges.intensity_shift, 0.0),
        noise_sd=jnp.where(noisy, numbers[10] * ranges.noise_sd, 0.0),
    )


def apply(
    change: Change, noise: Array, image: Array, mask: Array, weight: Array
) -> tuple[Array, Array, Array]:
    """Change one slice; what does not move keeps its bits.

    The intensity is interpolated bilinearly; lung mask, labels and weight take the nearest pixel.

    Args:
        change: what to do.
        noise: `[S, S]` float32, white, of standard deviation 1.
        image: `[S, S, C]` float32, see `augmented`.
        mask: `[S, S]` int32.
        weight: `[S, S, 1]` float32.

    Returns:
        The changed image, mask and weight.
    """
    size = len(mask)
    x, y = _sources(change, size)
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)

    def pixels(array: Array, row: Array, column: Array) -> Array:
        """Take pixels of the mirrored slice, those beyond an edge from the edge."""
        row, column = jnp.clip(row, 0, size - 1), jnp.clip(column, 0, size - 1)
        row = jnp.where(change.flip_vertical, size - 1 - row, row)
        column = jnp.where(change.flip_horizontal, size - 1 - column, column)
        return array[row, column]

    moved = jnp.where(inside, _bilinear(image[..., 0], x, y, pixels), 0.0)
    others = jnp.concatenate([image[..., 1:], weight, mask[..., None].astype(image.dtype)], axis=-1)
    nearest = pixels(others, jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32))
    nearest = jnp.where(inside[..., None], nearest, 0.0)
    intensity = _recoloured(moved, change) + change.noise_sd * noise
    return (
        jnp.concatenate([jnp.clip(intensity, 0.0, 1.0)[..., None], nearest[..., :-2]], axis=-1),
        nearest[..., -1].astype(mask.dtype),
        nearest[..., -2:-1],
    )


def _sources(change: Change, size: int) -> tuple[Array, Array]:
    """Return where each new pixel's centre was, x (right) and y (down), from the image's corner."""
    middle = size / 2
    place = jnp.arange(size) + 0.5 - middle
    x, y = jnp.meshgrid(place, place)
    cos, sin = jnp.cos(change.angle) / change.factor, jnp.sin(change.angle) / change.factor
    return cos * x + sin * y + middle, -sin * x + cos * y + middle


def _bilinear(array: Array, x: Array, y: Array, pixels: Any) -> Array:
    """Interpolate between the centres of the four pixels around each place."""
    left, top = jnp.floor(x - 0.5), jnp.floor(y - 0.5)
    right_share, low_share = x - 0.5 - left, y - 0.5 - top
    column, row = left.astype(jnp.int32), top.astype(jnp.int32)

    def between(row: Array) -> Array:
        first = pixels(array, row, column)
        return first + (pixels(array, row, column + 1) - first) * right_share

    upper = between(row)
    return upper + (between(row + 1) - upper) * low_share


def _recoloured(intensity: Array, change: Change) -> Array:
    """Change the intensity; a power of 1, which need not be exact, is left out."""
    raised = jnp.where(change.power == 1, intensity, intensity**change.power)
    return raised * change.gain + change.shift
