"""TFDS builder for the MedSeg COVID-19 CT segmentation data set, the paper's Dataset_3.

The user's folder holds the published files; nothing is downloaded. `tr_im`, `tr_mask` and
`tr_lungmasks_updated` are files with about 100 single slices of many patients, the split 'train';
`rp_im`, `rp_msk` and `rp_lung_msk` are folders with nine volumes, the split 'validation'. Labels:
1 ground-glass, 2 consolidation, 3 pleural effusion, which becomes background.
"""

from functools import partial
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from input_pipeline.datasets.report import Report
from input_pipeline.datasets.volume_builder import VolumeBuilder
from input_pipeline.datasets.volumes import Volume, partner, volume_files

SLICES = ("tr_im", "tr_mask", "tr_lungmasks_updated")
VOLUMES = ("rp_im", "rp_msk", "rp_lung_msk")


class Medseg(VolumeBuilder):
    """Splits 'train' (single slices) and 'validation' (every slice of the volumes)."""

    VERSION = tfds.core.Version("1.0.0")

    LABELS: ClassVar[dict[int, int]] = {0: 0, 1: 1, 2: 2, 3: 0}

    @staticmethod
    def list_volumes(source_dir: Path, report: Report) -> dict[str, list[Volume]]:
        """List the volumes of each split; the file of single slices counts as one volume.

        Args:
            source_dir: the user's folder.
            report: gets the faults.

        Raises:
            ValueError: a file or folder is missing.
        """
        files = volume_files(source_dir, report)
        missing = [name for name in SLICES if name not in files]
        if missing:
            raise ValueError(
                f"{source_dir}: no {missing[0]}.nii.gz in it; download the data set again"
            )
        image, mask, lung = (files[name] for name in SLICES)
        images, masks, lungs = (volume_files(source_dir / part, report) for part in VOLUMES)
        volumes = []
        for name, path in images.items():
            other = report.attempt(partial(partner, name, path, masks, source_dir / VOLUMES[1]))
            its_lung = report.attempt(partial(partner, name, path, lungs, source_dir / VOLUMES[2]))
            volumes.append(Volume(f"rp_{name}", path, other, its_lung, f"rp_{name}"))
        return {"train": [Volume("tr", image, mask, lung, None)], "validation": volumes}
