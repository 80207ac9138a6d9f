"""A scan as the slices that a network reads, and where each of them lies in the scan."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from input_pipeline.lazy import LazySequence
from input_pipeline.lung_mask import threshold_lung_mask, volume_lung_mask
from input_pipeline.lung_sides import lung_sides
from input_pipeline.nifti import read_labels, same_grid
from input_pipeline.preprocess import Preprocessing, Slice, unwindowed, windowed
from input_pipeline.readers import read_scan
from input_pipeline.scans import Scan

WINDOWED = "windowed"  # 8-bit grey values of the window that `preprocess.windowed` makes
CROP_MARGIN = 4  # pixels left around the lungs where slices are cropped


def read_hu(path: Path, *, intensity: str | None, series: str | None, axes: str | None) -> Scan:
    """Read a scan in HU; 'windowed' grey values are mapped back to the HU they came from.

    Args:
        path: NIfTI file, DICOM file or folder.
        intensity: 'hu' or 'windowed'; DICOM is always 'hu' and may leave it out.
        series: of a DICOM folder that holds several.
        axes: of a NIfTI file without orientation.

    Raises:
        ValueError: the file cannot be used, or has no place in the world for its mask.
        OSError: it cannot be opened.
    """
    stored = "uint8" if intensity == WINDOWED else intensity
    scan = read_scan(path, intensity=stored, series=series, axes=axes)
    if scan.affine is None or scan.spacing is None:
        raise ValueError(
            f"{path}: its spacing is unknown, so there are no volumes and no NIfTI mask; "
            "convert it to NIfTI"
        )
    if intensity == WINDOWED:
        scan = replace(scan, voxels=unwindowed(scan.voxels), intensity="hu")
    return scan


def read_lung_sides(path: Path, scan: Scan) -> np.ndarray:
    """Lungs of a scan from a NIfTI label map: 1 right and 2 left, or 1 for both.

    Returns:
        [slices, rows, columns] uint8, 0 outside, 1 the right lung, 2 the left.

    Raises:
        ValueError: other labels, or another grid than the scan's.
        OSError: it cannot be opened.
    """
    found = read_labels(path, (0, 1, 2))
    reason = same_grid(scan, found)
    if reason:
        raise ValueError(f"{path}: not on the grid of {scan.id}: {reason}; make it anew")
    return found.voxels if (found.voxels == 2).any() else lung_sides(found.voxels)


def find_lung_sides(scan: Scan) -> np.ndarray:
    """Lungs of a scan in HU by intensity and shape, see `volume_lung_mask`.

    Returns:
        As `read_lung_sides`.
    """
    return lung_sides(volume_lung_mask(scan.voxels, spacing=scan.spacing, dilation=0))


class ScanSlices(LazySequence[Slice]):
    """The slices from the lowest to the highest with lung, prepared as a network was trained.

    A network of 8-bit slices gets the lung window in 8 bits, cropped to the lungs of the whole
    scan, as its training slices were. A slice of one value alone (padding) is left out.

    Attributes:
        places: index in the scan of each slice.
        window: rows and columns of the scan that slices cover.
        prepared_by: how these slices become network input; their lung masks are given.

    Args:
        scan: in HU.
        sides: as `read_lung_sides` returns.
        preprocessing: of the network.
    """

    def __init__(self, scan: Scan, sides: np.ndarray, preprocessing: Preprocessing) -> None:
        self._scan = scan
        self._sides = sides
        self._grey = preprocessing.intensity == "uint8"
        self._own_lungs = self._grey and preprocessing.lung_mask == "threshold"
        given = preprocessing.lung_mask if preprocessing.lung_mask == "none" else "file"
        self.prepared_by = replace(preprocessing, lung_mask=given)
        _, rows, columns = scan.voxels.shape
        self.window = (slice(0, rows), slice(0, columns))
        if self._grey and sides.any():
            self.window = (_reach(sides, 1), _reach(sides, 2))
        with_lung = np.flatnonzero(sides.any(axis=(1, 2)))
        between = range(with_lung[0], with_lung[-1] + 1) if len(with_lung) else range(0)
        self.places = [k for k in between if np.ptp(self._image(k))]

    def __len__(self) -> int:
        return len(self.places)

    def _item(self, index: int) -> Slice:
        place = self.places[index]
        image = self._image(place)
        lung = (self._sides[place][self.window] > 0).astype(np.uint8)
        if self._own_lungs:  # what the network saw in training
            lung = threshold_lung_mask(image, intensity="uint8", dilation=0)
        assert self._scan.spacing is not None
        return Slice(
            image=image,
            mask=None,
            lung=lung,
            id=f"{self._scan.id}_{place:04d}",
            patient=self._scan.id,
            spacing=self._scan.spacing[1:],
            volume=self._scan.id,
            slice_spacing=self._scan.spacing[0],
        )

    def _image(self, place: int) -> np.ndarray:
        cut = self._scan.voxels[place][self.window]
        return windowed(cut) if self._grey else np.ascontiguousarray(cut)


def _reach(sides: np.ndarray, axis: int) -> slice:
    """From the first to the last index along an axis that holds lung, and a margin."""
    others = tuple(k for k in range(3) if k != axis)
    found = np.flatnonzero(sides.any(axis=others))
    return slice(
        max(0, int(found[0]) - CROP_MARGIN),
        min(sides.shape[axis], int(found[-1]) + 1 + CROP_MARGIN),
    )
