"""Change training slices at random, within the limits of what occurs in CT scans.

Geometric changes apply to image, mask, lung mask and weight alike; changes of intensity apply to
channel 0 only. The lung mask stays 0 or 1 and labels stay labels. The patient is mirrored only if a
flip is switched on.
"""

from dataclasses import dataclass, fields, replace

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
    """How much a training slice may be changed.

    Rotation, shift and gain are drawn uniformly from their ranges; so are the exponents of scaling
    and gamma, and the standard deviation of the noise.

    Attributes:
        flip_horizontal: mirror left and right with probability 0.5. This exchanges the anatomical
            sides (the heart lies on the other side), which is harmless here because no class
            depends on the side; switch it off if one does.
        flip_vertical: mirror front and back with probability 0.5.
        rotation_degrees: rotate by up to this many degrees either way, 0 to 45.
        scaling: enlarge or shrink by a factor in [1 / (1 + scaling), 1 + scaling], 0 to 0.5.
        intensity_shift: add up to this much either way, in units of the window (0.02 of the
            window [-1250, 250] is 30 HU), 0 to 0.5.
        intensity_gain: multiply by a factor in [1 - gain, 1 + gain], 0 to 0.5.
        gamma: raise to a power in [1 / (1 + gamma), 1 + gamma], 0 to 1.
        noise_sd: add white noise of up to this standard deviation, in units of the window, 0 to
            0.5.
        probability: probability, 0 to 1, with which each of three groups (rotation and scaling;
            gamma, gain and shift; noise) is applied. The flips do not depend on it.

    Raises:
        ValueError: a number is outside its range; the message names the field.
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

    @property
    def geometric(self) -> "Augmentation":
        """These settings without changes of intensity."""
        return replace(self, intensity_shift=0.0, intensity_gain=0.0, gamma=0.0, noise_sd=0.0)

    @property
    def photometric(self) -> "Augmentation":
        """These settings with changes of intensity alone."""
        return replace(
            self, flip_horizontal=False, flip_vertical=False, rotation_degrees=0.0, scaling=0.0
        )

    def stronger(self, factor: float) -> "Augmentation":
        """Return these settings with stronger changes of intensity, at most the largest allowed.

        Args:
            factor: of the ranges of shift, gain, gamma and noise, 0 or more.
        """
        names = ("intensity_shift", "intensity_gain", "gamma", "noise_sd")
        wanted = {name: factor * getattr(self, name) for name in names}
        return replace(self, **{name: min(v, _LIMITS[name][1]) for name, v in wanted.items()})


def augment(example: Example, rng: np.random.Generator, settings: Augmentation) -> Example:
    """Return a randomly changed copy of one prepared slice.

    Args:
        example: 'image' `[S, S, C]` float32 in [0, 1], whose channel 1 (if any) is the lung mask;
            'mask' `[S, S]` int32 class index; 'weight' `[S, S, 1]` float32 in [0, 1].
        rng: the only source of randomness: the same generator state gives the same result.
        settings: ranges and switches.

    Returns:
        The same names, shapes and dtypes. Pixels that were outside the image have image 0, mask 0
        and weight 0. The intensity is clipped to [0, 1].
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
    """Mirror all arrays, pixel for pixel."""
    rows, columns = (
        slice(None, None, -1 if vertical else 1),
        slice(None, None, -1 if horizontal else 1),
    )
    return {name: np.ascontiguousarray(array[rows, columns]) for name, array in example.items()}


def _resample(example: Example, angle: float, factor: float) -> Example:
    """Rotate by `angle` radians (clockwise as displayed) and enlarge about the image's centre.

    The intensity is interpolated bilinearly; lung mask, labels and weight take the nearest pixel.
    The two methods round differently at the edge of the image, so the latter are set to 0 where the
    intensity has no source.
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
    """Return the map from a new pixel's centre to its place in the old image; x right, y down."""
    c, s, middle = np.cos(angle) / factor, np.sin(angle) / factor, size / 2
    return (c, s, middle - (c + s) * middle, -s, c, middle - (c - s) * middle)


def _transform(array: NDArray, affine: Affine, resample: Image.Resampling) -> NDArray:
    """Resample one `[S, S]` float32 or int32 array; pixels from outside the image are 0."""
    picture = Image.fromarray(np.ascontiguousarray(array))
    moved = picture.transform(picture.size, Image.Transform.AFFINE, affine, resample)
    return np.asarray(moved)
