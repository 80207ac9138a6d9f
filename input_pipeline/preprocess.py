"""Turn a slice on its own grid into network input on a square grid, and map results back.

A slice keeps its aspect ratio: it is scaled until its longer side fills the square, then centred
and padded. `from_grid` reverses this, so that every prediction is scored on the slice's own grid.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from input_pipeline.grey_values import anatomy_range
from input_pipeline.lungs.outlines import dilate
from input_pipeline.lungs.threshold import threshold_lung_mask
from input_pipeline.slices import Slice

HU_WINDOW = (-1250.0, 250.0)  # the lung window of the paper, section 4.1
PERCENTILES = (1.0, 99.0)  # of an 8-bit slice; they become 0 and 1
INTENSITIES = ("hu", "uint8")
GREY_VALUES = ("percentiles", "anatomy", "window")
LUNG_MASKS = ("file", "threshold", "none")
LABELS = (0, 1, 2)  # background, ground-glass (or lesion, in the binary task), consolidation
MIN_INNER = 2  # pixels; the shorter side of a very long slice is never scaled to fewer


@dataclass(frozen=True)
class Preprocessing:
    """How a slice is turned into network input; a workdir stores it beside the weights.

    Attributes:
        image_size: side of the square network grid in pixels, a positive multiple of 32.
        intensity: 'hu' maps the window [-1250, 250] HU to [0, 1]; 'uint8' is for 8-bit slices, see
            `grey_values`; values outside are clipped.
        lung_mask: the source of channel 1: 'file' (the mask of the data set), 'threshold' (computed
            by `lungs.threshold.threshold_lung_mask`) or 'none' (the image has one channel).
        lung_dilation: pixels of the slice's own grid by which the lung mask is grown, 0 or more.
        grey_values: which grey values of an 8-bit slice become 0 and 1: 'percentiles' (its 1st and
            99th), 'anatomy' (those of -1250 and 250 HU by its lung and soft tissue, see
            `grey_values.anatomy_range`; percentiles where these are not found) or 'window' (0 and
            255, of a slice known to show [-1250, 250] HU). With 'hu' it is 'percentiles' and not
            read.

    Raises:
        ValueError: a field has another value.
    """

    image_size: int
    intensity: str
    lung_mask: str
    lung_dilation: int
    grey_values: str = "percentiles"

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
        if self.grey_values not in GREY_VALUES:
            raise ValueError(f"grey_values is {self.grey_values!r}, expected one of {GREY_VALUES}")
        if self.intensity == "hu" and self.grey_values != "percentiles":
            raise ValueError(
                f"grey_values is {self.grey_values!r}, expected 'percentiles' for slices in "
                f"Hounsfield units, which need no landmarks; leave it out"
            )

    @property
    def channels(self) -> int:
        """Number of input channels: 1 (intensity) or 2 (intensity and lung mask)."""
        return 1 if self.lung_mask == "none" else 2


@dataclass(frozen=True)
class Grid:
    """The place of a slice of `height` x `width` pixels in the square network grid.

    Attributes:
        height: rows of the slice's own grid.
        width: columns of the slice's own grid.
        image_size: side of the square in pixels.
        top: first row of the square that the slice covers.
        left: first column of the square that the slice covers.
        inner_height: rows of the square that the slice covers; the others are padding.
        inner_width: columns of the square that the slice covers; the others are padding.
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
class Prepared:
    """One slice on the network grid of S x S pixels.

    Attributes:
        image: `[S, S, C]` float32; channel 0 is the intensity in [0, 1], channel 1 the lung mask
            (0 or 1).
        mask: `[S, S]` int32 class index, all 0 if the slice is unlabelled.
        weight: `[S, S, 1]` float32 in [0, 1]: the slice's weight (1 if it has none), 0 on the
            padding.
        grid: maps results back to the slice's own grid.
    """

    image: np.ndarray
    mask: np.ndarray
    weight: np.ndarray
    grid: Grid


def windowed(hu: np.ndarray) -> np.ndarray:
    """Return the 8-bit grey values of Hounsfield units in the lung window (section 4.1).

    Args:
        hu: Hounsfield units of any shape; -1250 HU and below become 0, 250 HU and above 255.

    Returns:
        uint8 of the same shape.
    """
    low, high = HU_WINDOW
    share = (hu.astype(np.float32) - low) / (high - low)
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def unwindowed(grey: np.ndarray) -> np.ndarray:
    """Return the Hounsfield units of 8-bit grey values in the lung window (section 4.1).

    Args:
        grey: grey values of any shape, 0 to 255.

    Returns:
        int16 in [-1250, 250], of the same shape; within 3 HU of the values that `windowed` was
        given, where these lay inside the window.
    """
    low, high = HU_WINDOW
    return np.rint(low + grey.astype(np.float32) * ((high - low) / 255)).astype(np.int16)


def fit_grid(height: int, width: int, image_size: int) -> Grid:
    """Return the place of a slice in the square: centred, its longer side filling the square.

    The aspect ratio is kept; the shorter side is rounded to whole pixels, and is at least 2.

    Args:
        height: rows of the slice.
        width: columns of the slice.
        image_size: side of the square in pixels.

    Raises:
        ValueError: the slice has no pixel.
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
    """Resize an array of a slice to its place in the square, and fill the padding.

    Args:
        array: `[H, W]`, the size of the slice; any numeric dtype.
        grid: place of the slice, from `fit_grid`.
        nearest: True for labels: nearest pixel, dtype kept. False for intensities: bilinear with
            antialiasing, float32. Both use half-pixel centres.
        fill: value of the padding.

    Returns:
        `[S, S]`.

    Raises:
        ValueError: the array has another size than the slice.
    """
    if array.shape != (grid.height, grid.width):
        raise ValueError(f"array is {array.shape}, expected {(grid.height, grid.width)}")
    shape = (grid.inner_height, grid.inner_width)
    inner = _nearest(array, shape) if nearest else _bilinear(array, shape)
    square = np.full((grid.image_size, grid.image_size), fill, inner.dtype)
    square[grid.window] = inner
    return square


def from_grid(array: np.ndarray, grid: Grid) -> np.ndarray:
    """Remove the padding and resize to the slice's own grid, bilinearly.

    Args:
        array: `[S, S]` or `[S, S, C]` on the network grid: probabilities or an attention map.
        grid: place of the slice, from `prepare_slice`.

    Returns:
        `[H, W]` or `[H, W, C]` float32.

    Raises:
        ValueError: the array has another size than the network grid.
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
    return np.moveaxis(np.stack(channels), 0, -1)  # each channel contiguous: fast to compare


def prepare_slice(item: Slice, preprocessing: Preprocessing) -> Prepared:
    """Turn a slice into network input.

    Intensity and lung mask are computed on the slice's own grid and then resized; the padding is 0
    (air).

    Args:
        item: the slice.
        preprocessing: how slices become network input.

    Raises:
        ValueError: the slice is constant (all black), its dtype does not suit the intensity, its
            mask, lung mask or weight has another size than its image, a label is not 0, 1 or 2, or
            the lung mask is to come from a file and the slice has none. The message names the
            slice.
    """
    _check(item, preprocessing)
    size = preprocessing.image_size
    height, width = item.image.shape
    grid = fit_grid(height, width, size)
    try:
        intensity = normalize(item.image, preprocessing.intensity, preprocessing.grey_values)
        channels = [to_grid(intensity, grid, nearest=False, fill=0.0)]
    except ValueError as error:
        raise ValueError(f"{item.id}: {error}") from None
    lung = lung_of(item, preprocessing)
    if lung is not None:
        channels.append(to_grid(lung, grid, nearest=True, fill=0).astype(np.float32))
    own = np.full(item.image.shape, 255, np.uint8) if item.weight is None else item.weight
    weight = to_grid(own, grid, nearest=True, fill=0).astype(np.float32)[..., None] / 255
    mask = np.zeros((size, size), np.int32)
    if item.mask is not None:
        mask = to_grid(item.mask, grid, nearest=True, fill=0).astype(np.int32)
    return Prepared(np.stack(channels, axis=-1), mask, weight, grid)


def normalize(image: np.ndarray, intensity: str, grey_values: str = "percentiles") -> np.ndarray:
    """Map the intensities of a slice to [0, 1].

    Args:
        image: `[H, W]`; Hounsfield units for 'hu', uint8 for 'uint8'.
        intensity: 'hu' or 'uint8', see `Preprocessing`.
        grey_values: of 'uint8', see `Preprocessing`.

    Returns:
        `[H, W]` float32 in [0, 1].

    Raises:
        ValueError: the dtype does not suit the intensity, or all values become one value.
    """
    if (image.dtype == np.uint8) != (intensity == "uint8"):
        raise ValueError(
            f"image is {image.dtype}, expected values of intensity={intensity!r}; "
            f"8-bit slices need 'uint8', Hounsfield units (int16) need 'hu'"
        )
    low, high = HU_WINDOW if intensity == "hu" else _grey_range(image, grey_values)
    unit = np.clip((image.astype(np.float32) - low) / max(high - low, 1.0), 0.0, 1.0)
    if np.ptp(unit) == 0:
        raise ValueError(
            f"no contrast: all values lie in {image.min()}..{image.max()}, expected a slice that "
            f"is not all black or constant; check the file or leave this slice out"
        )
    return unit.astype(np.float32)


def _grey_range(image: np.ndarray, grey_values: str) -> tuple[float, float]:
    """Return the two grey values of an 8-bit slice that become 0 and 1."""
    if grey_values == "window":
        return 0.0, 255.0
    if grey_values == "anatomy" and (found := anatomy_range(image, HU_WINDOW)):
        return found
    low, high = np.percentile(image, PERCENTILES)
    return low, high


def lung_of(item: Slice, preprocessing: Preprocessing) -> np.ndarray | None:
    """Return the lung mask that the network sees, on the slice's own grid.

    Args:
        item: the slice.
        preprocessing: the source of the lung mask, and its dilation.

    Returns:
        `[H, W]` uint8, 1 inside the lungs; None if the network sees no lung mask.
    """
    if preprocessing.lung_mask == "none":
        return None
    dilation = preprocessing.lung_dilation
    if preprocessing.lung_mask == "file" and item.lung is not None:
        return dilate((item.lung > 0).astype(np.uint8), dilation)
    return threshold_lung_mask(item.image, intensity=preprocessing.intensity, dilation=dilation)


def _check(item: Slice, preprocessing: Preprocessing) -> None:
    """Check the shapes, labels and lung mask of a slice."""
    if item.image.ndim != 2:
        raise ValueError(f"{item.id}: image is {item.image.shape}, expected one slice, [H, W]")
    for name, array in (("mask", item.mask), ("lung mask", item.lung), ("weight", item.weight)):
        if array is not None and array.shape != item.image.shape:
            raise ValueError(
                f"{item.id}: {name} is {array.shape}, expected the size of its image, "
                f"{item.image.shape}; make it again"
            )
    if item.mask is not None and not np.isin(item.mask, LABELS).all():
        stray = sorted(set(np.unique(item.mask).tolist()) - set(LABELS))
        raise ValueError(f"{item.id}: mask holds labels {stray}, expected only {LABELS}")
    if preprocessing.lung_mask == "file" and item.lung is None:
        raise ValueError(
            f"{item.id}: has no lung mask, expected one as lung_mask is 'file'; "
            f"use lung_mask='threshold' or 'none'"
        )


def _nearest(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize `[H, W]` to `shape`; each new pixel takes the old one that lies under its centre."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(shape, array.shape, strict=True)
    )
    return array[np.ix_(rows, columns)]


def _bilinear(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize `[H, W]` to `shape` bilinearly, with antialiasing; float32."""
    picture = Image.fromarray(np.ascontiguousarray(array, np.float32))
    resized = picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)
