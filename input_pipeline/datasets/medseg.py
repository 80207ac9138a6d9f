"""TFDS builder for the MedSeg COVID-19 CT segmentation data set, the paper's Dataset_3.

The user's folder holds the published files; nothing is downloaded. `tr_im`, `tr_mask` and
`tr_lungmasks_updated` are files with about 100 single slices of many patients, the split 'train';
`rp_im`, `rp_msk` and `rp_lung_msk` are folders with nine volumes, the split 'validation'. Labels:
1 ground-glass, 2 consolidation, 3 pleural effusion, which becomes background.
"""

from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from input_pipeline.datasets.volume_builder import Volume, VolumeBuilder, nifti_files, partner

SLICES = ("tr_im", "tr_mask", "tr_lungmasks_updated")
VOLUMES = ("rp_im", "rp_msk", "rp_lung_msk")


class Medseg(VolumeBuilder):
    """Splits 'train' (single slices) and 'validation' (every slice of the volumes)."""

    VERSION = tfds.core.Version("1.0.0")

    LABELS: ClassVar[dict[int, int]] = {0: 0, 1: 1, 2: 2, 3: 0}

    @staticmethod
    def find_volumes(source_dir: Path) -> dict[str, list[Volume]]:
        """List the volumes of each split; the file of single slices counts as one volume.

        Args:
            source_dir: the user's folder.

        Raises:
            ValueError: a file or folder is missing, or a volume has no mask.
        """
        files = nifti_files(source_dir)
        missing = [name for name in SLICES if name not in files]
        if missing:
            raise ValueError(
                f"{source_dir}: no {missing[0]}.nii.gz in it; download the data set again"
            )
        image, mask, lung = (files[name] for name in SLICES)
        images, masks, lungs = (nifti_files(source_dir / part) for part in VOLUMES)
        volumes = [
            Volume(
                id=f"rp_{name}",
                image=path,
                mask=partner(name, path, masks, source_dir / VOLUMES[1]),
                lung=partner(name, path, lungs, source_dir / VOLUMES[2]),
                patient=f"rp_{name}",
            )
            for name, path in images.items()
        ]
        return {"train": [Volume("tr", image, mask, lung, None)], "validation": volumes}
