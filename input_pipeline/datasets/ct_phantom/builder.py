"""TFDS builder for the chest CT phantoms."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.datasets.ct_phantom import patients


class CtPhantom(tfds.core.GeneratorBasedBuilder):
    """Slices of chest CT phantoms with a lung mask, ground-glass opacity and consolidation."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def _info(self) -> tfds.core.DatasetInfo:
        grid = (None, None)
        return self.dataset_info_from_configs(
            description=patients.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=grid, dtype=np.int16, encoding="zlib"),
                    "mask": tfds.features.Tensor(shape=grid, dtype=np.uint8, encoding="zlib"),
                    "lung": tfds.features.Tensor(shape=grid, dtype=np.uint8, encoding="zlib"),
                    "id": tfds.features.Text(),
                    "patient": tfds.features.Text(),
                    "spacing": tfds.features.Tensor(shape=(2,), dtype=np.float32),
                }
            ),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, object]]]]:
        del dl_manager
        return {
            split: self._generate_examples(patients.patients_of(split)) for split in patients.SPLITS
        }

    def _generate_examples(self, numbers: range) -> Iterator[tuple[str, dict[str, object]]]:
        for number in numbers:
            for item in patients.make_patient(number):
                yield (
                    item.id,
                    {
                        "image": item.image,
                        "mask": item.mask,
                        "lung": item.lung,
                        "id": item.id,
                        "patient": item.patient,
                        "spacing": np.asarray(item.spacing, np.float32),
                    },
                )
