"""Read the files of one volume of a data set: image, label map and lung mask on one grid."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline.datasets.report import Report
from input_pipeline.io.doubts import value_doubts
from input_pipeline.io.nifti import SUFFIXES, read_labels, read_nifti, same_grid
from input_pipeline.io.read import SUFFIXES as PICTURES
from input_pipeline.io.read import read_mask, read_scan
from input_pipeline.io.scan import Scan, name_of, upright
from input_pipeline.io.stack import Stack

UNKNOWN_LABEL = "change the labels or name another file"


@dataclass(frozen=True)
class Volume:
    """Files of one volume.

    Attributes:
        id: name of the volume.
        image: NIfTI file in HU, or in 8-bit grey values of the window -1250 to 250 HU; or a picture
            (PNG, JPEG) of one slice in such grey values.
        mask: label map on the same grid; None if the volume is unlabelled.
        lung: lung labels or lung mask on the same grid (0, 1, 2); None to compute the lung mask
            from intensity and shape.
        patient: name of the patient; None if each slice is of another patient.
        windowed: whether the image has such grey values; None to decide by whether all values are
            in 0..255 (as in half of COVID-19-CT-Seg).
    """

    id: str
    image: Path
    mask: Path | None
    lung: Path | None
    patient: str | None
    windowed: bool | None = None

    @property
    def is_picture(self) -> bool:
        """Whether the image is a picture of one slice."""
        return is_picture(self.image)


class Options(NamedTuple):
    """What the user states about the files of a data set.

    Attributes:
        axes: directions of the axes of NIfTI files that state none, or a program's default.
        labels: class index (0, 1 or 2) of each label of a mask; None for those of the data set.
    """

    axes: str | None = None
    labels: Mapping[int, int] | None = None


class VolumeData(NamedTuple):
    """A volume that was read.

    Attributes:
        scan: its image.
        grey: whether the voxels are grey values of the window, to be mapped back to HU.
        classes: `[slices, rows, columns]` uint8 class index.
        lung: `[slices, rows, columns]` uint8 lung mask; None if the volume has no file of it.
    """

    scan: Scan
    grey: bool
    classes: np.ndarray
    lung: np.ndarray | None


def is_picture(path: Path) -> bool:
    """Say whether a file is a picture by its name.

    Args:
        path: the file.
    """
    return path.name.lower().endswith(PICTURES)


def read_volume(
    volume: Volume,
    labels: Mapping[int, int],
    axes: str | None,
    report: Report,
    *,
    remedy: str = UNKNOWN_LABEL,
) -> VolumeData | None:
    """Read all files of a volume; what is wrong with each goes into the report.

    Args:
        volume: its files.
        labels: class index of each label that the mask may hold.
        axes: see `Options`.
        report: gets the notes and the faults.
        remedy: what to do about other labels.

    Returns:
        The volume, or None if a file of it cannot be used.
    """
    image = report.attempt(lambda: _read_image(volume, axes))
    scan = None if image is None else image[0]
    report.note(volume.image, () if scan is None else scan.notes)
    wanted = ((volume.mask, tuple(labels), remedy), (volume.lung, (0, 1, 2), UNKNOWN_LABEL))
    maps = [
        None if path is None else report.attempt(partial(_read_map, path, allowed, axes, why))
        for path, allowed, why in wanted
    ]
    sound = image is not None
    for (path, _, _), read in zip(wanted, maps, strict=True):
        if path is None:
            continue
        sound = sound and read is not None
        if scan is None or read is None:
            continue
        report.note(path, (note for note in read.notes if note not in scan.notes))
        if reason := same_grid(scan, read):
            sound = False
            report.fault(
                f"{path}: not on the grid of {volume.image}: {reason}; unpack or resample it"
            )
    if not sound or image is None:
        return None
    mask, lung = maps
    return VolumeData(
        *image,
        _classes(mask, labels, image[0].voxels.shape),
        None if lung is None else (lung.voxels > 0).astype(np.uint8),
    )


def volume_files(folder: Path, report: Report) -> dict[str, Path]:
    """List the NIfTI files and pictures of a folder by name without suffix, sorted.

    Args:
        folder: the folder.
        report: gets a fault for each second file of a name.

    Raises:
        ValueError: there is no such folder, or it holds no such file.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, expected it in the data set; unpack it again")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        if name.startswith(".") or not name.endswith((*SUFFIXES, *PICTURES)):
            continue
        first = found.setdefault(name_of(path), path)
        if first != path:
            report.fault(f"{path}: {first.name} has the same name; keep one of them")
    if not found:
        raise ValueError(f"{folder}: holds no NIfTI file or picture; unpack the data set again")
    return found


def partner(name: str, images: Path, files: Mapping[str, Path], folder: Path) -> Path:
    """Return the file of a volume in another folder.

    Args:
        name: name of the volume.
        images: its image, for the message.
        files: files of the other folder by name.
        folder: the other folder, for the message.

    Raises:
        ValueError: there is none.
    """
    if name not in files:
        raise ValueError(f"{images}: {folder} has no file of that name; add it or remove this one")
    return files[name]


def _read_image(volume: Volume, axes: str | None) -> tuple[Scan, bool]:
    """Read the image of a volume, and decide whether it holds grey values of the window."""
    if volume.is_picture:
        if volume.windowed is False:
            raise ValueError(
                f"{volume.image}: is an 8-bit picture, which cannot hold Hounsfield units, "
                'expected NIfTI; state {"intensity": "windowed"} in dataset.json for pictures'
            )
        return read_scan(volume.image), True
    if volume.windowed is not None:
        intensity = "uint8" if volume.windowed else "hu"
        return read_nifti(volume.image, intensity=intensity, axes=axes), volume.windowed
    scan = read_nifti(volume.image, intensity="hu", axes=axes, check=False)
    grey = float(scan.voxels.min()) >= 0 and float(scan.voxels.max()) <= 255
    doubts = value_doubts(scan.voxels, "uint8" if grey else "hu")
    return replace(scan, notes=(*scan.notes, *doubts)), grey


def _read_map(path: Path, labels: Sequence[int], axes: str | None, remedy: str) -> Scan:
    """Read a label map; a picture of black and white is one of 0 and 1."""
    if not is_picture(path):
        return read_labels(path, labels, axes=axes, remedy=remedy)
    if {0, 1} <= set(labels) and 255 not in labels:
        with suppress(ValueError):
            return _scan_of(read_mask(path, (0, 1)), path)
    return _scan_of(read_mask(path, labels, remedy=remedy), path)


def _scan_of(mask: np.ndarray, path: Path) -> Scan:
    """Return a mask `[rows, columns]` as the scan of one slice."""
    stack = Stack((1, mask.shape[0], mask.shape[1]), "uint8")
    stack.put(0, mask, path)
    return replace(upright(stack, path, spacing=None, file_shape=mask.shape), notes=())


def _classes(mask: Scan | None, labels: Mapping[int, int], shape: tuple[int, ...]) -> np.ndarray:
    """Return the class index of each voxel; 0 without a label map."""
    if mask is None:
        return np.zeros(shape, np.uint8)
    table = np.zeros(256, np.uint8)
    for label, index in labels.items():
        table[label] = index
    return table[mask.voxels]
