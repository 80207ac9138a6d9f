"""TFDS builder for COVID-19-CT-Seg (Jun et al., Zenodo 3757476), the paper's Dataset_1.

Reads the published folders `COVID-19-CT-Seg_20cases`, `Lung_Mask` and `Infection_Mask`, which hold
a NIfTI file of one name for each volume; downloads nothing. Binary. Ten of the twenty volumes are
published in 8-bit grey values of the lung window; their HU are restored.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from input_pipeline.volumes import Volume, nifti_files, partner, record_features, records

IMAGES, LUNGS, MASKS = "COVID-19-CT-Seg_20cases", "Lung_Mask", "Infection_Mask"
LABELS = {0: 0, 1: 1}


class Covid19CtSeg(tfds.core.GeneratorBasedBuilder):
    """One split 'train' with every slice of every volume; folds over patients come later."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, source_dir: Path | None = None, **kwargs: Any) -> None:
        """Take the folder that holds the published folders; the rest goes to TFDS."""
        self._source_dir = source_dir
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=record_features(),
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager
        if self._source_dir is None:
            raise ValueError(f"covid19_ct_seg needs source_dir, the folder that holds {IMAGES}")
        return {
            split: self._generate_examples(volumes)
            for split, volumes in find_volumes(self._source_dir).items()
        }

    def _generate_examples(self, volumes: list[Volume]) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from records(volumes, LABELS)


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
