"""The segmentation of a scan or picture: labels and probabilities on its own grid, and volumes.

Slices below and above the lungs are not predicted. A predicted lesion that touches no lung (gas in
the stomach, for instance) is set to background; its volume is `removed_ml`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from PIL import Image
from scipy import ndimage

from input_pipeline.files import atomic_file
from input_pipeline.inference_slices import (
    in_hu,
    read_hu,
    stored_intensity,
)
from input_pipeline.io.nifti import read_nibabel, write_nifti_mask
from input_pipeline.io.read import read_array
from input_pipeline.io.scan import Scan, to_file_grid
from input_pipeline.preprocess import Preprocessing
from ssa_jax.experiment.lesion_volumes import lesion_volumes, missing_lung, volume_ml
from ssa_jax.figures.overlays import SlicePicture


class Reading(NamedTuple):
    """What the user states about an input, see `Network.segment`.

    Attributes:
        intensity: 'hu' or 'windowed'; None where it is not stated.
        series: of a DICOM folder that holds several.
        axes: directions of the axes, 'LPS' for instance.
        spacing: mm along the axes of an array.
    """

    intensity: str | None = None
    series: str | None = None
    axes: str | None = None
    spacing: Sequence[float] | None = None

    def __str__(self) -> str:
        """Name what is stated, for a folder's journal; '' if nothing is."""
        stated = {name: value for name, value in self._asdict().items() if value is not None}
        return ", ".join(f"{name} {value}" for name, value in stated.items())

    def read_hu(self, path: Path) -> Scan:
        """Read a scan in HU, see `inference_slices.read_hu`.

        Args:
            path: NIfTI file, DICOM file or folder.

        Raises:
            ValueError: the file cannot be used; the message names it.
            OSError: it cannot be opened.
        """
        return read_hu(path, intensity=self.intensity, series=self.series, axes=self.axes)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The lesions of one scan or picture.

    Attributes:
        class_names: of the classes 1, 2, ...
        scan: the scan in HU, with the transform to its own grid; None for a picture.
        lung: lung labels in the orientation of `Scan.voxels`; for a picture 0 and 1, or None.
        removed: number of voxels in each slice of predicted lesion that touches no lung, set to
            background; empty for a picture.
        pictures: rows of a montage, as many as were requested.
        notes: sentences of doubt about the source, for the user.
        made_by: what the network was trained on, written into the mask's header.
    """

    class_names: tuple[str, ...]
    scan: Scan | None
    lung: np.ndarray | None
    removed: np.ndarray
    pictures: Sequence[SlicePicture] = field(repr=False)
    notes: tuple[str, ...]
    made_by: str
    _labels: np.ndarray = field(repr=False)
    _prob: tuple[tuple[Any, np.ndarray], ...] | None = field(repr=False)

    @property
    def labels(self) -> np.ndarray:
        """Class index of every voxel (0 background), uint8, on the source's own grid.

        Its shape is that of the NIfTI file, image or array; `[H, W]` for a picture. For a DICOM
        series it is `[columns, rows, planes]`: the planes are the slices, or, where slices are
        uneven or missing, those of a regular grid (`Scan.planes`), empty at a missing slice.
        """
        return self._labels if self.scan is None else to_file_grid(self._labels, self.scan)

    @property
    def prob(self) -> np.ndarray:
        """Probability of every class, float32 `[..., K]` in [0, 1], on the source's own grid.

        The background is first; in slices that were not predicted it has 1. Lesion that touches no
        lung is not removed. The array is computed at each access.

        Raises:
            ValueError: probabilities were not kept.
        """
        if self._prob is None:
            raise ValueError("probabilities were not kept; segment with keep_prob=True")
        classes = len(self.class_names) + 1
        whole = np.zeros((classes, *self._labels.shape), np.float32)
        whole[0] = 1
        for place, prob in self._prob:
            whole[(slice(None), *place)] = np.moveaxis(prob, -1, 0)
        if self.scan is not None:
            grids = [
                to_file_grid(volume, self.scan, empty=float(index == 0))
                for index, volume in enumerate(whole)
            ]
            return np.stack(grids, axis=-1)
        return np.moveaxis(whole, 0, -1)

    @property
    def removed_ml(self) -> float:
        """Volume of predicted lesion that touches no lung, in mL; 0 for a picture."""
        return volume_ml(self.removed, self.scan) if self.scan else 0.0

    @property
    def missing_ml(self) -> float:
        """Estimated volume of the lungs where slices are missing, in mL, which is in no volume."""
        if self.scan is None or self.lung is None:
            return 0.0
        return missing_lung(self.lung, self.scan)[1]

    @property
    def volumes(self) -> dict[str, Any]:
        """Volumes in mL and shares of the lungs, see `lesion_volumes`; empty for a picture."""
        if self.scan is None or self.lung is None:
            return {}
        scan = self.scan
        row = lesion_volumes(self._labels, self.lung, scan.spacing, self.class_names, scan.slice_mm)
        return row | {"dropped_ml": self.removed_ml}

    @property
    def lesion_ml(self) -> dict[str, float] | None:
        """Volume of each class in mL; None for a picture, whose pixels have no size."""
        row = self.volumes
        return {name: row[f"{name}_ml"] for name in self.class_names} if row else None

    def save(self, path: str | Path) -> None:
        """Write the labels on the source's own grid, whole or not at all.

        Args:
            path: .nii.gz or .nii for a scan, .png for a picture.

        Raises:
            ValueError: another suffix.
            OSError: the file cannot be written.
        """
        path = Path(path)
        if self.scan is not None:
            write_nifti_mask(path, self._labels, self.scan, description=self.made_by)
            return
        if path.suffix.lower() != ".png":
            raise ValueError(f"{path}: the labels of a picture are a PNG; name it .png")
        with atomic_file(path) as temporary:
            Image.fromarray(np.ascontiguousarray(self._labels)).save(temporary)


def remove_outside_lungs(labels: np.ndarray, lung: np.ndarray) -> np.ndarray:
    """Remove connected components that touch no lung, mostly gas in the bowel.

    A consolidated lobe that the lung mask misses is kept if it touches the mask.

    Args:
        labels: `[slices, rows, columns]` class index; removed voxels are set to 0 in place.
        lung: lung labels of the same shape, above 0 inside the lungs.

    Returns:
        `[slices]` number of voxels removed.
    """
    parts, count = ndimage.label(labels > 0, structure=np.ones((3, 3, 3)))
    touching = np.zeros(count + 1, bool)
    for part, side in zip(parts, lung, strict=True):
        touching[part[side > 0]] = True
    touching[0] = True  # the background
    removed = np.zeros(len(labels), np.int64)
    for index, (part, chosen) in enumerate(zip(parts, labels, strict=True)):
        outside = ~touching[part]
        removed[index] = outside.sum()
        chosen[outside] = 0
    return removed


def check_pictures(preprocessing: Preprocessing, lungs_given: bool, name: str) -> Preprocessing:
    """Check that the network was trained on slices like pictures.

    Args:
        preprocessing: of the network.
        lungs_given: whether there is a lung mask for each picture.
        name: of the network, for the message.

    Returns:
        The preprocessing of pictures: a network that was trained with lung masks from files finds
        them by intensity and shape where none are given.

    Raises:
        ValueError: it was trained on Hounsfield units, or takes no lung masks from files.
    """
    if preprocessing.intensity == "hu":
        raise ValueError(
            f"{name}: this network reads Hounsfield units, which 8-bit pictures do not have; use "
            "a network that was trained on 8-bit slices, or predict the scan itself"
        )
    if preprocessing.lung_mask != "file" and lungs_given:
        raise ValueError(
            f"{name}: this network takes no lung masks from files (data.lung_mask="
            f"{preprocessing.lung_mask!r}); leave --lungs out"
        )
    if preprocessing.lung_mask == "file" and not lungs_given:
        return replace(preprocessing, lung_mask="threshold")
    return preprocessing


def read_source(source: Any, reading: Reading) -> Scan:
    """Read a scan in HU.

    Args:
        source: path of a NIfTI file, a DICOM file or folder; a nibabel image; an array `[i, j, k]`.
        reading: what the user states about it.

    Raises:
        ValueError: the source cannot be used, or a statement about it is missing.
        OSError: a file cannot be opened.
    """
    if isinstance(source, str | Path):
        return reading.read_hu(Path(source))
    stored = stored_intensity(reading.intensity)
    if stored is None:
        raise ValueError("intensity is not stated; expected 'hu', or 'windowed' for grey values")
    if isinstance(source, nib.spatialimages.SpatialImage):
        return in_hu(read_nibabel(source, intensity=stored, axes=reading.axes), reading.intensity)
    scan = read_array(
        np.asarray(source), intensity=stored, spacing=reading.spacing, axes=reading.axes
    )
    return in_hu(scan, reading.intensity)
