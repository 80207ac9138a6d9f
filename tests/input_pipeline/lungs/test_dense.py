"""Lungs that disease has made solid, found by shape, and what is said about them."""

import numpy as np
import pytest

from input_pipeline.lungs.doubts import dense_shares, lung_doubts
from input_pipeline.lungs.left_right import LEFT, RIGHT, label_left_right, spine_column
from input_pipeline.lungs.outlines import beside_mediastinum
from input_pipeline.lungs.threshold import volume_lung_mask
from tests.lung_curve import SPACING, chest, diseased, scores

REMEDY = "look at the mask; `predict --lungs` takes a folder of masks, or unet:WEIGHTS"


@pytest.fixture(scope="module")
def healthy():
    """A chest with ribs and a spine, and its lung labels; every second slice, to be fast."""
    voxels, sides = chest(0)
    return voxels[::2], sides[::2]


def found(voxels):
    mask = volume_lung_mask(voxels, spacing=(2 * SPACING[0], *SPACING[1:]), dilation=0)
    return mask, label_left_right(mask, voxels)


def doubts(labels, voxels):
    return lung_doubts(labels, voxels, (2 * SPACING[0], *SPACING[1:]))


def test_healthy_lungs_are_found_without_doubt(healthy):
    voxels, sides = healthy
    mask, labels = found(voxels)
    dsc, error = scores(mask > 0, sides > 0)
    assert dsc > 0.98
    assert abs(error) < 0.04
    assert (labels[sides > 0] == sides[sides > 0]).mean() > 0.99
    assert doubts(labels, voxels) == []


@pytest.mark.parametrize("density", [-700, -350])
def test_ground_glass_through_both_lungs_is_lung(healthy, density):
    voxels, sides = healthy
    mask, _ = found(diseased(voxels, sides, (RIGHT, LEFT), 100, density))
    assert scores(mask > 0, sides > 0)[0] > 0.98


@pytest.mark.parametrize(("share", "least"), [(20, 0.93), (50, 0.91), (80, 0.92), (100, 0.89)])
def test_one_lung_solid_from_behind(healthy, share, least):
    """Intensity alone gives a DSC of 0.94, 0.84, 0.72 and 0.63 here."""
    voxels, sides = healthy
    sick = diseased(voxels, sides, (RIGHT,), share, 40)
    mask, labels = found(sick)
    dsc, error = scores(mask > 0, sides > 0)
    assert dsc > least
    assert abs(error) < 0.15
    told = doubts(labels, sick)
    assert any("right lung is as dense as muscle" in line for line in told) == (share >= 50)
    assert any("right lung is missing or much smaller" in line for line in told) == (share >= 80)
    assert all(REMEDY in line for line in told)


@pytest.mark.parametrize(("share", "least"), [(20, 0.92), (50, 0.86), (80, 0.80)])
def test_both_lungs_solid_from_behind(healthy, share, least):
    """By the ribs; intensity alone gives a DSC of 0.89, 0.67 and 0.34 here."""
    voxels, sides = healthy
    mask, _ = found(diseased(voxels, sides, (RIGHT, LEFT), share, 40))
    dsc, error = scores(mask > 0, sides > 0)
    assert dsc > least
    assert abs(error) < 0.25


def test_no_air_at_all_is_said(healthy):
    voxels, sides = healthy
    solid = diseased(voxels, sides, (RIGHT, LEFT), 100, 40)
    mask, labels = found(solid)
    assert not mask.any()
    (doubt,) = doubts(labels, solid)
    assert "no lung found in 24 slices" in doubt
    assert REMEDY in doubt


@pytest.mark.parametrize("side", [RIGHT, LEFT])
def test_a_lung_alone_is_named_by_the_spine(healthy, side):
    """Cropped to one half of the chest, so that the lung lies in both halves of the picture."""
    voxels, sides = healthy
    columns = slice(0, 72) if side == RIGHT else slice(56, 128)
    cropped, alone = voxels[..., columns], (sides * (sides == side))[..., columns]
    labels = label_left_right((alone > 0).astype(np.uint8), cropped)
    np.testing.assert_array_equal(labels, alone)
    assert spine_column(alone > 0, cropped) == pytest.approx(63.5 - columns.start, abs=2.5)
    _, labels = found(cropped)
    assert (labels[alone > 0] == side).mean() > 0.98
    told = doubts(labels, cropped)
    other = "left" if side == RIGHT else "right"
    assert any(f"the {other} lung is missing" in line for line in told)


def test_a_lung_outside_the_scan_is_not_mirrored_into_it(healthy):
    voxels, sides = healthy
    mask, _ = found(voxels[..., :72])
    assert scores(mask > 0, sides[..., :72] > 0)[0] > 0.97


def test_lungs_cut_off_are_said(healthy):
    voxels, _ = healthy
    _, labels = found(voxels[8:])
    assert any("ends within the lungs towards the feet" in d for d in doubts(labels, voxels[8:]))
    narrow = voxels[:, :, 22:106]
    _, labels = found(narrow)
    assert any("touch the edge of the field of view in" in d for d in doubts(labels, narrow))


def test_unlikely_sizes_are_said(healthy):
    voxels, sides = healthy
    small = lung_doubts(sides, voxels, (3.0, 1.2, 1.2))
    assert any("the lungs have 0.24 L" in line and "0.8 to 9 L" in line for line in small)
    everything = np.where(voxels > -300, 1, sides).astype(np.uint8)
    assert any("of the chest where they are widest" in d for d in doubts(everything, voxels))
    unknown = lung_doubts(sides * (sides == 1), voxels, None)
    assert any("0 voxels with air against" in line for line in unknown)


def test_dense_shares_by_hand():
    labels = np.array([[[1, 1, 1, 1, 2, 2, 0]]], np.uint8)
    voxels = np.array([[[-800, -800, -800, 0, 40, -900, 40]]], np.int16)
    assert dense_shares(labels, voxels) == {1: 0.25, 2: 0.5}
    assert dense_shares(labels * (labels == 1), voxels) == {1: 0.25}


def test_the_edge_of_the_mediastinum_by_hand():
    aerated = np.zeros((5, 6), bool)
    aerated[1, 4:] = True
    limit = [[3, 4, 5], [4, 5], [3, 4, 5], [2, 3, 4, 5], [1, 2, 3, 4, 5]]
    beside = beside_mediastinum(aerated, 1.0, 1)
    assert [np.flatnonzero(row).tolist() for row in beside] == limit
    mirrored = beside_mediastinum(aerated[:, ::-1], 4.0, -1)
    np.testing.assert_array_equal(mirrored, beside[:, ::-1])
    assert beside_mediastinum(np.zeros((2, 2), bool), 0.0, 1).all()
