"""Grey values of unknown windows by lung and soft tissue, on a chest whose HU are known."""

from dataclasses import replace

import numpy as np
import pytest

from input_pipeline.grey_values import anatomy_range
from input_pipeline.inference_slices import PictureSlices, ScanSlices
from input_pipeline.io.scan import Scan
from input_pipeline.preprocess import (
    HU_WINDOW,
    Preprocessing,
    normalize,
    prepare_slice,
    windowed,
)
from input_pipeline.slices import Slice
from tests.support.phantom_chest import SPACING, chest

GREY = Preprocessing(32, "uint8", "threshold", 0, "anatomy")
# Low and high ends in HU; air, lung (-900) and tissue (30) lie within each.
WINDOWS = [(-1250, 250), (-1400, 400), (-1250, 800), (-1050, 100), (-1050, 1500), (-1100, 60)]


def show(hu, low, high):
    """The picture of a window."""
    return np.rint(np.clip((hu - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def axial(lung=-900.0, tissue=30.0, noise=0.0):
    """A slice, HU [rows, columns] float64: the phantom's lungs and tissue, at these densities.

    The air around, and in the hollow table, always has noise, as air has.
    """
    made, rng = chest(), np.random.default_rng(0)
    plane = rng.normal(-1000, 15, made.voxels.shape[1:])
    body = made.voxels[22] > -500
    plane[body] = tissue
    plane[made.sides[22] > 0] = lung
    return plane + rng.normal(0, noise, plane.shape)


def unit(hu):
    """HU of the window -1250..250 as [0, 1]."""
    return np.clip((hu + 1250) / 1500, 0, 1)


@pytest.mark.parametrize(("low", "high"), WINDOWS)
def test_a_window_is_undone(low, high):
    """Within rounding: half a grey value of the pixel, and as much of each landmark."""
    hu = axial()
    inside = (hu >= low) & (hu <= high)
    rounding = 1.5 * (high - low) / 255 / 1500
    made = normalize(show(hu, low, high), "uint8", "anatomy")
    np.testing.assert_allclose(made[inside], unit(hu)[inside], atol=rounding)


@pytest.mark.parametrize(("low", "high"), WINDOWS)
def test_noise_and_lesions_hardly_move_the_landmarks(low, high):
    hu = axial(noise=20.0)
    lung = np.flatnonzero(chest().sides[22])
    dense = np.random.default_rng(1).permutation(lung)[: len(lung) // 10]
    hu.flat[dense] = -100.0  # scattered, a tenth of the lungs
    hu.flat[lung[: len(lung) // 4]] = -500.0  # ground-glass, a quarter of them
    made = normalize(show(hu, low, high), "uint8", "anatomy")
    healthy = axial() == -900
    healthy.flat[np.union1d(dense, lung[: len(lung) // 4])] = False
    assert abs(np.median(made[healthy]) - unit(-900.0)) < 0.03
    assert abs(np.median(made[axial() == 30]) - unit(30.0)) < 0.02


def test_the_range_by_hand():
    """Lung 40 and tissue 226: 930 HU are 186 grey values, a fifth of one each."""
    hu = axial()
    picture = show(hu, -1100, 175)
    picture[hu == -900], picture[hu == 30] = 40, 226
    low, high = anatomy_range(picture, (-1250.0, 250.0))
    assert (low, high) == pytest.approx((40 - 350 * 0.2, 226 + 220 * 0.2), abs=0.01)


def test_air_table_fill_and_bars_do_not_matter():
    hu = axial()
    picture = show(hu, *HU_WINDOW)
    cut = picture[8:84, 8:120]  # the body without most of the air
    expected = (0.0, 255.0)
    bars = np.pad(picture, 12, constant_values=130)
    rows, columns = np.indices(picture.shape)
    outside = ((rows - 49.5) / 62) ** 2 + ((columns - 64.5) / 68) ** 2 > 1
    for other in (cut, bars, np.where(outside, 255, picture), np.where(outside, 0, picture)):
        assert anatomy_range(other.astype(np.uint8), HU_WINDOW) == pytest.approx(expected, abs=3)


def test_orientation_and_a_missing_lung_do_not_matter():
    """A slice may be turned or mirrored, and show one lung alone."""
    hu = axial()
    alone = np.where(chest().sides[22] == 1, 30.0, hu)
    for plane in (hu, alone):
        picture = show(plane, -1100, 175)
        expected = (-150 / 5, 255 + 75 / 5)  # 1275 HU are 255 grey values
        for turns in range(4):
            for other in (np.rot90(picture, turns), np.rot90(picture, turns).T):
                assert anatomy_range(other, HU_WINDOW) == pytest.approx(expected, abs=1)


def test_a_saturated_window_keeps_lung_and_its_bright_end():
    """Tissue above the window's high end (-100 HU) is all 255: it is put where tissue belongs.

    Between the landmarks 800 HU are stretched to the place of 930.
    """
    hu = axial()
    hu[chest().dense[22]] = -500.0
    made = normalize(show(hu, -1100, -100), "uint8", "anatomy")
    np.testing.assert_allclose(made[hu == 30], unit(30.0), atol=0.005)
    np.testing.assert_allclose(made[hu == -900], unit(-900.0), atol=0.005)
    np.testing.assert_allclose(made[hu == -500], unit(-900 + 400 * 930 / 800), atol=0.005)


@pytest.mark.parametrize("low", [-900, -850, -500])
def test_lung_that_is_one_black_is_put_where_lung_belongs(low):
    """The window's low end then stands for -900 HU: right at -900, and a shift above it."""
    hu = axial(noise=20.0)
    made = normalize(show(hu, low, 250), "uint8", "anatomy")
    lung, tissue = axial() == -900, axial() == 30
    assert abs(np.median(made[lung]) - unit(-900.0)) < 0.01
    assert abs(np.median(made[tissue]) - unit(30.0)) < 0.01


@pytest.mark.parametrize(
    "picture",
    [
        show(axial(lung=30.0), *HU_WINDOW),  # no lung, air around the body
        show(axial(), -8000, 4000),  # so wide that lung and tissue are 20 grey values apart
        np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8),
        np.arange(81, dtype=np.uint8).reshape(9, 9),
        np.arange(9, dtype=np.uint8)[None],
    ],
)
def test_without_landmarks_percentiles_are_taken(picture):
    assert anatomy_range(picture, HU_WINDOW) is None
    np.testing.assert_array_equal(
        normalize(picture, "uint8", "anatomy"), normalize(picture, "uint8", "percentiles")
    )


def test_a_slice_without_contrast_is_still_refused():
    for value in (0, 200):
        with pytest.raises(ValueError, match="no contrast"):
            normalize(np.full((9, 9), value, np.uint8), "uint8", "anatomy")


def test_the_default_has_the_bits_it_had():
    """The formula as it was, whose percentiles are float64 and round the quotient to float32."""
    picture = show(axial(noise=20.0), *HU_WINDOW)
    low, high = np.percentile(picture, (1.0, 99.0))
    expected = np.clip((picture.astype(np.float32) - low) / max(high - low, 1.0), 0.0, 1.0)
    assert normalize(picture, "uint8").tobytes() == expected.astype(np.float32).tobytes()
    item = Slice(picture, None, None, "slice-7", "patient-1", None)
    default = Preprocessing(32, "uint8", "threshold", 0)
    assert default.grey_values == "percentiles"
    named = prepare_slice(item, replace(default, grey_values="percentiles"))
    assert named.image.tobytes() == prepare_slice(item, default).image.tobytes()


def test_preprocessing_takes_the_way_that_is_set():
    """A window that shows bone and much air: percentiles and anatomy disagree about tissue."""
    hu = axial()
    hu[40:52, 60:68] = 1000.0
    item = Slice(show(hu, -1000, 800), None, None, "slice-7", "patient-1", None)
    tissue = prepare_slice(Slice((hu == 30).astype(np.uint8), None, None, "t", "p", None),
                           Preprocessing(32, "uint8", "none", 0)).image[..., 0] == 1  # fmt: skip
    for way, expected in (("anatomy", unit(30.0)), ("window", 146 / 255)):
        image = prepare_slice(item, replace(GREY, grey_values=way)).image
        assert abs(np.median(image[..., 0][tissue]) - expected) < 0.01
        mask = prepare_slice(item, replace(GREY, grey_values="percentiles")).image[..., 1]
        np.testing.assert_array_equal(image[..., 1], mask)


def test_slices_of_a_scan_have_a_known_window():
    """A network trained by anatomy sees HU as the window maps them, and as anatomy would."""
    made = chest()
    scan = Scan(
        made.voxels, "hu", SPACING, np.eye(4), "chest", (0, 1, 2), (False,) * 3, made.voxels.shape
    )
    slices = ScanSlices(scan, made.sides, GREY)
    assert slices.prepared_by.grey_values == "window"
    item = slices[12]
    unit_image = normalize(item.image, "uint8", slices.prepared_by.grey_values)
    hu = made.voxels[slices.places[12]][slices.window]
    np.testing.assert_allclose(unit_image, unit(hu.astype(float)), atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(item.image, windowed(hu))
    plain = ScanSlices(scan, made.sides, replace(GREY, grey_values="percentiles"))
    assert plain.prepared_by.grey_values == "percentiles"


def test_pictures_are_prepared_by_anatomy():
    assert PictureSlices([], GREY, None).prepared_by.grey_values == "anatomy"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grey_values": "otsu"}, r"grey_values is 'otsu', expected one of"),
        (
            {"grey_values": "anatomy", "intensity": "hu"},
            r"grey_values is 'anatomy', expected 'percentiles' for slices in Hounsfield units",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(GREY, **fields)
