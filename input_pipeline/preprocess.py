"""From a slice on its own grid to the network's square grid, and back again.

A slice keeps its aspect: it is scaled until its longer side fills the square, then centred and
padded. `from_grid` undoes exactly that, so every prediction is judged on the slice's own grid.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from input_pipeline.lung_mask import dilate, threshold_lung_mask

HU_WINDOW = (-1250.0, 250.0)  # the lung window of the paper, section 4.1
PERCENTILES = (1.0, 99.0)
INTENSITIES = ("hu", "uint8")
LUNG_MASKS = ("file", "threshold", "none")
LABELS = (0, 1, 2)  # background, ground-glass (or lesion, in the binary task), consolidation
MIN_INNER = 2  # a very long slice keeps at least this many pixels across


@dataclass(frozen=True)
class Preprocessing:
    """Everything that turns a slice into network input; a workdir stores it beside the weights.

    Attributes:
        image_size: side of the square network grid in pixels, a positive multiple of 32.
        intensity: 'hu' maps the window [-1250, 250] HU to [0, 1]; 'uint8' maps the 1st to 99th
            percentile of each 8-bit slice to [0, 1]; both clip.
        lung_mask: where channel 1 comes from: 'file' (the data set's own mask), 'threshold'
            (`lung_mask.threshold_lung_mask`) or 'none' (the image has one channel).
        lung_dilation: pixels of the slice's own grid added around the lung mask.

    Raises:
        ValueError: a field holds something else.
    """

    image_size: int
    intensity: str
    lung_mask: str
    lung_dilation: int

    def __post_init__(self) -> None:
        if self.image_size <= 0 or self.image_size % 32:
            raise ValueError(
                f"image_size is {self.image_size}, expected a positive multiple of 32 "
                f"(for instance 192, 352 or 512)"
            )
        if self.intensity not in INTENSITIES:
            raise ValueError(f"intensity is {self.intensity!r}, expected one of {INTENSITIES}")
        if self.lung_mask not in LUNG_MASKS:
            raise ValueError(f"lung_mask is {self.lung_mask!r}, expected one of {LUNG_MASKS}")
        if self.lung_dilation < 0:
            raise ValueError(f"lung_dilation is {self.lung_dilation}, expected 0 or more pixels")

    @property
    def channels(self) -> int:
        """Channels of the network's input: intensity, then the lung mask where there is one."""
        return 1 if self.lung_mask == "none" else 2


@dataclass(frozen=True)
class Grid:
    """How a slice of `height` x `width` pixels sits in the square network grid.

    Attributes:
        height, width: the slice's own size in pixels.
        image_size: side of the square.
        top, left: first row and column of the square that the slice covers.
        inner_height, inner_width: the slice's size in the square; the rest is padding.
    """

    height: int
    width: int
    image_size: int
    top: int
    left: int
    inner_height: int
    inner_width: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the square that the slice covers."""
        rows = slice(self.top, self.top + self.inner_height)
        return rows, slice(self.left, self.left + self.inner_width)


@dataclass(frozen=True)
class Slice:
    """One CT slice on its own grid.

    Attributes:
        image: [H, W], int16 Hounsfield units or uint8 grey values.
        mask: [H, W] uint8 class index 0, 1 or 2; None when unlabelled.
        lung: [H, W] uint8, 1 inside the lungs; None when the source has none.
        id: name of the slice, unique within its split.
        patient: name of the patient; a slice of unknown patient is its own patient.
        spacing: millimetres per (row, column); None when unknown, as for 8-bit slices.
        volume: name of the scan whose slices lie one above the other; None for a lone slice.
        slice_spacing: millimetres from one slice of the volume to the next; None for a lone slice.
        weight: [H, W] uint8, how much each pixel's label counts in the loss, in 255ths (a
            pseudo-label's confidence); None where all count fully.
    """

    image: np.ndarray
    mask: np.ndarray | None
    lung: np.ndarray | None
    id: str
    patient: str
    spacing: tuple[float, float] | None
    volume: str | None = None
    slice_spacing: float | None = None
    weight: np.ndarray | None = None


@dataclass(frozen=True)
class Prepared:
    """One slice on the network grid, S x S pixels.

    Attributes:
        image: [S, S, C] float32; channel 0 intensity in [0, 1], channel 1 the lung mask (0 or 1).
        mask: [S, S] int32 class index, all 0 when the slice is unlabelled.
        weight: [S, S, 1] float32 in [0, 1]: the slice's weight (1 where it has none), 0 on the
            padding.
        grid: how to come back to the slice's own grid.
    """

    image: np.ndarray
    mask: np.ndarray
    weight: np.ndarray
    grid: Grid


def windowed(hu: np.ndarray) -> np.ndarray:
    """Hounsfield units as the 8-bit grey values of the lung window (section 4.1).

    Args:
        hu: any shape; -1250 HU and below become 0, 250 HU and above 255.

    Returns:
        uint8, same shape.
    """
    low, high = HU_WINDOW
    share = (hu.astype(np.float32) - low) / (high - low)
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def unwindowed(grey: np.ndarray) -> np.ndarray:
    """Hounsfield units back from 8-bit grey values of the lung window (section 4.1).

    Args:
        grey: any shape, 0 to 255.

    Returns:
        int16 in [-1250, 250], same shape; each is within 3 HU of what was windowed, unless the
        window cut it off.
    """
    low, high = HU_WINDOW
    return np.rint(low + grey.astype(np.float32) * ((high - low) / 255)).astype(np.int16)


def fit_grid(height: int, width: int, image_size: int) -> Grid:
    """Centre a slice in the square, its longer side filling it, its aspect kept.

    The shorter side is rounded to whole pixels and never falls below 2.

    Raises:
        ValueError: a side of the slice has no pixel.
    """
    if height < 1 or width < 1:
        raise ValueError(f"slice has {height} x {width} pixels, expected at least 1 x 1")
    longest = max(height, width)
    inner_height, inner_width = (
        max(MIN_INNER, round(side * image_size / longest)) for side in (height, width)
    )
    top, left = (image_size - inner_height) // 2, (image_size - inner_width) // 2
    return Grid(height, width, image_size, top, left, inner_height, inner_width)


def to_grid(array: np.ndarray, grid: Grid, *, nearest: bool, fill: float) -> np.ndarray:
    """Resize a slice into its place in the square and fill the padding.

    Args:
        array: [H, W] of the grid's own size, any numeric dtype.
        grid: from `fit_grid`.
        nearest: True for labels: the nearest pixel, dtype kept. False for intensities: bilinear,
            antialiased when shrinking, float32. Both use half-pixel centres.
        fill: value of the padding.

    Returns:
        [S, S].

    Raises:
        ValueError: the array is not of the grid's own size.
    """
    if array.shape != (grid.height, grid.width):
        raise ValueError(f"array is {array.shape}, the grid expects {(grid.height, grid.width)}")
    shape = (grid.inner_height, grid.inner_width)
    inner = _nearest(array, shape) if nearest else _bilinear(array, shape)
    square = np.full((grid.image_size, grid.image_size), fill, inner.dtype)
    square[grid.window] = inner
    return square


def from_grid(array: np.ndarray, grid: Grid) -> np.ndarray:
    """Cut the padding off and resize back to the slice's own grid, bilinear.

    Args:
        array: [S, S] or [S, S, C] on the network grid, a probability or an attention map.
        grid: the one the slice was prepared with.

    Returns:
        [H, W] or [H, W, C] float32.

    Raises:
        ValueError: the array is not of the network grid's size.
    """
    if array.ndim not in (2, 3) or array.shape[:2] != (grid.image_size, grid.image_size):
        raise ValueError(
            f"array is {array.shape}, expected [{grid.image_size}, {grid.image_size}] "
            f"with or without channels"
        )
    inner, shape = array[grid.window], (grid.height, grid.width)
    if array.ndim == 2:
        return _bilinear(inner, shape)
    channels = [_bilinear(inner[..., c], shape) for c in range(array.shape[2])]
    return np.moveaxis(np.stack(channels), 0, -1)  # channel by channel: fast to compare


def prepare(s: Slice, p: Preprocessing) -> Prepared:
    """Turn a slice into network input.

    Intensity and lung mask are made on the slice's own grid, then resized; padding is 0 (air).

    Raises:
        ValueError: the slice is constant (all black), its dtype does not suit `p.intensity`, mask,
            lung mask or weight have another size than the image, a label is outside 0..2, or
            `p.lung_mask` is 'file' and the slice has none. The message names the slice.
    """
    _check(s, p)
    height, width = s.image.shape
    grid = fit_grid(height, width, p.image_size)
    try:
        channels = [to_grid(normalize(s.image, p.intensity), grid, nearest=False, fill=0.0)]
    except ValueError as error:
        raise ValueError(f"{s.id}: {error}") from None
    lung = lung_of(s, p)
    if lung is not None:
        channels.append(to_grid(lung, grid, nearest=True, fill=0).astype(np.float32))
    own = np.full(s.image.shape, 255, np.uint8) if s.weight is None else s.weight
    weight = to_grid(own, grid, nearest=True, fill=0).astype(np.float32)[..., None] / 255
    mask = np.zeros((p.image_size, p.image_size), np.int32)
    if s.mask is not None:
        mask = to_grid(s.mask, grid, nearest=True, fill=0).astype(np.int32)
    return Prepared(np.stack(channels, axis=-1), mask, weight, grid)


def normalize(image: np.ndarray, intensity: str) -> np.ndarray:
    """Map grey values to [0, 1].

    Args:
        image: [H, W]; HU for 'hu', uint8 for 'uint8'.
        intensity: 'hu' or 'uint8', see `Preprocessing`.

    Returns:
        [H, W] float32 in [0, 1].

    Raises:
        ValueError: uint8 values where HU are expected or the reverse, or no contrast at all.
    """
    if (image.dtype == np.uint8) != (intensity == "uint8"):
        raise ValueError(
            f"image is {image.dtype}, which does not suit intensity={intensity!r}; "
            f"8-bit slices need 'uint8', Hounsfield units (int16) need 'hu'"
        )
    low, high = HU_WINDOW if intensity == "hu" else np.percentile(image, PERCENTILES)
    unit = np.clip((image.astype(np.float32) - low) / max(high - low, 1.0), 0.0, 1.0)
    if np.ptp(unit) == 0:
        raise ValueError(
            f"no contrast: all values lie in {image.min()}..{image.max()} (an all-black or "
            f"constant slice?); check the file or leave this slice out"
        )
    return unit.astype(np.float32)


def _check(s: Slice, p: Preprocessing) -> None:
    if s.image.ndim != 2:
        raise ValueError(f"{s.id}: image is {s.image.shape}, expected [H, W], one slice")
    for name, array in (("mask", s.mask), ("lung mask", s.lung), ("weight", s.weight)):
        if array is not None and array.shape != s.image.shape:
            raise ValueError(
                f"{s.id}: {name} is {array.shape}, its image is {s.image.shape}; "
                f"both must have the same size"
            )
    if s.mask is not None and not np.isin(s.mask, LABELS).all():
        stray = sorted(set(np.unique(s.mask).tolist()) - set(LABELS))
        raise ValueError(f"{s.id}: mask holds labels {stray}, expected only {LABELS}")
    if p.lung_mask == "file" and s.lung is None:
        raise ValueError(
            f"{s.id}: lung_mask is 'file' but this slice has no lung mask; "
            f"use lung_mask='threshold' or 'none'"
        )


def lung_of(s: Slice, p: Preprocessing) -> np.ndarray | None:
    """The lung mask on the slice's own grid, [H, W] uint8 0/1, or None."""
    if p.lung_mask == "none":
        return None
    if p.lung_mask == "file" and s.lung is not None:
        return dilate((s.lung > 0).astype(np.uint8), p.lung_dilation)
    return threshold_lung_mask(s.image, intensity=p.intensity, dilation=p.lung_dilation)


def _nearest(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Take for each new pixel the old one under its centre."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(shape, array.shape, strict=True)
    )
    return array[np.ix_(rows, columns)]


def _bilinear(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(array, np.float32))
    resized = picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)
