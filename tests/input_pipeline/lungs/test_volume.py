"""Lungs of whole scans whose lungs are known, their two sides, and real scans where present."""

import sys
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from input_pipeline.io.read import read_scan
from input_pipeline.lungs.components import Components
from input_pipeline.lungs.left_right import LEFT, RIGHT, label_left_right
from input_pipeline.lungs.lungmask_package import lungmask_lung_labels
from input_pipeline.lungs.threshold import threshold_lung_mask, volume_lung_mask
from tests.support import SHARED
from tests.support.lungmask_stand_in import inferer
from tests.support.phantom_chest import SHAPE, SPACING, chest, ellipsoid

REAL = SHARED / "data/ct"


@pytest.fixture(scope="module")
def phantom():
    return chest()


@pytest.fixture(scope="module")
def found(phantom):
    return volume_lung_mask(phantom.voxels, spacing=SPACING, dilation=0)


def dsc(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_lungs_are_found_and_other_gas_is_not(phantom, found):
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 1}
    assert dsc(found > 0, phantom.sides > 0) > 0.96
    for name, hollow in phantom.gas.items():
        assert phantom.voxels[hollow].mean() < -950, name
        assert not found[hollow & (phantom.sides == 0)].any(), name


def test_a_lesion_at_the_chest_wall_is_inside(phantom, found):
    """Darkness alone finds a tenth of it."""
    dark = ndimage.gaussian_filter(phantom.voxels.astype(float), (0, 1 / 3, 1 / 3)) < -200
    assert dark[phantom.dense].mean() < 0.1
    assert found[phantom.dense].mean() > 0.8


def test_the_tips_of_the_lungs_count_though_they_are_small(phantom, found):
    """Slices where the lungs are below the smallest share of the body that a lone slice needs."""
    lungs = phantom.sides > 0
    small = [k for k in range(len(lungs)) if 10 < lungs[k].sum() < 50]
    assert small
    for k in small:
        assert not threshold_lung_mask(phantom.voxels[k], intensity="hu", dilation=0).any()
        assert found[k][lungs[k]].mean() > 0.8


def test_unknown_spacing_and_float_voxels_serve_as_well(phantom):
    mask = volume_lung_mask(phantom.voxels.astype(np.float32), spacing=None, dilation=0)
    assert dsc(mask > 0, phantom.sides > 0) > 0.95
    assert not mask[phantom.gas["table"]].any()


def test_dilation_grows_each_slice_by_that_many_pixels(phantom, found):
    grown = volume_lung_mask(phantom.voxels, spacing=SPACING, dilation=2)
    for k in (9, 20, 36):
        want = np.zeros(SHAPE[1:], bool)
        if found[k].any():
            want = ndimage.distance_transform_edt(found[k] == 0) <= 2
        np.testing.assert_array_equal(grown[k], want)


def test_mirrored_scans_give_mirrored_masks(phantom, found):
    voxels = phantom.voxels[:, ::-1, ::-1]
    mask = volume_lung_mask(voxels, spacing=SPACING, dilation=0)
    assert (mask != found[:, ::-1, ::-1]).mean() < 1e-4  # ties at the seam


def test_one_slice_is_judged_like_a_slice(phantom):
    voxels = phantom.voxels[22:23]
    mask = volume_lung_mask(voxels, spacing=SPACING, dilation=1)
    alone = threshold_lung_mask(voxels[0], intensity="hu", dilation=1)
    assert alone.any()
    np.testing.assert_array_equal(mask, alone[None])


def test_a_scan_without_lung_gives_an_empty_mask(phantom):
    abdomen = phantom.voxels[:9]
    assert (abdomen[phantom.gas["stomach"][:9]] < -900).all()
    legs = np.full((12, 80, 100), -1000, np.int16)
    legs[ellipsoid((6, 40, 30), (90, 18, 18), legs.shape)] = 40
    legs[ellipsoid((6, 40, 70), (90, 18, 18), legs.shape)] = 40
    air = np.full((3, 40, 40), -1000, np.int16)
    faeces = phantom.voxels[:9].copy()
    mottled = np.random.default_rng(0).uniform(-560, -200, faeces.shape)
    faeces[phantom.gas["stomach"][:9]] = mottled[phantom.gas["stomach"][:9]]
    for voxels in (abdomen, legs, air, faeces):
        assert not volume_lung_mask(voxels, spacing=SPACING, dilation=3).any()


@pytest.mark.parametrize(("slices", "width", "millilitres"), [(9, 5.5, 8), (44, 8, 12)])
def test_what_is_too_small_for_a_lung_is_left_out(phantom, slices, width, millilitres):
    """Air as dense as lung in the abdomen: below 10 mL, or very little beside real lungs."""
    voxels = phantom.voxels[:slices].copy()
    voxels[phantom.gas["stomach"][:slices]] = 40
    blob = ellipsoid((5, 45, 64), (1.5, 5, width), voxels.shape)
    assert round(blob.sum() * 0.045) == millilitres
    voxels[blob] = -700
    mask = volume_lung_mask(voxels, spacing=SPACING, dilation=0)
    assert not mask[blob].any()
    assert mask.any() == (slices == 44)


def test_sides_are_the_patients(phantom):
    lungs = (phantom.sides > 0).astype(np.uint8)
    np.testing.assert_array_equal(label_left_right(lungs), phantom.sides)
    swapped = label_left_right(lungs[..., ::-1])[..., ::-1]
    np.testing.assert_array_equal(swapped, np.array([0, 2, 1])[phantom.sides])
    other_ways = label_left_right(lungs[::-1, ::-1])[::-1, ::-1]
    np.testing.assert_array_equal(other_ways, phantom.sides)


def test_sides_of_one_slice(phantom):
    lungs = phantom.sides[24:25] > 0
    np.testing.assert_array_equal(label_left_right(lungs), phantom.sides[24:25])


@pytest.mark.parametrize(("overlap", "slant"), [(2, 0.0), (8, 0.0), (2, -0.6)])
def test_lungs_that_touch_are_parted(overlap, slant):
    """Two lungs, the right one larger, whose fronts run into each other; upright and askew."""

    def askew(mask):
        rows = [np.roll(mask[:, row], round(slant * (row - 50)), axis=1) for row in range(SHAPE[1])]
        return np.stack(rows, axis=1)

    right = askew(ellipsoid((20, 50, 42), (18, 40, 26)))
    left = askew(ellipsoid((22, 50, 98), (14, 36, 22)))
    bridge = np.zeros(SHAPE, bool)
    bridge[18:26, 14 : 14 + 4 * overlap, 45:90] = True
    bridge = askew(bridge) & ~(right | left)
    lungs = right | left | bridge
    assert ndimage.label(lungs)[1] == 1
    lung_labels = label_left_right(lungs.astype(np.uint8))
    assert (lung_labels[right] == RIGHT).mean() > 0.995
    assert (lung_labels[left] == LEFT).mean() > 0.995
    np.testing.assert_array_equal(lung_labels > 0, lungs)


def test_a_lung_that_bulges_past_the_middle_stays_whole():
    """As the right one does behind the heart: a seam cannot follow so abrupt a bulge."""
    right = ellipsoid((20, 50, 35), (18, 40, 25))
    right[18:23, 66:72, 40:90] = True
    left = np.zeros(SHAPE, bool)
    left[10:34, 15:61, 70:115] = True
    assert not (right & left).any()
    lung_labels = label_left_right(right | left)
    np.testing.assert_array_equal(lung_labels, right + 2 * left)


@pytest.mark.parametrize(("column", "side"), [(35, RIGHT), (92, LEFT), (58, RIGHT), (72, LEFT)])
def test_a_lung_alone_is_named_by_the_half_it_lies_in(column, side):
    """Also where it reaches past the middle of the scan, column 64.5."""
    lung = ellipsoid((20, 50, column), (16, 35, 25))
    np.testing.assert_array_equal(label_left_right(lung), side * lung)


def test_no_lung_has_no_sides():
    assert not label_left_right(np.zeros((3, 8, 8), np.uint8)).any()


def test_components_are_those_of_a_label_volume():
    for seed, share in enumerate((0.2, 0.4, 0.6)):
        mask = np.random.default_rng(seed).random((9, 20, 22)) < share
        mask[4] &= seed != 1  # an empty slice in one of them
        labels, count = ndimage.label(mask)
        parts = Components(mask)
        regions = np.stack([parts.labels(k) for k in range(len(mask))])
        np.testing.assert_array_equal(regions > 0, mask)
        ours = parts.of_region[regions[mask] - 1]
        pairs = np.unique(np.stack([labels[mask], ours]), axis=1)
        assert parts.count == count == pairs.shape[1]
        sizes = parts.totals(np.bincount(regions[mask] - 1))
        np.testing.assert_array_equal(np.sort(sizes), np.sort(np.bincount(labels[mask])[1:]))


def test_memory_is_two_bytes_per_voxel_and_some_slices():
    """A label volume would take four more."""
    voxels = np.full((150, 96, 96), 40, np.int16)
    voxels[ellipsoid((75, 48, 28), (60, 30, 16), voxels.shape)] = -850
    voxels[ellipsoid((75, 48, 68), (60, 30, 16), voxels.shape)] = -850
    tracemalloc.start()
    mask = volume_lung_mask(voxels, spacing=(2.0, 3.0, 3.0), dilation=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert mask.any()
    assert peak < 3.5 * voxels.size


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "R231.pth"
    path.write_bytes(b"weights")
    return path


def test_the_package_lungmask_gives_sides(monkeypatch, weights):
    monkeypatch.setitem(sys.modules, "lungmask", inferer(3))
    lung_labels = lungmask_lung_labels(weights)(np.zeros((2, 4, 5), np.int16))
    np.testing.assert_array_equal(lung_labels[1], [[1, 2, 0, 0, 0]] * 4)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, "pip install lungmask"),
        (inferer(6), r"R231\.pth: the network has 6 classes, expected 3"),
        (inferer(3, loads=False), r"R231\.pth: lungmask cannot load it \(Error"),
    ],
)
def test_what_lungmask_cannot_do_is_said(monkeypatch, weights, module, message):
    monkeypatch.setitem(sys.modules, "lungmask", module)
    with pytest.raises(ValueError, match=message):
        lungmask_lung_labels(weights)(np.zeros((2, 4, 5), np.int16))


def test_lungmask_never_looks_for_weights_itself(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lungmask", inferer(3))
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no such file"):
        lungmask_lung_labels(tmp_path / "none.pth")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real scans are not here")
def test_real_abdomen_holds_the_bases_of_the_lungs_alone():
    """Looked at: the recesses end in slice 100; below there is gas and stool in the colon."""
    scan = read_scan(REAL / "abdomen_3mm.nii.gz", intensity="hu")
    mask = volume_lung_mask(scan.voxels, spacing=scan.spacing, dilation=0)
    assert not mask[:100].any()
    assert not volume_lung_mask(scan.voxels[:100], spacing=scan.spacing, dilation=0).any()
    millilitres = np.bincount(label_left_right(mask).ravel()) * np.prod(scan.spacing) / 1000
    np.testing.assert_allclose(millilitres[1:], (86, 55), rtol=0.05)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real scans are not here")
def test_real_chest_slice_has_two_lungs():
    scan = read_scan(REAL / "chest_slice_0.dcm")
    lung_labels = label_left_right(volume_lung_mask(scan.voxels, spacing=scan.spacing, dilation=0))[
        0
    ]
    assert lung_labels[300, 150] == RIGHT  # looked at: mid right lung, heart, mid left lung
    assert lung_labels[300, 320] == 0
    assert lung_labels[300, 430] == LEFT
    assert 0.18 < (lung_labels > 0).mean() < 0.21
