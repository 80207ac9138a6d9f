"""Phantoms of two domains: looks as COVID-SemiSeg's, lesions as real masks', a hidden truth."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from configs import ct_phantom_domains
from input_pipeline.datasets import catalog
from input_pipeline.datasets.ct_phantom.body import draw_anatomy, lungs
from input_pipeline.datasets.ct_phantom.lung import LUNG_LENGTH, SIZE
from input_pipeline.datasets.ct_phantom_domains import domains, lesions, patients
from input_pipeline.datasets.ct_phantom_domains.domains import BRIGHT, LABELLED, SIMILAR
from input_pipeline.slices import Slice
from ssa_jax.experiment import data
from ssa_jax.experiment.provenance import PHANTOMS
from ssa_jax.experiment.settings import Settings
from tests.domain_figures import collected, looks
from tests.lesion_shapes import BURDEN, of_patient, on_grid, perimeter, phantoms, shape, statistics

NAME = "ct_phantom_domains"


SMALL = {
    "train": [(LABELLED, 1)],
    "test": [(LABELLED, 1)],
    "unlabelled": [(BRIGHT, 3), (SIMILAR, 1)],
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The records of a small data set, and its slices by split."""
    data_dir = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patients, "SPLITS", SMALL)
        catalog.build(NAME, source_dir=None, data_dir=data_dir, task="binary")
        made = {
            split: [
                item for k in range(len(SMALL[split])) for item in patients.make_patient(split, k)
            ]
            for split in SMALL
        }
    return data_dir, made


def digest(slices):
    """A fingerprint of everything in the slices."""
    total = hashlib.sha256()
    for item in slices:
        for array in (item.image, item.mask, item.lung):
            total.update(repr(array.shape).encode() + array.tobytes())
        total.update(repr((item.id, item.patient, item.spacing)).encode())
    return total.hexdigest()


def test_the_splits_are_those_of_covid_semiseg():
    """50 and 48 labelled slices, a patient each; 400 of 20 patients, 70% of them bright."""
    assert [sum(n for _, n in patients.SPLITS[s]) for s in ("train", "test")] == [50, 48]
    assert {n for _, n in patients.SPLITS["train"] + patients.SPLITS["test"]} == {1}
    unlabelled = patients.SPLITS["unlabelled"]
    assert [domain for domain, _ in unlabelled] == [BRIGHT] * 10 + [SIMILAR] * 10
    assert sum(patients.COUNTS_BRIGHT) == 280 and sum(patients.COUNTS_SIMILAR) == 120
    assert max(patients.COUNTS_SIMILAR) == 52 and min(patients.COUNTS_SIMILAR) == 3


def test_same_seed_same_bytes_another_patient_split_or_seed_differs():
    first = digest(patients.make_patient("train", 3))
    assert first == digest(patients.make_patient("train", 3))
    others = (
        patients.make_patient("train", 4),
        patients.make_patient("test", 3),
        patients.make_patient("train", 3, seed=1),
    )
    assert len({first, *map(digest, others)}) == 4


def test_records_hold_the_slices_in_their_order(small):
    data_dir, made = small
    for task in ("binary", "multiclass"):
        for split in ("train", "test", catalog.TRUTH):
            items = made["unlabelled" if split == catalog.TRUTH else split]
            found = catalog.open_split(NAME, split, data_dir=data_dir, task=task)
            if task == "binary":
                items = [replace(item, mask=(item.mask > 0).astype(np.uint8)) for item in items]
            assert digest(found) == digest(items)
            assert all(item.image.dtype == np.uint8 for item in found)


def test_unlabelled_slices_hide_their_masks_and_the_truth_shows_them(small):
    hidden, shown = (
        catalog.open_split(NAME, split, data_dir=small[0], task="multiclass")
        for split in (catalog.UNLABELLED, catalog.TRUTH)
    )
    assert [item.mask for item in hidden] == [None] * 4
    assert any(item.mask.any() for item in shown)
    for one, other in zip(hidden, shown, strict=True):
        assert (one.id, one.patient) == (other.id, other.patient)
        np.testing.assert_array_equal(one.image, other.image)
    assert catalog.split_names(NAME, data_dir=small[0], task="binary") == list(SMALL)
    hashes = [
        catalog.slice_hashes(NAME, split, data_dir=small[0], task="binary")
        for split in (catalog.UNLABELLED, catalog.TRUTH)
    ]
    assert hashes[0] == hashes[1]


def test_only_phantoms_may_have_a_hidden_truth(small, monkeypatch):
    hiding = {name for name, info in catalog.DATASETS.items() if info.made_from is not None}
    assert hiding == {"ct_phantom", NAME, "ct_phantom_pretraining"}
    assert hiding == {name for name, info in catalog.DATASETS.items() if info.files is None}
    assert hiding == set(PHANTOMS)  # what masks made by such a network say
    of_files = replace(catalog.DATASETS[NAME], made_from=None)
    monkeypatch.setitem(catalog.DATASETS, NAME, of_files)
    with pytest.raises(
        ValueError, match=r"no split 'unlabelled_truth', expected one of train \(1\)"
    ):
        catalog.open_split(NAME, catalog.TRUTH, data_dir=small[0], task="binary")


def test_the_truth_can_be_evaluated(small):
    settings = Settings.from_config(ct_phantom_domains.get_config("multiclass"))
    settings = settings.replace({"data.data_dir": str(small[0])})
    slices = data.evaluation_slices(settings, small[0] / "W", catalog.TRUTH)
    np.testing.assert_array_equal(slices[1].mask, small[1]["unlabelled"][1].mask)
    with pytest.raises(ValueError, match="split 'unlabelled' has no labels to score"):
        data.evaluation_slices(settings, small[0] / "W", catalog.UNLABELLED)


def test_built_again_when_a_domain_changes(tmp_path, monkeypatch):
    blank = np.zeros((2, 2), np.uint8)
    item = Slice(blank, blank, blank, "a", "b", None)
    monkeypatch.setattr(patients, "make_patient", lambda split, index: [item])
    monkeypatch.setattr(patients, "SPLITS", dict(SMALL))
    build = {"source_dir": None, "data_dir": tmp_path, "task": "binary"}
    assert catalog.build(NAME, **build) and not catalog.build(NAME, **build)
    brighter = replace(BRIGHT, top=(BRIGHT.top[0] + 1, BRIGHT.top[1]))
    monkeypatch.setitem(patients.SPLITS, "unlabelled", [(brighter, 3)])
    assert catalog.build(NAME, **build) and not catalog.build(NAME, **build)


def test_slices_of_a_patient_are_neighbours_and_cropped_to_the_lungs():
    """Lung at every side of the picture but for the margin; neighbours overlap."""
    slices = patients.make_patient("unlabelled", 19)
    assert len(slices) == 3 and {item.patient for item in slices} == {"unlabelled019"}
    for item in slices:
        rows, columns = (np.flatnonzero(item.lung.any(axis=axis)) for axis in (1, 0))
        for places, size in zip((rows, columns), item.lung.shape, strict=True):
            assert places[0] <= SIMILAR.margin[1] + 1
            assert size - 1 - places[-1] <= SIMILAR.margin[1] + 1
        assert item.lung[item.mask > 0].all()
        assert max(item.image.shape) < SIZE
    assert abs(slices[0].image.shape[0] - slices[1].image.shape[0]) <= 8


def look_of(domain, **changes):
    """The look of a patient whose body is not of interest."""
    rng = np.random.default_rng(0)
    return replace(domains.draw_look(domain, draw_anatomy(rng), rng)[1], margin=0, **changes)


def test_a_domain_lays_the_right_lung_above_and_the_spine_on_its_side():
    """Rows of the chest go to the back and columns to the patient's left."""
    chest = np.zeros((SIZE, SIZE), np.uint8)
    chest[50:60, 40:140] = 1  # front: bright, right and left
    chest[60:130, 40:140] = 2
    chest[60:130, 40:90] = 3  # the right side, behind
    lung = (chest > 0).astype(np.uint8)
    right_first = domains.placed(chest + 10, lung, look_of(LABELLED, squeeze=1.0), labels=False)
    assert right_first.shape == (100, 80)
    assert (right_first[:, :10] == 11).all()
    assert (right_first[:50, 10:] == 13).all() and (right_first[50:, 10:] == 12).all()
    mirrored = domains.placed(chest + 10, lung, look_of(BRIGHT, squeeze=1.0), labels=False)
    np.testing.assert_array_equal(mirrored, right_first[:, ::-1])


def test_labels_stay_labels_when_a_slice_is_squeezed():
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[50:100, 60:100] = 2
    cut = domains.placed(mask, np.ones_like(mask), look_of(LABELLED, squeeze=0.7), labels=True)
    assert cut.shape == (round(0.7 * SIZE), SIZE)
    assert set(np.unique(cut)) == {0, 2}
    assert cut.mean() == pytest.approx(mask.mean(), rel=0.03)


def test_the_window_maps_its_ends_to_the_ends_of_the_grey_values():
    look = look_of(LABELLED, sharpness=0.0, window=(-1000.0, 200.0))
    hu = np.array([[-1500, -1000, -400, 40, 200, 900]], np.int16)
    assert domains.picture(hu, look).tolist() == [[0, 0, 128, 221, 255, 255]]


def test_sharpness_raises_an_edge_and_keeps_what_is_even():
    hu = np.full((40, 40), -800, np.int16)
    hu[:, 20:] = 0
    plain, sharp = (
        domains.picture(hu, look_of(LABELLED, sharpness=s, window=(-1200.0, 300.0)))
        for s in (0.0, 0.8)
    )
    assert (sharp[:, 20] > plain[:, 20]).all() and (sharp[:, 19] < plain[:, 19]).all()
    np.testing.assert_array_equal(sharp[:, [0, 39]], plain[:, [0, 39]])


def test_lesions_fill_the_stated_share_of_the_lungs_and_consolidation_its_share_of_them():
    rng = np.random.default_rng(2)
    body = draw_anatomy(rng)
    made = lesions.draw_lesions(body, rng, 0.1, 0.25)
    axes = [(np.arange(n) - (n - 1) / 2) * lesions.VOXEL for n in lesions.SHAPE]
    z, y, x = np.meshgrid(*(a.astype(np.float32) for a in axes), indexing="ij")
    inside = lungs(body, x, y, 0.5 + z / LUNG_LENGTH) < 0
    ill = inside & (made.glass > 0)
    assert ill.sum() / inside.sum() == pytest.approx(0.1, rel=0.05)
    assert (ill & (made.solid > 0)).sum() / ill.sum() == pytest.approx(0.25, rel=0.05)
    assert made.by_height.sum() == pytest.approx(ill.sum(), rel=0.05)
    none = lesions.draw_lesions(body, rng, 0.1, 0.0)
    assert not (none.solid > 0).any()


def test_sampling_a_field_is_linear_interpolation():
    """A linear function of the coordinates comes back, at the centres of voxels and between."""
    axes = [(np.arange(n) - (n - 1) / 2) * lesions.VOXEL for n in lesions.SHAPE]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    field = (2 * x - 3 * y + 0.5 * z).astype(np.float32)
    at_x, at_y = np.array([[0.0, 31.3, -92.7]]), np.array([[0.0, -20.1, 55.5]])
    for height in (0.5 * LUNG_LENGTH, 70.0, 200.4):
        expected = 2 * at_x - 3 * at_y + 0.5 * (height - LUNG_LENGTH / 2)
        found = lesions.sample(field, at_x, at_y, height)
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_power_of_the_noise_falls_as_a_power_law():
    """Between the scales, at twice the frequency the power is 2**-SLOPE; white noise is flat."""
    fields = [lesions.draw_noise(np.random.default_rng(k), 4.0, 0.0) for k in range(3)]
    power = np.mean([np.abs(np.fft.fftn(f)) ** 2 for f in fields], axis=0)
    frequency = np.sqrt(
        sum(f**2 for f in np.ix_(*(np.fft.fftfreq(n, lesions.VOXEL) for n in lesions.SHAPE)))
    )
    low, high = (power[(frequency > f * 0.95) & (frequency < f * 1.05)].mean() for f in (0.05, 0.1))
    assert np.log2(low / high) == pytest.approx(4.0, abs=0.2)
    assert fields[0].mean() == pytest.approx(0, abs=1e-4) and fields[0].std() == pytest.approx(1)


def test_specks_are_not_outlined():
    lesion = np.zeros((12, 12), bool)
    lesion[1, 1] = lesion[2, 2] = True  # two pixels that touch at a corner
    lesion[6:9, 6] = True
    kept = lesions.outlined(lesion)
    assert kept.sum() == 3 and kept[6:9, 6].all()


# What the statistics measure, on shapes whose values are known.


def test_shapes_of_known_figures():
    y, x = np.mgrid[-40:41, -40:41]
    disc = x**2 + y**2 <= 30.5**2
    area, length, solidity, elongation = shape(disc)
    assert 4 * np.pi * area / length**2 == pytest.approx(1.0, abs=0.06)
    assert solidity == pytest.approx(1.0, abs=0.02) and elongation == pytest.approx(1.0, abs=0.01)
    bar = np.zeros((30, 50), bool)
    bar[10:16, 5:41] = True
    area, length, solidity, elongation = shape(bar)
    assert area == 216 and length == pytest.approx(np.pi / 8 * (84 + 164 / np.sqrt(2)))
    assert (solidity, elongation) == (1.0, pytest.approx(6.0, rel=1e-3))
    ring = disc & (x**2 + y**2 > 15.5**2)
    assert perimeter(ring) == pytest.approx(2 * np.pi * 46, rel=0.03)


def test_figures_of_a_patient_by_hand():
    """Two lesions: 4 x 5 pixels in two slices on the left, in front; one of 2 x 6 on the right."""
    mask = np.zeros((100, 80, 12), bool)
    mask[70:74, 60:65, 3:5] = True
    mask[20:22, 10:16, 7] = True
    found, shapes = of_patient(mask)
    voxel = 1.8 * 1.8 * 8 / 1000
    assert found["lesion of a patient, mL"] == [pytest.approx(52 * voxel)]
    assert found["a lesion, mL"] == pytest.approx([12 * voxel, 40 * voxel])
    assert found["lesions of a patient"] == [2] and found["lesions in a slice"] == [1, 1, 1]
    assert found["share of the largest lesion"] == [pytest.approx(40 / 52)]
    assert (found["slices with lesion"], found["slices in a row"]) == ([3], [2])
    assert found["share on the lesser side"] == [pytest.approx(12 / 52)]
    behind = 39.5 - (40 * 62 + 12 * 12.5) / 52
    assert found["behind the middle, mm"] == [pytest.approx(1.8 * behind)]
    assert found["lesion in a slice, cm2"] == pytest.approx([0.648, 0.648, 0.3888])
    assert [s[0] for s in shapes] == [20, 20, 12]


def test_a_mask_keeps_its_area_and_place_on_the_grid():
    mask = np.zeros((512, 512, 2), bool)
    mask[100:200, 300:380, 1] = True
    found = on_grid(mask, (0.75, 0.75))
    assert found.shape == (213, 213, 2)
    assert found.sum() * 1.8**2 == pytest.approx(100 * 80 * 0.75**2, rel=0.03)
    centre = [np.mean(k) * 1.8 for k in np.nonzero(found)[:2]]
    assert centre == pytest.approx([149.5 * 0.75, 339.5 * 0.75], abs=1.0)


@pytest.mark.slow
def test_lesions_have_the_shapes_and_sizes_of_mosmeddata():
    """Medians of 20 phantoms within half of the real ones, shapes within a sixth."""
    found = statistics(phantoms(20))
    real = {
        "lesion of a patient, mL": 64.5, "lesions of a patient": 19.5, "slices with lesion": 15,
        "slices in a row": 11, "lesion in a slice, cm2": 4.21, "lesions in a slice": 3,
        "a lesion in a slice, mm2": 165, "share of the largest lesion": 0.56,
        "behind the middle, mm": 42.3, "beside the middle, mm": 75.3,
        "share on the lesser side": 0.227,
    }  # fmt: skip
    for name, median in real.items():
        assert np.median(found[name]) == pytest.approx(median, rel=0.5), name
    shapes = {"compactness": 0.483, "solidity": 0.774, "elongation": 1.89}
    for name, median in shapes.items():
        assert np.median(found[name]) == pytest.approx(median, rel=1 / 6), name
    assert found["dimension of the outlines"][0] == pytest.approx(1.32, abs=0.06)
    assert BURDEN < 0.02


@pytest.mark.slow
def test_domains_look_as_those_of_covid_semiseg(monkeypatch):
    """Medians after the percentile mapping: soft tissue, its deviation between slices, lung."""
    expected = {
        LABELLED: (0.83, 0.06, 0.19),
        BRIGHT: (0.58, 0.05, 0.09),
        SIMILAR: (0.88, 0.04, 0.18),
    }
    for domain, (tissue, deviation, lung) in expected.items():
        split = "train" if domain is LABELLED else "unlabelled"
        monkeypatch.setitem(patients.SPLITS, split, [(domain, 1)] * 16)
        items = [patients.make_patient(split, k)[0] for k in range(16)]
        found = collected([looks(item.image) for item in items])
        assert found["soft tissue"].mean() == pytest.approx(tissue, abs=0.04)
        assert found["soft tissue"].std() == pytest.approx(deviation, abs=0.035)
        assert found["lung"].mean() == pytest.approx(lung, abs=0.06)
