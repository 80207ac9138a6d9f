"""Mix a training slice with another one: a box of it, its lesions, or its coarse contrast.

CutMix (Yun et al., ICCV 2019) replaces a box. Copy-paste (Ghiasi et al., CVPR 2021) adds the other
slice's lesions, here within the lungs alone. The exchange of low-frequency amplitudes (Yang and
Soatto, CVPR 2020) gives a slice the other's overall brightness and contrast, and keeps its shapes.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from input_pipeline.augment import Example

BOX_AREA = (0.05, 0.5)  # share of the image that a box covers
BOX_ASPECT = 2.0  # a box is at most this many times as high as wide, or as wide as high
LOW_FREQUENCIES = 0.01  # largest exchanged frequency, in cycles per pixel, but at least one cycle


@dataclass(frozen=True)
class Mixing:
    """How often a training slice is mixed with another.

    Attributes:
        cutmix: probability that a box of the other slice replaces that of the slice.
        copy_paste: probability that the other slice's lesions are pasted into the slice's lungs,
            where no box was replaced.
        amplitude: probability that the slice gets the low-frequency amplitudes of the other one,
            before the other two.

    Raises:
        ValueError: a probability outside 0 to 1.
    """

    cutmix: float = 0.0
    copy_paste: float = 0.0
    amplitude: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise ValueError(f"mixing.{field.name} is {value}; expected 0 to 1")

    def __bool__(self) -> bool:
        """Return whether any slice is mixed at all."""
        return max(self.cutmix, self.copy_paste, self.amplitude) > 0


def mix(example: Example, other: Example, rng: np.random.Generator, settings: Mixing) -> Example:
    """Return a copy of a slice that is mixed with another one at random.

    Args:
        example: see `augment.augment`.
        other: a slice of the same size.
        rng: the only source of randomness.
        settings: probabilities.

    Returns:
        The same names, shapes and dtypes; mask and weight of a pixel come from the slice that its
        image comes from.
    """
    apply = rng.random(3)
    box = draw_box(rng, example["mask"].shape)
    made = {name: array.copy() for name, array in example.items()}
    if apply[0] < settings.amplitude:
        share = rng.random()
        made["image"][..., 0] = exchange_amplitudes(
            example["image"][..., 0], other["image"][..., 0], share
        )
    if apply[1] < settings.cutmix:
        for name in made:
            made[name][box] = other[name][box]
    elif apply[2] < settings.copy_paste:
        pasted = pasted_pixels(example, other)
        for name in ("mask", "weight"):
            made[name][pasted] = other[name][pasted]
        made["image"][pasted, 0] = other["image"][pasted, 0]
    return made


def draw_box(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Draw a box within an image, its area and the logarithm of its aspect ratio uniformly.

    Args:
        rng: the source of randomness.
        shape: of the image, (rows, columns).

    Returns:
        Its rows and columns.
    """
    area = rng.uniform(*BOX_AREA)
    aspect = BOX_ASPECT ** rng.uniform(-1.0, 1.0)
    sides = np.minimum(np.sqrt([area * aspect, area / aspect]), 1.0)
    heights = np.maximum(np.rint(sides * shape), 1).astype(int)
    starts = (rng.random(2) * (np.asarray(shape) - heights + 1)).astype(int)
    rows, columns = (slice(k, k + n) for k, n in zip(starts.tolist(), heights, strict=True))
    return rows, columns


def pasted_pixels(example: Example, other: Example) -> NDArray[np.bool_]:
    """Return the pixels at which lesions of another slice are pasted into a slice.

    Args:
        example: the slice; where channel 1 holds its lung mask, only pixels within count.
        other: the other slice; its pixels of weight 0 are no lesion.

    Returns:
        `[S, S]`.
    """
    lesion = (other["mask"] > 0) & (other["weight"][..., 0] > 0)
    if example["image"].shape[-1] == 1:
        return lesion & (example["weight"][..., 0] > 0)
    return lesion & (example["image"][..., 1] > 0)


def exchange_amplitudes(image: NDArray, other: NDArray, share: float) -> NDArray[np.float32]:
    """Move the low-frequency amplitudes of an image's spectrum towards another's.

    Args:
        image: `[S, S]` in [0, 1].
        other: `[S, S]` in [0, 1].
        share: 0 keeps the image's amplitudes, 1 takes the other's.

    Returns:
        `[S, S]` float32, clipped to [0, 1]; the phases are those of `image`.
    """
    spectrum = np.fft.fft2(image)
    rows, columns = (np.abs(np.fft.fftfreq(n)) * n for n in image.shape)
    limits = [max(1.0, LOW_FREQUENCIES * n) for n in image.shape]
    low = (rows <= limits[0])[:, None] & (columns <= limits[1])[None, :]
    before, wanted = np.abs(spectrum[low]), np.abs(np.fft.fft2(other)[low])
    factor = 1 + share * (wanted / np.maximum(before, 1e-6) - 1)
    spectrum[low] *= factor
    return np.clip(np.fft.ifft2(spectrum).real, 0.0, 1.0).astype(np.float32)
