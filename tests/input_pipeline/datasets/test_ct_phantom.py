"""The phantom data set: shares of table 1, a threshold that is not enough, the same bytes again."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.datasets.ct_phantom import patients
from input_pipeline.datasets.ct_phantom.body import cavity, draw_anatomy, lungs
from input_pipeline.datasets.ct_phantom.builder import CtPhantom
from input_pipeline.datasets.ct_phantom.lung import SIZE
from input_pipeline.datasets.ct_phantom.patients import (
    HU_RANGE,
    SLICES_PER_PATIENT,
    SPLITS,
    apply_threshold,
    fit_threshold,
    make_patient,
    patients_of,
)
from input_pipeline.slices import Slice

pytestmark = pytest.mark.slow

Labelled = dict[str, list[Slice]]


def digest(slices: list[Slice]) -> str:
    """A fingerprint of everything in the slices."""
    total = hashlib.sha256()
    for item in slices:
        assert item.mask is not None and item.lung is not None
        for array in (item.image, item.mask, item.lung):
            total.update(array.tobytes())
        total.update(repr((item.id, item.patient, item.spacing)).encode())
    return total.hexdigest()


def dice(item: Slice, bound: float) -> float:
    assert item.mask is not None
    truth, found = item.mask > 0, apply_threshold(item, bound) > 0
    return 2.0 * (truth & found).sum() / (truth.sum() + found.sum())


def toy(image: list[int], mask: list[int], lung: list[int]) -> Slice:
    arrays = np.array([image], np.int16), np.array([mask], np.uint8), np.array([lung], np.uint8)
    return Slice(*arrays, "toy", "toy", (1.0, 1.0))


@pytest.fixture(scope="module")
def labelled() -> Labelled:
    """The whole labelled part, as the builder makes it."""
    return {
        split: [item for index in patients_of(split) for item in make_patient(index)]
        for split in ("train", "validation", "test")
    }


def test_same_seed_same_bytes_another_seed_or_patient_differs() -> None:
    first = digest(make_patient(3))
    assert first == digest(make_patient(3))
    assert len({first, digest(make_patient(4)), digest(make_patient(3, seed=1))}) == 3


def test_a_slice_is_what_the_docstring_says() -> None:
    slices = make_patient(0)
    assert len(slices) == SLICES_PER_PATIENT
    assert len({item.id for item in slices}) == SLICES_PER_PATIENT
    assert {item.patient for item in slices} == {"phantom0000"}
    for item in slices:
        assert item.mask is not None and item.lung is not None and item.spacing is not None
        assert item.image.shape == item.mask.shape == item.lung.shape == (SIZE, SIZE)
        assert item.image.dtype == np.int16 and item.mask.dtype == item.lung.dtype == np.uint8
        assert HU_RANGE[0] <= item.image.min() < -900 and item.image.max() > 300
        assert item.lung[item.mask > 0].all()
        assert 1.4 < item.spacing[0] == item.spacing[1] < 2.2


def test_shares_are_those_of_table_1(labelled: Labelled) -> None:
    slices = [item for split in labelled.values() for item in split]
    masks = np.stack([item.mask for item in slices])  # type: ignore[misc]
    lung = np.stack([item.lung for item in slices])  # type: ignore[misc]
    assert 0.20 <= (lung > 0).mean() <= 0.27
    assert 0.02 <= (masks == 1).mean() <= 0.05
    assert 0.005 <= (masks == 2).mean() <= 0.023


def test_every_split_has_both_classes_and_slices_without_lesion(labelled: Labelled) -> None:
    for split, slices in labelled.items():
        values = [set(np.unique(item.mask)) for item in slices]  # type: ignore[arg-type]
        assert set.union(*values) == {0, 1, 2}, split
        assert sum(2 in found for found in values) >= len(slices) // 3
    empty = sum(not item.mask.any() for split in labelled.values() for item in split)  # type: ignore[union-attr]
    assert 8 <= empty <= 48


def test_lesions_are_as_dense_as_their_class(labelled: Labelled) -> None:
    """Middle half of the pixels, in HU; the classes overlap, as they must."""
    slices = [item for split in labelled.values() for item in split]
    for value, low, high in ((1, -700, -250), (2, -200, 80)):
        found = np.concatenate([item.image[item.mask == value] for item in slices])
        quarter, half, three = np.percentile(found, [25, 50, 75])
        assert low < quarter < half < three < high


def test_the_best_threshold_is_clearly_not_enough(labelled: Labelled) -> None:
    """Mean DSC over the test slices with a lesion, the bound fitted on train."""
    bound = fit_threshold(labelled["train"])
    cases = [dice(item, bound) for item in labelled["test"] if item.mask.any()]  # type: ignore[union-attr]
    assert 0.45 <= float(np.mean(cases)) <= 0.65


def test_the_heart_lies_on_the_right_of_the_picture(labelled: Labelled) -> None:
    """The patient's left lung, on the picture's right, is the smaller one."""
    left_lung, right_lung = 0, 0
    for item in labelled["train"]:
        assert item.lung is not None
        left_lung += int(item.lung[:, SIZE // 2 :].sum())
        right_lung += int(item.lung[:, : SIZE // 2].sum())
    assert 0.6 < left_lung / right_lung < 0.95


def test_lungs_lie_inside_the_rib_cage() -> None:
    rng = np.random.default_rng(0)
    body = draw_anatomy(rng)
    x, y = rng.uniform(-170, 170, (2, 2000)).astype(np.float32)
    for level in (0.3, 0.6, 0.9):
        inside = lungs(body, x, y, level) < 0
        assert inside.any()
        assert cavity(body, x[inside], y[inside], level).max() < 6.0


def test_splits_share_no_patient() -> None:
    patients = [index for split in SPLITS for index in patients_of(split)]
    assert len(patients) == len(set(patients)) == sum(SPLITS.values())
    with pytest.raises(ValueError, match="no split 'dev', expected one of train"):
        patients_of("dev")


def test_fitted_threshold_is_the_best_of_all_bounds() -> None:
    """Against trying every bound; lesion pixels outside the lung count as missed."""
    rng = np.random.default_rng(1)
    slices = [
        toy(*(rng.integers(low, high, 60).tolist() for low, high in ((-30, 30), (0, 3), (0, 2))))
        for _ in range(2)
    ]
    slices.append(toy(list(range(60)), [0] * 20 + [1] * 40, [1] * 60))

    def pooled(bound: float) -> float:
        found = np.stack([apply_threshold(item, bound) for item in slices]) > 0
        truth = np.stack([item.mask for item in slices]) > 0  # type: ignore[misc]
        return 2.0 * (found & truth).sum() / (found.sum() + truth.sum())

    best = max(pooled(bound) for bound in range(-40, 70))
    assert pooled(fit_threshold(slices)) == pytest.approx(best)


def test_threshold_takes_the_bound_itself_and_stays_in_the_lung() -> None:
    item = toy([-700, -500, -499, 0], [0, 1, 1, 2], [1, 1, 1, 0])
    assert apply_threshold(item, -500.0).tolist() == [[0, 1, 1, 0]]


def test_threshold_without_masks_is_refused_by_name() -> None:
    bare = Slice(np.zeros((2, 2), np.int16), None, None, "bare", "p", None)
    with pytest.raises(ValueError, match=r"slice bare: .* lung mask"):
        apply_threshold(bare, 0.0)
    with pytest.raises(ValueError, match=r"slice bare: .* mask"):
        fit_threshold([bare])


@pytest.fixture
def small_splits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(patients, "SPLITS", {"train": 2, "test": 1})
    yield


@pytest.mark.usefixtures("small_splits")
def test_builder_writes_and_reads_back_without_tensorflow(tmp_path: Path) -> None:
    builder = CtPhantom(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    source = builder.as_data_source("train")
    assert len(source) == 2 * SLICES_PER_PATIENT
    expected = {item.id: item for index in (0, 1) for item in make_patient(index)}
    for k in range(len(source)):
        record = source[k]
        item = expected.pop(record["id"].decode())
        assert record["patient"].decode() == item.patient
        assert tuple(record["spacing"]) == pytest.approx(item.spacing, rel=1e-6)
        for name in ("image", "mask", "lung"):
            np.testing.assert_array_equal(record[name], getattr(item, name))
            assert record[name].dtype == getattr(item, name).dtype
    assert not expected
    assert "tensorflow" not in sys.modules
