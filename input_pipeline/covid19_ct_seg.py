"""TFDS builder for COVID-19-CT-Seg (Jun et al., Zenodo 3757476), the paper's Dataset_1.

Reads the published folders `COVID-19-CT-Seg_20cases`, `Lung_Mask` and `Infection_Mask`, which hold
a NIfTI file of one name for each volume; downloads nothing. Binary. Ten of the twenty volumes are
published in 8-bit grey values of the lung window; their HU are restored.
"""

from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from input_pipeline.volumes import Volume, VolumeBuilder, nifti_files, partner

IMAGES, LUNGS, MASKS = "COVID-19-CT-Seg_20cases", "Lung_Mask", "Infection_Mask"


class Covid19CtSeg(VolumeBuilder):
    """One split 'train' with every slice of every volume; folds over patients come later."""

    VERSION = tfds.core.Version("1.0.0")

    LABELS: ClassVar[dict[int, int]] = {0: 0, 1: 1}

    @staticmethod
    def find_volumes(source_dir: Path) -> dict[str, list[Volume]]:
        """The volumes of each split.

        Raises:
            ValueError: a folder is missing or empty, or a volume lacks a mask.
        """
        images, lungs, masks = (nifti_files(source_dir / part) for part in (IMAGES, LUNGS, MASKS))
        volumes = [
            Volume(
                id=name,
                image=path,
                mask=partner(name, path, masks, source_dir / MASKS),
                lung=partner(name, path, lungs, source_dir / LUNGS),
                patient=name,
            )
            for name, path in images.items()
        ]
        return {"train": volumes}
