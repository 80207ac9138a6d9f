"""TFDS builder for the chest CT phantoms of two domains."""

from collections.abc import Iterator
from typing import ClassVar

import tensorflow_datasets as tfds

from input_pipeline.datasets.ct_phantom_domains import patients
from input_pipeline.datasets.record_slices import picture_features


class CtPhantomDomains(tfds.core.GeneratorBasedBuilder):
    """8-bit slices of chest CT phantoms: a labelled and an unlabelled domain, with lung masks."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=patients.__doc__,
            features=picture_features("image", "mask", "lung"),
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, object]]]]:
        del dl_manager
        return {split: self._generate_examples(split) for split in patients.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, object]]]:
        number = 0
        for index in range(len(patients.every_split()[split])):
            for item in patients.make_patient(split, index):
                names = ("image", "mask", "lung", "id", "patient")
                yield number, {name: getattr(item, name) for name in names}
                number += 1


class CtPhantomPretraining(CtPhantomDomains):
    """Labelled slices of many patients of the labelled domain, to pretrain a network on."""

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, object]]]]:
        del dl_manager
        return {"train": self._generate_examples(patients.PRETRAINING)}
