"""Synthetic lesions in slices that have lungs, and perhaps lesions, of their own."""

import numpy as np
import pytest
from PIL import Image

from input_pipeline.datasets import catalog, covid_semiseg, covid_semiseg_synthetic
from input_pipeline.datasets.ct_phantom_domains import patients
from input_pipeline.datasets.ct_phantom_domains.domains import BRIGHT
from input_pipeline.datasets.ct_phantom_domains.synthetic import with_synthetic_lesions
from input_pipeline.grey_values import anatomy_range
from input_pipeline.lungs.threshold import threshold_lung_mask
from input_pipeline.slices import known

NAME = "covid_semiseg_synthetic"


@pytest.fixture(scope="module")
def slices():
    """Three slices whose own lesions are known, with the spine at the first columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(patients.SPLITS, "unlabelled", [(BRIGHT, 3)])
        return patients.make_patient("unlabelled", 0)


def drawn(image, seed=0, *, spine_first=True):
    made = with_synthetic_lesions(image, np.random.default_rng(seed), spine_first=spine_first)
    assert made is not None
    return made


def hu_of(image, like):
    """The Hounsfield units of grey values, by lung and tissue of the slice `like`."""
    low, high = anatomy_range(like, (-1000.0, 0.0))
    return (image.astype(float) - low) / (high - low) * 1000.0 - 1000.0


def test_the_same_seed_gives_the_same_bits(slices):
    first, again, other = (drawn(slices[0].image, seed) for seed in (0, 0, 1))
    for name in first._fields:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.mask != other.mask).any()


def test_lesions_lie_in_the_lungs_and_are_as_dense_as_they_are_called(slices):
    glass, solid = [], []
    for number, item in enumerate(slices):
        for seed in range(4):
            made = drawn(item.image, [number, seed])
            lung = threshold_lung_mask(item.image, intensity="uint8", dilation=0) > 0
            assert not (made.mask > 0)[~lung].any()
            near = threshold_lung_mask(item.image, intensity="uint8", dilation=4) > 0
            np.testing.assert_array_equal(made.image[~near], item.image[~near])
            healthy = lung & (item.mask == 0)
            hu = hu_of(made.image, item.image)
            glass += hu[healthy & (made.mask == 1)].tolist()
            solid += hu[healthy & (made.mask == 2)].tolist()
    before = np.median(hu_of(slices[0].image, slices[0].image)[slices[0].lung > 0])
    # Ground-glass adds 110 to 330 HU within its border; consolidation has -400 to 0 HU.
    assert before + 80 < np.median(glass) < before + 330
    assert -450 < np.median(solid) < 50


def test_lesions_of_the_slice_are_in_doubt_and_healthy_lung_is_not(slices):
    own = sure = healthy = counted = 0
    for item in slices:
        made = drawn(item.image)
        lung = threshold_lung_mask(item.image, intensity="uint8", dilation=0) > 0
        theirs = lung & (item.mask > 0) & (made.mask != 2)
        own, sure = own + theirs.sum(), sure + (made.weight[theirs] > 0).sum()
        clear = lung & (item.mask == 0)
        healthy, counted = healthy + clear.sum(), counted + (made.weight[clear] > 0).sum()
        assert (made.weight[made.mask == 2] == 255).all() and (made.weight[~lung] == 255).all()
        assert set(np.unique(made.weight)) == {0, 255}
    assert own > 0 and sure < 0.3 * own
    assert counted > 0.6 * healthy  # vessels and the border of the lungs are dense as well


def test_lesions_are_nearer_the_spine_on_average(slices):
    columns = np.arange(slices[0].image.shape[1])
    middles = []
    for first in (True, False):
        masks = [drawn(slices[0].image, seed, spine_first=first).mask > 0 for seed in range(16)]
        middles.append(np.mean([(mask.sum(0) * columns).sum() / mask.sum() for mask in masks]))
    assert middles[0] < middles[1]


def test_a_slice_without_lungs_gets_none():
    noise = np.random.default_rng(0).integers(100, 120, (80, 60)).astype(np.uint8)
    assert with_synthetic_lesions(noise, np.random.default_rng(0), spine_first=True) is None


def test_the_data_set_holds_phantoms_and_unlabelled_slices(slices, tmp_path, monkeypatch):
    folder = tmp_path / "source" / covid_semiseg.UNLABELLED
    for path in (
        folder,
        *(
            tmp_path / "source" / covid_semiseg.LABELLED["train", "binary"] / part
            for part in ("Imgs", "GT")
        ),
    ):
        path.mkdir(parents=True)
        if path != folder:
            Image.fromarray(slices[0].mask * 100).save(path / "1.png")
    for number, item in enumerate(slices):
        Image.fromarray(item.image).save(folder / f"Data-1_coronacases_org_001_{number}.png")
    blank = np.random.default_rng(0).integers(100, 120, (80, 60)).astype(np.uint8)
    Image.fromarray(blank).save(folder / "Data-1_coronacases_org_002_0.png")
    monkeypatch.setattr(covid_semiseg_synthetic, "COUNT", 2)
    source, records = tmp_path / "source", tmp_path / "records"
    catalog.build(NAME, source_dir=source, data_dir=records, task="multiclass")
    made = catalog.open_split(NAME, "train", data_dir=records, task="multiclass")
    assert catalog.split_names(NAME, data_dir=records, task="multiclass") == ["train"]
    phantoms, real = made[:2], made[2:]
    for k, item in enumerate(phantoms):
        (expected,) = patients.make_patient(patients.PRETRAINING, k)
        np.testing.assert_array_equal(item.image, expected.image)
        assert (item.weight == 255).all()
    assert 1 <= len(real) <= 2  # one of the four slices has no lungs
    for item in real:
        assert item.patient == "Data-1_coronacases_org_001" and (item.weight == 0).any()
    binary = catalog.open_split(NAME, "train", data_dir=records, task="binary")
    np.testing.assert_array_equal(binary[2].mask, real[0].mask > 0)
    facts = known(made, 2)
    assert facts is not None and facts.pixels is None  # weights count too, so they are read
