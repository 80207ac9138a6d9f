"""A volume that a reader fills slice by slice: its values are checked and stored compactly."""

from pathlib import Path

import numpy as np

from input_pipeline.io.doubts import WINDOW
from input_pipeline.io.padding import AIR_HU, clear_padding, constant_corners, padding_note

VALUE_RANGES = {"hu": (-32768.0, 32767.0), "uint8": (-0.49, 255.49)}  # values that readers accept
STATED = {  # what a refused range is to be, and what to state instead
    "hu": ("-32768 to 32767 for Hounsfield units", "correct the file's scale and offset"),
    "uint8": (
        "0 to 255 (or fractions, 0 to 1) for grey values",
        "if they are Hounsfield units, state --intensity hu (where dataset.json states the "
        "intensity, state 'hu' there)",
    ),
}
MOST_FRACTION = 1.002  # fractions of the window are at most 1, up to their rounding
FARTHEST_PADDING = 2**17  # HU; padding of 16 bits, signed or not, lies within


class Stack:
    """A volume that is filled slice by slice, so that no second copy of it is needed.

    Values are stored as int16 (Hounsfield units) or uint8 (grey values), and as float32 once one
    has a fraction. `finish` rounds grey values to uint8.

    Attributes:
        array: `[slices, rows, columns]`, in the file's own order.
        intensity: 'hu' or 'uint8'.

    Args:
        shape: (slices, rows, columns).
        intensity: 'hu' or 'uint8'.

    Raises:
        ValueError: another intensity.
    """

    def __init__(self, shape: tuple[int, int, int], intensity: str) -> None:
        check_intensity(intensity)
        self.array = np.empty(shape, np.int16 if intensity == "hu" else np.uint8)
        self.intensity = intensity
        self._highest = -np.inf
        self._padding = dict[float, int]()  # voxels of each value that int16 cannot hold

    def put(self, index: int, values: np.ndarray, path: Path) -> None:
        """Store one slice.

        Args:
            index: index of the slice.
            values: `[rows, columns]`, any real dtype, in the units of the volume.
            path: the file that the slice is from, for messages.

        Raises:
            ValueError: a value is NaN, infinite or out of range; the message names the file.
        """
        with np.errstate(invalid="ignore"):
            lowest, highest = float(values.min()), float(values.max())  # NaN if any is
        if not np.isfinite([lowest, highest]).all():
            bad = np.size(values) - np.isfinite(values).sum()
            raise ValueError(
                f"{path}: {bad} voxels of a slice are NaN or infinite, expected numbers; "
                f"replace them by -1024 (air) if they mark the outside of the scan"
            )
        least, most = VALUE_RANGES[self.intensity]
        if self.intensity == "hu" and (lowest < least or highest > most):
            values = self._without_padding(values)
            lowest, highest = float(values.min()), float(values.max())
        if lowest < least or highest > most:
            expected, remedy = STATED[self.intensity]
            raise ValueError(
                f"{path}: values from {lowest:g} to {highest:g}, expected {expected}; {remedy}"
            )
        if self.array.dtype.kind in "iu" and values.dtype.kind == "f":
            whole = np.rint(values)
            if not np.array_equal(whole, values):
                self.array = self.array.astype(np.float32)
        self.array[index] = values
        self._highest = max(self._highest, highest)

    def clear_padding(self, voxels: np.ndarray) -> list[str]:
        """Set the outside of the scan to air; grey values stay as they are.

        Args:
            voxels: `[slices, rows, columns]`, the array, or a view of it, in the orientation of
                `Scan.voxels`.

        Returns:
            Sentences about what was done.
        """
        if self.intensity != "hu":
            return []
        known = [padding_note(value, n / voxels.size) for value, n in self._padding.items()]
        return known + clear_padding(voxels)

    def _without_padding(self, values: np.ndarray) -> np.ndarray:
        """Return a slice with air for a value at its corners that is no Hounsfield unit."""
        least, most = VALUE_RANGES["hu"]
        value = constant_corners(values)
        if value is None or least <= value <= most or abs(value) > FARTHEST_PADDING:
            return values
        padding = values == value
        self._padding[value] = self._padding.get(value, 0) + int(padding.sum())
        return np.where(padding, AIR_HU, values)

    def finish(self) -> list[str]:
        """Turn grey values with fractions into uint8: 0 to 1 is the window, others are rounded.

        Returns:
            Sentences about what was done.
        """
        if self.intensity != "uint8" or self.array.dtype == np.uint8:
            return []
        factor = np.float32(255 if self._highest <= MOST_FRACTION else 1)
        whole = np.empty(self.array.shape, np.uint8)
        for index, values in enumerate(self.array):
            whole[index] = np.clip(np.rint(values * factor), 0, 255)
        self.array = whole
        if factor == 1:
            return ["grey values had fractions and were rounded"]
        return [f"grey values from 0 to 1 were read as fractions of the window {WINDOW}"]


def check_intensity(intensity: str) -> None:
    """Check that an intensity is 'hu' or 'uint8'.

    Args:
        intensity: what the caller states.

    Raises:
        ValueError: it is neither.
    """
    if intensity not in VALUE_RANGES:
        raise ValueError(
            f"intensity is {intensity!r}, expected one of {tuple(VALUE_RANGES)}; a command takes "
            f"--intensity hu or windowed"
        )
