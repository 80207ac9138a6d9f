"""TFDS builder for COVID-SemiSeg (Inf-Net, IEEE TMI 2020), the paper's Dataset_2.

The user's folder holds the published tree, with or without `TestingSet`; nothing is downloaded.
Slices are 8-bit grey values of the lung window, cropped to the lungs, each of its own size; they
have no Hounsfield units, no spacing and no lung mask.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.datasets.record_slices import picture_features
from input_pipeline.io.read import SUFFIXES, read_image, read_mask

TASKS = {"binary": (0, 1), "multiclass": (0, 1, 2)}
LABELLED = {
    ("train", "binary"): Path("TrainingSet/LungInfection-Train/Doctor-label"),
    ("train", "multiclass"): Path("TrainingSet/MultiClassInfection-Train"),
    ("test", "binary"): Path("TestingSet/LungInfection-Test"),
    ("test", "multiclass"): Path("TestingSet/MultiClassInfection-Test"),
}
UNLABELLED = Path("TrainingSet/LungInfection-Train/Pseudo-label/Imgs")


@dataclass(frozen=True)
class Case:
    """Files of one slice.

    Attributes:
        id: name of the slice.
        patient: name of its patient.
        image: picture of the slice.
        mask: picture of its mask; None if it is unlabelled.
    """

    id: str
    patient: str
    image: Path
    mask: Path | None


class CovidSemiseg(tfds.core.GeneratorBasedBuilder):
    """Splits 'train' (labelled), 'unlabelled' and, if the source has it, 'test'.

    The configuration is the task: 'binary' (0, 1) or 'multiclass' (0, 1 ground-glass,
    2 consolidation). Unlabelled slices have a mask of zeros. Examples are in the order of the file
    names.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(name=task) for task in TASKS
    ]

    def __init__(self, *, source_dir: Path | None = None, **kwargs: Any) -> None:
        """Store the user's folder.

        Args:
            source_dir: folder that holds `TrainingSet`; needed to build.
            **kwargs: arguments of TFDS's builder.
        """
        self._source_dir = source_dir
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=picture_features("image", "mask"),
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager
        task = self.builder_config.name
        splits = self._find_cases(task)
        return {split: self._generate_examples(cases, task) for split, cases in splits.items()}

    def _find_cases(self, task: str) -> dict[str, list[Case]]:
        """List the slices of the user's folder, see `find_cases`."""
        if self._source_dir is None:
            raise ValueError(f"{self.name}: no source_dir, expected the folder with TrainingSet")
        return find_cases(self._source_dir, task)

    def _generate_examples(
        self, cases: list[Case], task: str
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, case in enumerate(cases):
            image, mask = read_case(case, task)
            yield (
                number,
                {"image": image, "mask": mask, "id": case.id, "patient": case.patient},
            )


def find_cases(source_dir: Path, task: str) -> dict[str, list[Case]]:
    """List the slices of every split, in the order of the numbers in their names.

    Args:
        source_dir: folder that holds `TrainingSet` and optionally `TestingSet`.
        task: 'binary' or 'multiclass'.

    Returns:
        The slices of 'train', 'unlabelled' and, if there is a `TestingSet`, 'test'.

    Raises:
        ValueError: a folder is missing or empty, or holds another file than PNG and JPEG or two
            files of the same name; an image has no mask, or a mask has no image.
    """
    if not (source_dir / "TrainingSet").is_dir():
        raise ValueError(
            f"{source_dir}: no folder TrainingSet in it; set source_dir to the unpacked "
            f"COVID-SemiSeg folder that holds TrainingSet"
        )
    unlabelled = _pictures(source_dir / UNLABELLED)
    splits = {
        "train": _labelled(source_dir / LABELLED["train", task], "train"),
        "unlabelled": [Case(name, patient_of(name), p, None) for name, p in unlabelled.items()],
    }
    if (source_dir / "TestingSet").exists():
        splits["test"] = _labelled(source_dir / LABELLED["test", task], "test")
    return splits


def read_case(case: Case, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the image and the mask of a slice.

    Args:
        case: files of the slice.
        task: 'binary' or 'multiclass'.

    Returns:
        `[H, W]` uint8 image, and `[H, W]` uint8 mask, all 0 if the slice is unlabelled.

    Raises:
        ValueError: a file is damaged, the image is constant, the sizes differ, or the mask holds
            another label than those of the task.
    """
    image = read_image(case.image)
    if np.ptp(image) == 0:
        raise ValueError(
            f"{case.image}: every pixel is {image.flat[0]} (all black or blank); "
            f"download it again or remove it and its mask"
        )
    if case.mask is None:
        return image, np.zeros_like(image)
    mask = read_mask(case.mask, TASKS[task])
    if mask.shape != image.shape:
        raise ValueError(
            f"{case.mask}: has {mask.shape[0]} x {mask.shape[1]} pixels, expected the "
            f"{image.shape[0]} x {image.shape[1]} of its image {case.image.name}; download both "
            f"again"
        )
    return image, mask


def patient_of(name: str) -> str:
    """Return the patient of an unlabelled slice: its name without the slice number at the end.

    Args:
        name: name of the slice.
    """
    return re.sub(r"_\d+$", "", name)


def _labelled(folder: Path, split: str) -> list[Case]:
    """Pair the files of `Imgs` and `GT`; as patients are unknown, each slice counts as its own."""
    images, masks = _pictures(folder / "Imgs"), _pictures(folder / "GT")
    for ours, theirs, word, other in (
        (images, masks, "image without a mask", "GT"),
        (masks, images, "mask without an image", "Imgs"),
    ):
        alone = [name for name in ours if name not in theirs]
        if alone:
            raise ValueError(
                f"{ours[alone[0]]}: {word} ({len(alone)} in all); "
                f"add {alone[0]} to {folder / other} or remove this file"
            )
    return [Case(name, f"{split}-{name}", path, masks[name]) for name, path in images.items()]


def _pictures(folder: Path) -> dict[str, Path]:
    """List PNG and JPEG files by name without suffix, with numbers in names sorted as numbers."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, expected it in the data set; unpack it again")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda p: _natural(p.name)):
        if path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini"):
            continue
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise ValueError(f"{path}: expected only PNG and JPEG files here; remove this one")
        if path.stem in found:
            raise ValueError(f"{path}: {found[path.stem].name} has the same name; keep one of them")
        found[path.stem] = path
    if not found:
        raise ValueError(f"{folder}: holds no PNG or JPEG file; unpack the data set again")
    return found


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key with which 10.jpg follows 9.jpg."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
