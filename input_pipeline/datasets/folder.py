"""TFDS builder for a user's own volumes.

The folder holds `images/NAME.nii.gz`, `labels/NAME.nii.gz` (0 background, 1 ground-glass or lesion,
2 consolidation), optionally `lungs/NAME.nii.gz` (without that folder, lungs are computed), and
`dataset.json`: {"intensity": "hu"}, or {"intensity": "windowed"} for grey values 0 to 255 of the
window -1250 to 250 HU. Images without labels are the split 'unlabelled'. If a patient has several
volumes, `patients.csv` names the patients (columns file, patient); otherwise each volume counts as
a patient.
"""

import csv
import io
import json
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from input_pipeline.datasets.volume_builder import Volume, VolumeBuilder, nifti_files, partner

SETTINGS = "dataset.json"
PATIENTS = "patients.csv"
STATED = ("hu", "windowed")


class Folder(VolumeBuilder):
    """Splits 'train' (labelled) and, if there are unlabelled images, 'unlabelled'."""

    VERSION = tfds.core.Version("1.0.0")
    LABELS: ClassVar[dict[int, int]] = {0: 0, 1: 1, 2: 2}

    @staticmethod
    def find_volumes(source_dir: Path) -> dict[str, list[Volume]]:
        """List the volumes of each split.

        Args:
            source_dir: the user's folder.

        Raises:
            ValueError: a folder or `dataset.json` is missing or wrong, labels or a lung mask have
                no image, or there is a folder of lung masks and a volume has none.
        """
        windowed = _intensity(source_dir / SETTINGS) == "windowed"
        images, labels = (nifti_files(source_dir / part) for part in ("images", "labels"))
        lungs = nifti_files(source_dir / "lungs") if (source_dir / "lungs").exists() else None
        for files in (labels, lungs or {}):
            for name, path in files.items():
                partner(name, path, images, source_dir / "images")
        patients = _patients(source_dir / PATIENTS, images)
        splits: dict[str, list[Volume]] = {"train": [], "unlabelled": []}
        for name, path in images.items():
            lung = None if lungs is None else partner(name, path, lungs, source_dir / "lungs")
            volume = Volume(name, path, labels.get(name), lung, patients[name], windowed)
            splits["train" if name in labels else "unlabelled"].append(volume)
        return {split: volumes for split, volumes in splits.items() if volumes}


def _intensity(path: Path) -> str:
    """Read the intensity that the user states for the images."""
    wanted = 'expected {"intensity": "hu"} or {"intensity": "windowed"}'
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: not found, {wanted}; write this file") from None
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error}), {wanted}") from None
    if not isinstance(stated, dict) or stated.get("intensity") not in STATED:
        raise ValueError(f"{path}: holds {stated!r}, {wanted}")
    return stated["intensity"]


def _read_table(path: Path) -> list[dict[str, str]]:
    """Read a table as spreadsheets write it: with or without a byte-order mark, `,` `;` or tabs."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: byte {error.start} is not UTF-8, expected UTF-8; save it as 'CSV UTF-8'"
        ) from None
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [
        {(name or "").strip().lower(): (value or "").strip() for name, value in row.items()}
        for row in reader
    ]


def _patients(path: Path, images: dict[str, Path]) -> dict[str, str]:
    """Return the patient of each volume."""
    if not path.exists():
        return {name: name for name in images}
    rows = {row.get("file", ""): row.get("patient", "") for row in _read_table(path)}
    missing = [image.name for image in images.values() if not rows.get(image.name)]
    if missing:
        raise ValueError(
            f"{path}: names no patient for {missing[0]} ({len(missing)} in all), expected a row "
            "for each file of images/ under the columns file, patient; add the rows"
        )
    return {name: rows[image.name] for name, image in images.items()}
