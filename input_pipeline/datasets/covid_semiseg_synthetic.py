"""TFDS builder: unlabelled slices of COVID-SemiSeg with synthetic lesions, and phantoms.

A network that is trained on them first needs no doctor's label and knows real lungs. The slices of
Inf-Net's 1,600 are drawn by a seed; those without lungs are left out.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.datasets.covid_semiseg import Case, CovidSemiseg, read_case
from input_pipeline.datasets.ct_phantom_domains import patients
from input_pipeline.datasets.ct_phantom_domains.synthetic import with_synthetic_lesions
from input_pipeline.datasets.record_slices import picture_features

SEED = 2020
COUNT = 600  # of each kind, phantoms and slices with synthetic lesions
MIRRORED = "coronacases"  # in the name of slices whose spine is at the first columns


class CovidSemisegSynthetic(CovidSemiseg):
    """The split 'train': labels 0, 1 ground-glass opacity, 2 consolidation, with pixel weights."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = []

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=picture_features("image", "mask", "weight"),
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager
        return {"train": enumerate(_slices(self._find_cases("binary")["unlabelled"]))}


def _slices(unlabelled: list[Case]) -> Iterator[dict[str, Any]]:
    """Make the slices: phantoms first."""
    for index in range(COUNT):
        for made in patients.make_patient(patients.PRETRAINING, index):
            own = {name: getattr(made, name) for name in ("image", "mask", "id", "patient")}
            yield own | {"weight": np.full_like(made.mask, 255)}
    order = np.random.default_rng(SEED).permutation(len(unlabelled))
    for index in sorted(order[:COUNT].tolist()):
        case, rng = unlabelled[index], np.random.default_rng([SEED, index])
        image, _ = read_case(case, "binary")
        drawn = with_synthetic_lesions(image, rng, spine_first=MIRRORED in case.id)
        if drawn is not None:
            yield drawn._asdict() | {"id": case.id, "patient": case.patient}
