"""Random changes to one training slice that a CT scan could have undergone.

Geometry moves image, mask, lung mask and weight together; intensity touches channel 0 alone. The
lung mask stays 0 or 1, labels stay labels, and nothing mirrors the patient unless a switch that
says so is on.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Example = dict[str, NDArray]
Affine = tuple[float, float, float, float, float, float]  # rows of the map from new to old (x, y)

_LIMITS = {
    "rotation_degrees": (0.0, 45.0),
    "scaling": (0.0, 0.5),
    "intensity_shift": (0.0, 0.5),
    "intensity_gain": (0.0, 0.5),
    "gamma": (0.0, 1.0),
    "noise_sd": (0.0, 0.5),
    "probability": (0.0, 1.0),
}


@dataclass(frozen=True)
class Augmentation:
    """How far a training slice may be changed; every draw is uniform within its range.

    Attributes:
        flip_horizontal: mirror left and right, every other time. This swaps the anatomy's left
            and right (the heart changes sides), which is allowed here because no class is
            lateral; switch it off where one is.
        flip_vertical: mirror front and back, every other time.
        rotation_degrees: turn by up to this many degrees either way, 0 to 45.
        scaling: enlarge or shrink by a factor in [1 / (1 + scaling), 1 + scaling], 0 to 0.5.
        intensity_shift: add up to this much either way, in units of the window (0.02 of the
            window [-1250, 250] is 30 HU), 0 to 0.5.
        intensity_gain: multiply by a factor in [1 - gain, 1 + gain], 0 to 0.5.
        gamma: raise to a power in [1 / (1 + gamma), 1 + gamma], 0 to 1.
        noise_sd: add white noise of a standard deviation up to this, in units of the window, 0 to
            0.5.
        probability: chance, 0 to 1, of each of the three groups (turn and scale; gamma, gain and
            shift; noise) to be applied to a slice. The flips have their own coin.

    Raises:
        ValueError: a number lies outside its range; the message names the field.
    """

    flip_horizontal: bool
    flip_vertical: bool
    rotation_degrees: float
    scaling: float
    intensity_shift: float
    intensity_gain: float
    gamma: float
    noise_sd: float
    probability: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = _LIMITS.get(field.name, (0.0, 1.0))
            if not low <= value <= high:
                raise ValueError(f"augmentation {field.name} is {value}, expected {low} to {high}")


def augment(example: Example, rng: np.random.Generator, settings: Augmentation) -> Example:
    """Change one prepared slice at random; the arrays given stay as they are.

    Args:
        example: 'image' [S, S, C] float32 in [0, 1], channel 1 (if any) the lung mask; 'mask'
            [S, S] int32; 'weight' [S, S, 1] float32.
        rng: the only source of chance: the same generator state gives the same result.
        settings: ranges and switches.

    Returns:
        The same names, shapes and dtypes. Pixels that come in from outside the picture have
        image 0, mask 0 and weight 0. Intensity is clipped to [0, 1].
    """
    coins, apply = rng.random(2) < 0.5, rng.random(3) < settings.probability
    turn, zoom, shift, gain, power = rng.uniform(-1.0, 1.0, 5)
    result = _flip(
        example, settings.flip_horizontal and coins[0], settings.flip_vertical and coins[1]
    )
    if apply[0] and (settings.rotation_degrees or settings.scaling):
        angle = float(np.radians(turn * settings.rotation_degrees))
        result = _resample(result, angle, float((1.0 + settings.scaling) ** zoom))
    image = result["image"].copy()
    if apply[1]:
        image[..., 0] = image[..., 0] ** np.float32((1.0 + settings.gamma) ** power)
        image[..., 0] *= np.float32(1.0 + gain * settings.intensity_gain)
        image[..., 0] += np.float32(shift * settings.intensity_shift)
    if apply[2] and settings.noise_sd:
        sd = np.float32(rng.uniform(0.0, settings.noise_sd))
        image[..., 0] += sd * rng.standard_normal(image.shape[:2], np.float32)
    image[..., 0] = np.clip(image[..., 0], 0.0, 1.0)
    return {"image": image, "mask": result["mask"], "weight": result["weight"]}


def _flip(example: Example, horizontal: bool, vertical: bool) -> Example:
    """Mirror all arrays exactly, pixel for pixel."""
    rows, columns = (
        slice(None, None, -1 if vertical else 1),
        slice(None, None, -1 if horizontal else 1),
    )
    return {name: np.ascontiguousarray(array[rows, columns]) for name, array in example.items()}


def _resample(example: Example, angle: float, factor: float) -> Example:
    """Turn by `angle` radians (clockwise as displayed) and enlarge about the picture's middle.

    Intensity is bilinear; lung mask, labels and weight take the nearest pixel. The two round
    differently on the very rim: only where the intensity has a source does anything count.
    """
    image = example["image"]
    affine = _affine(angle, factor, image.shape[0])
    ones = np.ones(image.shape[:2], np.float32)
    seen = _transform(ones, affine, Image.Resampling.BILINEAR) > 0

    def nearest(array: NDArray) -> NDArray:
        return _transform(array, affine, Image.Resampling.NEAREST) * seen

    channels = [_transform(image[..., 0], affine, Image.Resampling.BILINEAR)]
    channels += [nearest(image[..., c]) for c in range(1, image.shape[2])]
    return {
        "image": np.stack(channels, axis=-1),
        "mask": nearest(example["mask"]),
        "weight": nearest(example["weight"][..., 0])[..., None],
    }


def _affine(angle: float, factor: float, size: int) -> Affine:
    """Where a new pixel's centre lies in the old picture; x to the right, y down."""
    c, s, middle = np.cos(angle) / factor, np.sin(angle) / factor, size / 2
    return (c, s, middle - (c + s) * middle, -s, c, middle - (c - s) * middle)


def _transform(array: NDArray, affine: Affine, resample: Image.Resampling) -> NDArray:
    """Move one [S, S] float32 or int32 array; 0 comes in from outside."""
    picture = Image.fromarray(np.ascontiguousarray(array))
    moved = picture.transform(picture.size, Image.Transform.AFFINE, affine, resample)
    return np.asarray(moved)
