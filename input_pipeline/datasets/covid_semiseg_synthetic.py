"""TFDS builder: unlabelled slices of COVID-SemiSeg with synthetic lesions, and phantoms.

A network that is trained on them first needs no doctor's label and knows real lungs. The slices of
Inf-Net's 1,600 are drawn by a seed; those without lungs are left out.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.datasets.covid_semiseg import CovidSemiseg, find_cases, read_case
from input_pipeline.datasets.ct_phantom_domains import patients
from input_pipeline.datasets.ct_phantom_domains.synthetic import with_synthetic_lesions

SEED = 2020
COUNT = 600  # of each kind, phantoms and slices with synthetic lesions
MIRRORED = "coronacases"  # in the name of slices whose spine is at the first columns


class CovidSemisegSynthetic(CovidSemiseg):
    """The split 'train': labels 0, 1 ground-glass opacity, 2 consolidation, with pixel weights."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = []

    def _info(self) -> tfds.core.DatasetInfo:
        grid = {"shape": (None, None), "dtype": np.uint8, "encoding": "zlib"}
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(**grid),
                    "mask": tfds.features.Tensor(**grid),
                    "weight": tfds.features.Tensor(**grid),
                    "id": tfds.features.Text(),
                    "patient": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager
        if self._source_dir is None:
            raise ValueError(f"{self.name}: no source_dir, expected the folder with TrainingSet")
        return {"train": enumerate(self._slices())}

    def _slices(self) -> Iterator[dict[str, Any]]:
        """Make the slices: phantoms first."""
        for index in range(COUNT):
            for made in patients.make_patient(patients.PRETRAINING, index):
                yield {
                    "image": made.image,
                    "mask": made.mask,
                    "weight": np.full_like(made.mask, 255),
                    "id": made.id,
                    "patient": made.patient,
                }
        assert self._source_dir is not None
        cases = find_cases(self._source_dir, "binary")["unlabelled"]
        order = np.random.default_rng(SEED).permutation(len(cases))
        for index in sorted(order[:COUNT].tolist()):
            case, rng = cases[index], np.random.default_rng([SEED, index])
            image, _ = read_case(case, "binary")
            drawn = with_synthetic_lesions(image, rng, spine_first=MIRRORED in case.id)
            if drawn is not None:
                yield drawn._asdict() | {"id": case.id, "patient": case.patient}
