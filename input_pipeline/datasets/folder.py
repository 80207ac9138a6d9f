"""TFDS builder for a user's own volumes.

The folder is in one of the layouts of `layouts`: ours holds `images/NAME.nii.gz`,
`labels/NAME.nii.gz` (0 background, 1 ground-glass or lesion, 2 consolidation), optionally
`lungs/NAME.nii.gz` (without that folder, lungs are computed), and `dataset.json`: {"intensity":
"hu"}, or {"intensity": "windowed"} for grey values 0 to 255 of the window -1250 to 250 HU. Images
without labels are the split 'unlabelled'. If a patient has several volumes, `patients.csv` names
the patients (columns file, patient); otherwise each volume counts as a patient. Its column `split`
says which volumes train, validate and test.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from input_pipeline.datasets.layouts import find_cases, stated_intensity, stated_labels
from input_pipeline.datasets.patients_table import SPLITS, patients_and_splits
from input_pipeline.datasets.report import Report
from input_pipeline.datasets.volume_builder import VolumeBuilder
from input_pipeline.datasets.volumes import Options, Volume

CLASSES = (0, 1, 2)


class Folder(VolumeBuilder):
    """Splits 'train' (labelled), 'unlabelled', and those that the user states."""

    VERSION = tfds.core.Version("1.0.0")
    LABELS: ClassVar[dict[int, int]] = {0: 0, 1: 1, 2: 2}
    REMEDY: ClassVar[str] = (
        'say the class of each label by --labels FILE, which holds {"labels": {"3": 2}} for '
        "instance, or name another file"
    )

    @staticmethod
    def list_volumes(source_dir: Path, report: Report) -> dict[str, list[Volume]]:
        """List the volumes of each split.

        Args:
            source_dir: the user's folder.
            report: gets a fault for labels or a lung mask without an image, a volume without its
                lung mask where there is a folder of them, and what `patients.csv` gets wrong.

        Raises:
            ValueError: a folder or `dataset.json` is missing or wrong.
        """
        windowed = stated_intensity(source_dir) == "windowed"
        cases = find_cases(source_dir, report)
        rows = patients_and_splits(source_dir, cases, report)
        splits: dict[str, list[Volume]] = {split: [] for split in SPLITS}
        for case in cases:
            patient, split = rows[case.name]
            label = None if split == "unlabelled" else case.label
            volume = Volume(case.name, case.image, label, case.lung, patient, windowed)
            splits.setdefault(split, []).append(volume)
        return {split: volumes for split, volumes in splits.items() if volumes}

    @classmethod
    def labels_of(cls, source_dir: Path, options: Options) -> Mapping[int, int]:
        """Return the user's labels, else those that `dataset.json` names, else 0, 1 and 2.

        Args:
            source_dir: the user's folder.
            options: what the user states about it.

        Raises:
            ValueError: `dataset.json` names a label that is none of our classes.
        """
        if options.labels is not None:
            return options.labels
        return stated_labels(source_dir) or cls.LABELS


def read_label_map(path: Path) -> dict[int, int]:
    """Read the class index of each label, and 0 for 0, from JSON such as {"labels": {"3": 2}}.

    Args:
        path: the file; the outer mapping may be left out.

    Raises:
        ValueError: it is no such file.
        OSError: it cannot be read.
    """
    wanted = 'expected for instance {"labels": {"3": 2}}, with labels 0 to 255 and classes 0, 1, 2'
    try:
        stated = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error}), {wanted}") from None
    labels = stated.get("labels", stated) if isinstance(stated, dict) else None
    if not isinstance(labels, dict) or not labels:
        raise ValueError(f"{path}: holds {stated!r:.200}, {wanted}")
    for label, index in labels.items():
        known = label.isdecimal() and int(label) <= 255
        if not known or isinstance(index, bool) or index not in CLASSES:
            raise ValueError(f"{path}: label {label!r} becomes {index!r}, {wanted}")
    return {0: 0} | {int(label): int(index) for label, index in labels.items()}
