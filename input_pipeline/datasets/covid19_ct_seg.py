"""TFDS builder for COVID-19-CT-Seg (Jun et al., Zenodo 3757476), the paper's Dataset_1.

The user's folder holds the published folders `COVID-19-CT-Seg_20cases`, `Lung_Mask` and
`Infection_Mask`, each with one NIfTI file of the same name for each volume; nothing is downloaded.
The labels are binary. Ten of the twenty volumes are published as 8-bit grey values of the lung
window, which are mapped back to HU.
"""

from functools import partial
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from input_pipeline.datasets.report import Report
from input_pipeline.datasets.volume_builder import VolumeBuilder
from input_pipeline.datasets.volumes import Volume, partner, volume_files

IMAGES, LUNGS, MASKS = "COVID-19-CT-Seg_20cases", "Lung_Mask", "Infection_Mask"


class Covid19CtSeg(VolumeBuilder):
    """One split 'train' with every slice of every volume; cross-validation divides it."""

    VERSION = tfds.core.Version("1.0.0")

    LABELS: ClassVar[dict[int, int]] = {0: 0, 1: 1}

    @staticmethod
    def list_volumes(source_dir: Path, report: Report) -> dict[str, list[Volume]]:
        """List the volumes of each split.

        Args:
            source_dir: the user's folder.
            report: gets the faults.

        Raises:
            ValueError: a folder is missing or empty.
        """
        images, lungs, masks = (
            volume_files(source_dir / part, report) for part in (IMAGES, LUNGS, MASKS)
        )
        volumes = []
        for name, path in images.items():
            mask = report.attempt(partial(partner, name, path, masks, source_dir / MASKS))
            lung = report.attempt(partial(partner, name, path, lungs, source_dir / LUNGS))
            volumes.append(Volume(name, path, mask, lung, name))
        return {"train": volumes}
