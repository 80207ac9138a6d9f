"""Write volumes as records of slices: the base of the builders of NIfTI data sets.

A record holds a slice in HU, at most 512 pixels high and wide, its mask and its lung mask. Only one
volume is in memory at a time.
"""

import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.io.doubts import LOOKS_WINDOWED
from input_pipeline.io.nifti import SUFFIXES, read_labels, read_nifti, same_grid
from input_pipeline.io.scan import Scan, name_of
from input_pipeline.lungs.threshold import volume_lung_mask
from input_pipeline.preprocess import unwindowed

MOST_PIXELS = 512  # of a side; larger slices are cropped around the lungs (section 4.1)


@dataclass(frozen=True)
class Volume:
    """Files of one volume.

    Attributes:
        id: name of the volume.
        image: NIfTI file in HU, or in 8-bit grey values of the window -1250 to 250 HU.
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


class VolumeBuilder(  # type: ignore[call-arg]  # TFDS takes the keyword and has no types
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """Base of the builders; a subclass lists the volumes of each split and defines their labels.

    Attributes:
        LABELS: the class index (0, 1 or 2) of each label that a mask may hold.
    """

    LABELS: ClassVar[dict[int, int]]

    def __init__(self, *, source_dir: Path | None = None, **kwargs: Any) -> None:
        """Store the user's folder.

        Args:
            source_dir: folder with the user's files; needed to build.
            **kwargs: arguments of TFDS's builder.
        """
        self._source_dir = source_dir
        super().__init__(**kwargs)

    @staticmethod
    @abstractmethod
    def find_volumes(source_dir: Path) -> dict[str, list[Volume]]:
        """List the volumes of each split.

        Args:
            source_dir: folder with the user's files.
        """

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=record_features(),
            disable_shuffling=True,
        )

    def examples(self) -> dict[str, Iterator[dict[str, Any]]]:
        """Return iterators over the records of each split, in order.

        Raises:
            ValueError: there is no source folder, or it is incomplete; the iterators raise it if a
                file cannot be used.
        """
        if self._source_dir is None:
            raise ValueError(f"{self.name}: no source_dir, expected the folder of its files")
        splits = self.find_volumes(self._source_dir)
        return {split: self._generate_examples(volumes) for split, volumes in splits.items()}

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager
        return {split: enumerate(examples) for split, examples in self.examples().items()}

    def _generate_examples(self, volumes: list[Volume]) -> Iterator[dict[str, Any]]:
        yield from records(volumes, self.LABELS)


def record_features() -> tfds.features.FeaturesDict:
    """Return the features of a record; an unknown `volume` is empty, an unknown spacing 0."""
    grid = (None, None)
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Tensor(shape=grid, dtype=np.int16, encoding="zlib"),
            "mask": tfds.features.Tensor(shape=grid, dtype=np.uint8, encoding="zlib"),
            "lung": tfds.features.Tensor(shape=grid, dtype=np.uint8, encoding="zlib"),
            "id": tfds.features.Text(),
            "patient": tfds.features.Text(),
            "spacing": tfds.features.Tensor(shape=(2,), dtype=np.float32),
            "volume": tfds.features.Text(),
            "slice_spacing": tfds.features.Tensor(shape=(), dtype=np.float32),
        }
    )


def records(volumes: Sequence[Volume], labels: dict[int, int]) -> Iterator[dict[str, Any]]:
    """Yield the records of all volumes, slice by slice from the feet to the head.

    What a reader notes about a volume is printed on standard error.

    Args:
        volumes: the volumes, in order.
        labels: the class index (0, 1 or 2) of each label that a mask may hold.

    Yields:
        Records with the features of `record_features`.

    Raises:
        ValueError: a file cannot be used, a mask holds another label, or the files of a volume are
            on different grids.
        OSError: a file cannot be opened.
    """
    for volume in volumes:
        scan = read_nifti(volume.image, intensity="hu")
        classes, lung = _masks(volume, scan, labels)
        grey = _is_windowed(scan.voxels, volume)
        for note in scan.notes:
            if not (grey and note.startswith(LOOKS_WINDOWED)):
                print(f"{volume.image}: {note}", file=sys.stderr)
        lung = _lungs(scan, grey) if lung is None else lung
        window = crop_window(lung, classes)
        for place in range(len(scan.voxels)):
            image = scan.voxels[place][window]
            yield {
                "image": unwindowed(image) if grey else _to_int16(image),
                "mask": np.ascontiguousarray(classes[place][window]),
                "lung": np.ascontiguousarray(lung[place][window]),
                "id": f"{volume.id}_{place:04d}",
                **_origin(volume, scan, place),
            }


def crop_window(lung: np.ndarray, classes: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and columns that a volume keeps: at most 512, around the lungs' centroid.

    The window is shifted as little as possible so that it holds every lesion, if 512 pixels can.

    Args:
        lung: `[slices, rows, columns]`, above 0 inside the lungs; without any lung the centre of
            the volume counts.
        classes: `[slices, rows, columns]`, above 0 in lesions.
    """
    found = []
    for axis in (1, 2):
        size = lung.shape[axis]
        others = tuple(k for k in range(3) if k != axis)
        weight = np.count_nonzero(lung, axis=others)
        centre = np.average(np.arange(size), weights=weight) if weight.any() else (size - 1) / 2
        start = round(centre - (MOST_PIXELS - 1) / 2)
        lesion = np.flatnonzero(classes.any(axis=others))
        if len(lesion) and lesion[-1] - lesion[0] < MOST_PIXELS:
            start = min(max(start, int(lesion[-1]) + 1 - MOST_PIXELS), int(lesion[0]))
        start = max(0, min(start, size - MOST_PIXELS))
        found.append(slice(start, min(size, start + MOST_PIXELS)))
    return found[0], found[1]


def nifti_files(folder: Path) -> dict[str, Path]:
    """List the NIfTI files of a folder by name without suffix, sorted.

    Args:
        folder: the folder.

    Raises:
        ValueError: there is no such folder, or it holds no NIfTI file.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, expected it in the data set; unpack it again")
    found = {
        name_of(path): path
        for path in sorted(folder.iterdir())
        if path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")
    }
    if not found:
        raise ValueError(f"{folder}: holds no NIfTI file; unpack the data set again")
    return found


def partner(name: str, images: Path, files: dict[str, Path], folder: Path) -> Path:
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


def _masks(
    volume: Volume, scan: Scan, labels: dict[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the class indices, and the lung mask if the volume has a file of it.

    Args:
        volume: the volume.
        scan: its image.
        labels: the class index (0, 1 or 2) of each label that the mask may hold.

    Returns:
        `[slices, rows, columns]` uint8 class indices, and `[slices, rows, columns]` uint8 lung mask
        or None.
    """
    classes = np.zeros(scan.voxels.shape, np.uint8)
    if volume.mask is not None:
        table = np.zeros(256, np.uint8)
        for label, index in labels.items():
            table[label] = index
        classes = table[_on_grid(volume.mask, tuple(labels), scan, volume.image)]
    if volume.lung is None:
        return classes, None
    lung = _on_grid(volume.lung, (0, 1, 2), scan, volume.image)
    return classes, (lung > 0).astype(np.uint8)


def _on_grid(path: Path, labels: Sequence[int], scan: Scan, image: Path) -> np.ndarray:
    """Read a label map that must be on the grid of a scan."""
    found = read_labels(path, labels)
    reason = same_grid(scan, found)
    if reason:
        raise ValueError(f"{path}: not on the grid of {image}: {reason}; unpack or resample it")
    return found.voxels


def _lungs(scan: Scan, grey: bool) -> np.ndarray:
    """Compute the lung mask from intensity and shape."""
    voxels = unwindowed(scan.voxels) if grey else scan.voxels
    return volume_lung_mask(voxels, spacing=scan.spacing, dilation=0)


def _is_windowed(voxels: np.ndarray, volume: Volume) -> bool:
    """Return whether the image has grey values of the lung window, as stated or by its values."""
    low, high = float(voxels.min()), float(voxels.max())
    within = low >= 0 and high <= 255
    if volume.windowed and not within:
        raise ValueError(
            f"{volume.image}: values from {low:g} to {high:g}, expected 0 to 255 as dataset.json "
            "states 'windowed'; state 'hu' there"
        )
    return within if volume.windowed is None else volume.windowed


def _to_int16(image: np.ndarray) -> np.ndarray:
    """Round to int16."""
    return np.ascontiguousarray(np.rint(image).astype(np.int16))


def _origin(volume: Volume, scan: Scan, place: int) -> dict[str, Any]:
    """Return the patient, volume and spacings of a slice's record."""
    if volume.patient is None:
        name = f"{volume.id}_{place:04d}"
        return {
            "patient": name,
            "volume": "",
            "spacing": np.zeros(2, np.float32),
            "slice_spacing": np.float32(0),
        }
    assert scan.spacing is not None
    return {
        "patient": volume.patient,
        "volume": volume.id,
        "spacing": np.asarray(scan.spacing[1:], np.float32),
        "slice_spacing": np.float32(scan.spacing[0]),
    }
