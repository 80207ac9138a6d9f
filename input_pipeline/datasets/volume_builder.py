"""Write volumes as records of slices: the base of the builders of NIfTI data sets.

A record holds a slice in HU, at most 512 pixels high and wide, its mask and its lung mask. One
volume is in memory at a time, or two for each process that reads them side by side.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.datasets import parts
from input_pipeline.datasets.report import Report, silent
from input_pipeline.datasets.volumes import (
    UNKNOWN_LABEL,
    Options,
    Volume,
    VolumeData,
    read_volume,
)
from input_pipeline.files import encodable
from input_pipeline.in_order import in_order
from input_pipeline.io.scan import Scan
from input_pipeline.lungs.origin import FILES, THRESHOLD, LungOrigin, origin_of_files
from input_pipeline.lungs.threshold import volume_lung_mask
from input_pipeline.preprocess import unwindowed

MOST_PIXELS = 512  # of a side; larger slices are cropped around the lungs (section 4.1)


class VolumeBuilder(  # type: ignore[call-arg]  # TFDS takes the keyword and has no types
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """Base of the builders; a subclass lists the volumes of each split and defines their labels.

    Attributes:
        LABELS: the class index (0, 1 or 2) of each label that a mask may hold.
        lungs: where the lung masks come from; None before `examples`.
    """

    LABELS: ClassVar[dict[int, int]]
    REMEDY: ClassVar[str] = UNKNOWN_LABEL  # for a mask with other labels

    def __init__(
        self,
        *,
        source_dir: Path | None = None,
        options: Options | None = None,
        report: Report | None = None,
        jobs: int = 1,
        part: parts.Part | None = None,
        made_of: Sequence[Path] = (),
        **kwargs: Any,
    ) -> None:
        """Store the user's folder.

        Args:
            source_dir: folder with the user's files; needed to build.
            options: what the user states about them.
            report: gets what is noticed while they are read.
            jobs: processes that read volumes side by side; the records are the same.
            part: which part of the volumes to build; None for all.
            made_of: folders of all parts, whose records are put together instead.
            **kwargs: arguments of TFDS's builder.
        """
        self._source_dir = source_dir
        self._options = options or Options()
        self.report = report or Report()
        self._jobs, self._part, self._made_of = jobs, part, made_of
        self.lungs: LungOrigin | None = None
        super().__init__(**kwargs)

    @classmethod
    def find_volumes(cls, source_dir: Path) -> dict[str, list[Volume]]:
        """List the volumes of each split.

        Args:
            source_dir: folder with the user's files.

        Raises:
            ValueError: a folder or file is missing or without its partners.
        """
        report = Report()
        splits = cls.list_volumes(source_dir, report)
        report.raise_faults(source_dir)
        return splits

    @staticmethod
    @abstractmethod
    def list_volumes(source_dir: Path, report: Report) -> dict[str, list[Volume]]:
        """List the volumes of each split; files without partners become faults and are left out.

        Args:
            source_dir: folder with the user's files.
            report: gets the faults.

        Raises:
            ValueError: what the data set is made of is missing, so that there is nothing to list.
        """

    @classmethod
    def labels_of(cls, source_dir: Path, options: Options) -> Mapping[int, int]:
        """Return the class index of each label that a mask may hold.

        Args:
            source_dir: folder with the user's files.
            options: what the user states about them.
        """
        del source_dir
        return cls.LABELS if options.labels is None else options.labels

    @staticmethod
    def lung_origin(splits: Mapping[str, Sequence[Volume]]) -> LungOrigin:
        """Return where the lung masks of the volumes come from.

        Args:
            splits: the volumes of each split.

        Raises:
            ValueError: the record of a folder of lung masks is damaged.
        """
        files = [volume.lung for volumes in splits.values() for volume in volumes]
        given = [path for path in files if path is not None]
        if not given:
            return LungOrigin(THRESHOLD)
        return origin_of_files(given) if len(given) == len(files) else LungOrigin(FILES)

    @classmethod
    def check(cls, source_dir: Path, options: Options, report: Report, jobs: int = 1) -> int:
        """Read every file without building anything.

        Args:
            source_dir: folder with the user's files.
            options: what the user states about them.
            report: gets the notes and the faults.
            jobs: processes that read volumes side by side.

        Returns:
            The number of volumes read.

        Raises:
            ValueError: as `list_volumes`.
        """
        splits = cls.list_volumes(source_dir, report)
        labels = cls.labels_of(source_dir, options)
        report.attempt(partial(cls.lung_origin, splits))
        volumes = [volume for split in splits.values() for volume in split]
        read = partial(_read, labels=labels, axes=options.axes, remedy=cls.REMEDY, build=False)
        for made in in_order(read, volumes, jobs):
            report.take_over(made.report)
        return len(volumes)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=record_features(),
            disable_shuffling=True,
        )

    def examples(self) -> dict[str, Iterator[dict[str, Any]]]:
        """Return iterators over the records of each split, in order.

        Files that cannot be used become faults of `report`; from the first one on, the others are
        only checked, as nothing will be built.

        Raises:
            ValueError: there is no source folder, it is not such a data set, or there are more
                parts than volumes.
        """
        if self._source_dir is None:
            raise ValueError(f"{self.name}: no source_dir, expected the folder of its files")
        splits = self.list_volumes(self._source_dir, self.report)
        self.lungs = self.report.attempt(partial(self.lung_origin, splits))
        if self._made_of:
            mend = f"remove {self._made_of[0].parent} and build its parts again"
            return {split: parts.records_of(self._made_of, split, mend) for split in splits}
        if self._part is not None:
            splits = parts.share(splits, self._part)
        return {split: self._generate_examples(volumes) for split, volumes in splits.items()}

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager
        return {split: enumerate(examples) for split, examples in self.examples().items()}

    def _generate_examples(self, volumes: list[Volume]) -> Iterator[dict[str, Any]]:
        assert self._source_dir is not None
        labels = self.labels_of(self._source_dir, self._options)
        build = not self.report.faults
        read = partial(
            _read, labels=labels, axes=self._options.axes, remedy=self.REMEDY, build=build
        )
        for made in in_order(read, volumes, self._jobs):
            self.report.take_over(made.report)
            if not self.report.faults:
                yield from made.records


class Made(NamedTuple):
    """What is made of a volume.

    Attributes:
        records: see `records`; empty if its files cannot be used.
        report: what was noticed while they were read.
    """

    records: list[dict[str, Any]]
    report: Report


def _read(
    volume: Volume, labels: Mapping[int, int], axes: str | None, remedy: str, build: bool
) -> Made:
    """Read a volume and, where it is to be built, make its records."""
    report = Report(echo=silent)
    data = read_volume(volume, labels, axes, report, remedy=remedy)
    made = records(volume, data) if build and data is not None and not report.faults else ()
    return Made(list(made), report)


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


def records(volume: Volume, data: VolumeData) -> Iterator[dict[str, Any]]:
    """Yield the records of a volume, slice by slice from the feet to the head.

    Args:
        volume: its files.
        data: what they hold.

    Yields:
        Records with the features of `record_features`.
    """
    scan, classes = data.scan, data.classes
    lung = _lungs(scan, data.grey) if data.lung is None else data.lung
    window = crop_window(lung, classes)
    for place in range(len(scan.voxels)):
        image = scan.voxels[place][window]
        yield {
            "image": unwindowed(image) if data.grey else _to_int16(image),
            "mask": np.ascontiguousarray(classes[place][window]),
            "lung": np.ascontiguousarray(lung[place][window]),
            "id": encodable(f"{volume.id}_{place:04d}"),
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


def _lungs(scan: Scan, grey: bool) -> np.ndarray:
    """Compute the lung mask from intensity and shape."""
    voxels = unwindowed(scan.voxels) if grey else scan.voxels
    return volume_lung_mask(voxels, spacing=scan.spacing, dilation=0)


def _to_int16(image: np.ndarray) -> np.ndarray:
    """Round to int16."""
    return np.ascontiguousarray(np.rint(image).astype(np.int16))


def _origin(volume: Volume, scan: Scan, place: int) -> dict[str, Any]:
    """Return the patient, volume and spacings of a slice's record; a picture is no volume."""
    if volume.patient is None or scan.spacing is None:
        name = volume.patient or f"{volume.id}_{place:04d}"
        return {
            "patient": encodable(name),
            "volume": "",
            "spacing": np.zeros(2, np.float32),
            "slice_spacing": np.float32(0),
        }
    return {
        "patient": encodable(volume.patient),
        "volume": encodable(volume.id),
        "spacing": np.asarray(scan.spacing[1:], np.float32),
        "slice_spacing": np.float32(scan.spacing[0]),
    }
