"""TFDS builder for COVID-19-CT-Seg (Jun et al., Zenodo 3757476), the paper's Dataset_1.

The user's folder holds the published folders `COVID-19-CT-Seg_20cases`, `Lung_Mask` and
`Infection_Mask`, each with one NIfTI file of the same name for each volume; nothing is downloaded.
The labels are binary. Ten of the twenty volumes are published as 8-bit grey values of the lung
window, which are mapped back to HU.
"""

from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from input_pipeline.datasets.volume_builder import Volume, VolumeBuilder, nifti_files, partner

IMAGES, LUNGS, MASKS = "COVID-19-CT-Seg_20cases", "Lung_Mask", "Infection_Mask"


class Covid19CtSeg(VolumeBuilder):
    """One split 'train' with every slice of every volume; cross-validation divides it."""

    VERSION = tfds.core.Version("1.0.0")

    LABELS: ClassVar[dict[int, int]] = {0: 0, 1: 1}

    @staticmethod
    def find_volumes(source_dir: Path) -> dict[str, list[Volume]]:
        """List the volumes of each split.

        Args:
            source_dir: the user's folder.

        Raises:
            ValueError: a folder is missing or empty, or a volume has no mask.
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
