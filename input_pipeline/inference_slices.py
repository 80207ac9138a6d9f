"""Turn a scan, or pictures, into the slices that a trained network is to segment."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from input_pipeline.io.nifti import read_labels, same_grid
from input_pipeline.io.read import read_image, read_mask, read_scan
from input_pipeline.io.scan import Scan, own_slices
from input_pipeline.lungs.left_right import label_left_right
from input_pipeline.lungs.threshold import threshold_lung_mask, volume_lung_mask
from input_pipeline.preprocess import Preprocessing, lung_of, normalize, unwindowed, windowed
from input_pipeline.slices import LazySequence, Slice

WINDOWED = "windowed"  # 8-bit grey values of the lung window, as `preprocess.windowed` makes them
CROP_MARGIN = 4  # pixels kept around the lungs when slices are cropped


def read_hu(path: Path, *, intensity: str | None, series: str | None, axes: str | None) -> Scan:
    """Read a scan in HU; 'windowed' grey values are mapped back to HU.

    Args:
        path: NIfTI file, DICOM file or DICOM folder.
        intensity: 'hu' or 'windowed'; None for DICOM, which is always 'hu'.
        series: UID or number of the series to read from a DICOM folder; None if it has only one.
        axes: directions of the axes of a NIfTI file that states no orientation, or only a program's
            default, such as 'LPS'.

    Raises:
        ValueError: the file cannot be used, or its spacing is unknown; the message names the file.
        OSError: the file cannot be opened.
    """
    scan = read_scan(path, intensity=stored_intensity(intensity), series=series, axes=axes)
    if scan.affine is None or scan.spacing is None:
        raise ValueError(
            f"{path}: its spacing is unknown, expected one for volumes and the NIfTI mask; "
            "convert it to NIfTI"
        )
    return in_hu(scan, intensity)


def stored_intensity(intensity: str | None) -> str | None:
    """Return the intensity that the readers check: 'uint8' for 'windowed', others unchanged."""
    return "uint8" if intensity == WINDOWED else intensity


def in_hu(scan: Scan, intensity: str | None) -> Scan:
    """Return the scan in HU.

    Args:
        scan: a scan as read.
        intensity: 'windowed' to map its grey values back to HU; any other value returns it as is.
    """
    if intensity != WINDOWED:
        return scan
    return replace(scan, voxels=unwindowed(scan.voxels), intensity="hu")


def read_lung_labels(path: Path, scan: Scan) -> np.ndarray:
    """Read the lung labels of a scan from a NIfTI label map.

    Axes that the user stated for the scan count for the map too.

    Args:
        path: label map of 1 (right) and 2 (left), or of 1 for both lungs.
        scan: the scan it belongs to.

    Returns:
        `[slices, rows, columns]` uint8 lung labels: 0 none, 1 right, 2 left.

    Raises:
        ValueError: the map has other labels, or another grid than the scan.
        OSError: the file cannot be opened.
    """
    found = read_labels(path, (0, 1, 2), axes=scan.stated_axes)
    reason = same_grid(scan, found)
    if reason:
        raise ValueError(f"{path}: not on the grid of {scan.id}: {reason}; make it again")
    labels = own_slices(found.voxels, scan)
    return labels if (labels == 2).any() else label_left_right(labels, scan.voxels)


def find_lung_labels(scan: Scan) -> np.ndarray:
    """Compute the lung labels of a scan from intensity and shape, see `volume_lung_mask`.

    Args:
        scan: a scan in HU.

    Returns:
        `[slices, rows, columns]` uint8 lung labels: 0 none, 1 right, 2 left.
    """
    lung = volume_lung_mask(scan.voxels, spacing=scan.spacing, dilation=0)
    return label_left_right(lung, scan.voxels)


class ScanSlices(LazySequence[Slice]):
    """The slices of a scan from the lowest to the highest that holds lung.

    A network trained on 8-bit slices gets 8-bit slices of the lung window, cropped to the lungs of
    the whole scan, like its training slices; if it takes grey values by anatomy, which is an
    estimate of that window, the window itself is used. Slices of a single value (padding) are left
    out.

    Attributes:
        places: index in the scan of each slice.
        window: rows and columns of the scan that the slices cover.
        prepared_by: how these slices, which have lung masks, become network input.

    Args:
        scan: a scan in HU whose spacing is known.
        lung: `[slices, rows, columns]` lung labels of the scan: 0 none, 1 right, 2 left.
        preprocessing: how slices become input of the network.
    """

    def __init__(self, scan: Scan, lung: np.ndarray, preprocessing: Preprocessing) -> None:
        self._scan = scan
        self._lung = lung
        self._grey = preprocessing.intensity == "uint8"
        self._own_lungs = self._grey and preprocessing.lung_mask == "threshold"
        given = preprocessing.lung_mask if preprocessing.lung_mask == "none" else "file"
        self.prepared_by = replace(preprocessing, lung_mask=given)
        if preprocessing.grey_values == "anatomy":
            self.prepared_by = replace(self.prepared_by, grey_values="window")
        _, rows, columns = scan.voxels.shape
        self.window = (slice(0, rows), slice(0, columns))
        if self._grey and lung.any():
            self.window = (_reach(lung, 1), _reach(lung, 2))
        with_lung = np.flatnonzero(lung.any(axis=(1, 2)))
        between = range(with_lung[0], with_lung[-1] + 1) if len(with_lung) else range(0)
        self.places = [k for k in between if np.ptp(self._image(k))]

    def __len__(self) -> int:
        return len(self.places)

    def _item(self, index: int) -> Slice:
        place = self.places[index]
        image = self._image(place)
        lung = (self._lung[place][self.window] > 0).astype(np.uint8)
        if self._own_lungs:  # computed from the slice alone, as in training
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
        """Return the image of the slice at index `place` of the scan."""
        cut = self._scan.voxels[place][self.window]
        return windowed(cut) if self._grey else np.ascontiguousarray(cut)


class PictureSlices(LazySequence[Slice]):
    """Pictures as slices, each read when it is accessed, with the lung mask that the network sees.

    Attributes:
        paths: the files.
        prepared_by: how these slices, which have lung masks, become network input.

    Args:
        paths: 8-bit grey PNG or JPEG files.
        preprocessing: how slices become input of the network.
        lung_files: a lung mask for each picture (PNG of 0 and 1, or of 0 and 255); None if the
            network needs none.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        preprocessing: Preprocessing,
        lung_files: Sequence[Path] | None,
    ) -> None:
        self.paths = paths
        self._preprocessing = preprocessing
        self._lung_files = lung_files
        self.prepared_by = preprocessing
        if preprocessing.lung_mask != "none":
            self.prepared_by = replace(preprocessing, lung_mask="file", lung_dilation=0)

    def __len__(self) -> int:
        return len(self.paths)

    def _item(self, index: int) -> Slice:
        item = self._read(index)
        return replace(item, lung=lung_of(item, self._preprocessing))

    def check(self) -> None:
        """Read every file once, to find those that cannot be used.

        Raises:
            ValueError: a file cannot be used; the message names it.
            OSError: a file cannot be opened.
        """
        for index, path in enumerate(self.paths):
            item = self._read(index)
            try:
                used = self._preprocessing
                normalize(item.image, used.intensity, used.grey_values)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error

    def _read(self, index: int) -> Slice:
        """Read a picture and its lung mask, if it has one."""
        path = self.paths[index]
        image = read_image(path)
        lung = None
        if self._lung_files is not None:
            mask_path = self._lung_files[index]
            if not mask_path.exists():
                raise FileNotFoundError(f"{mask_path}: not found, expected a lung mask for {path}")
            lung = read_mask(mask_path, labels=(0, 1))
            if lung.shape != image.shape:
                raise ValueError(
                    f"{mask_path}: has {_by(lung)} pixels, expected the {_by(image)} of {path}; "
                    "make the lung mask again"
                )
        return Slice(image, None, lung, id=str(path), patient=str(path), spacing=None)


def _reach(lung: np.ndarray, axis: int) -> slice:
    """Return the range of an axis from the first to the last index with lung, with a margin."""
    others = tuple(k for k in range(3) if k != axis)
    found = np.flatnonzero(lung.any(axis=others))
    return slice(
        max(0, int(found[0]) - CROP_MARGIN),
        min(lung.shape[axis], int(found[-1]) + 1 + CROP_MARGIN),
    )


def _by(array: np.ndarray) -> str:
    """Return the shape of an array as text, such as '20 x 30'."""
    return " x ".join(map(str, array.shape))
