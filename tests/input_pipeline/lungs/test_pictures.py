"""Lungs of 8-bit slices as people export them: whole bodies, tables, circles, bars and windows."""

import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline.lungs.doubts import picture_doubts
from input_pipeline.lungs.inside import content_box, fill_of_picture
from input_pipeline.lungs.threshold import threshold_lung_mask, volume_lung_mask
from tests.input_pipeline.lungs.test_threshold import disc, dsc, thorax

SHAPE = (240, 300)
WINDOWS = [(-1250, 250), (-1000, 400), (-1350, 150), (-900, 100)]
CIRCLE = ~disc(SHAPE, (119.5, 149.5), (119, 149))


def patient(table=True):
    """HU of a whole body in noisy air, with a hollow table, and its lungs."""
    hu, lungs, _ = thorax(lesion=False)
    rng = np.random.default_rng(3)
    whole = rng.normal(-1000, 20, SHAPE)
    place = (slice(30, 180), slice(40, 260))
    whole[place] = hu
    inside = np.zeros(SHAPE, bool)
    inside[place] = lungs
    if table:
        rows, columns = np.indices(SHAPE)
        depth = rows - (190 + (columns - 150) ** 2 / 1500)
        whole[(np.abs(depth) < 2) | (np.abs(depth - 14) < 2)] = 100
    return whole, inside


def grey(hu, window=(-1250, 250)):
    low, high = window
    return np.rint(np.clip((hu - low) / (high - low) * 255, 0, 255)).astype(np.uint8)


def jpeg(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


def found(picture):
    return threshold_lung_mask(picture, intensity="uint8", dilation=0) > 0


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("fill", [None, 0, 90, 128, 255])
def test_whole_bodies_in_air_or_in_a_circle(window, fill):
    hu, lungs = patient()
    picture = grey(hu, window)
    if fill is not None:
        picture[CIRCLE] = fill
    assert dsc(found(picture), lungs) > 0.96
    assert dsc(found(jpeg(picture)), lungs) > 0.95


@pytest.mark.parametrize("bars", [((40, 40), (0, 0)), ((0, 0), (30, 50)), ((25, 0), (25, 25))])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_bars_around_a_tight_crop_whose_lungs_touch_them(bars, value):
    hu, lungs, _ = thorax(lesion=False)
    picture, lungs = grey(hu)[22:128, 24:196], lungs[22:128, 24:196]
    assert lungs[:, 0].any()
    framed = np.pad(picture, bars, constant_values=value)
    mask = found(framed)
    np.testing.assert_array_equal(mask, np.pad(found(picture), bars))
    assert dsc(mask, np.pad(lungs, bars)) > 0.97


def test_lungs_that_the_circle_cuts_stay():
    hu, lungs, _ = thorax(lesion=False)
    circle = disc(hu.shape, (75, 110), (66, 96))
    assert (lungs & ~circle).sum() > 100
    for value in (0, 128, 255):
        cut = np.where(circle, grey(hu), value).astype(np.uint8)
        assert dsc(found(cut), lungs & circle) > 0.96


def test_in_a_scan_they_stay_even_without_chest_wall():
    """Air outside is darker than lung; in a lone slice it could be a cushion or clothes."""
    hu, lungs, _ = thorax(lesion=False)
    circle = disc(hu.shape, (75, 110), (60, 88))
    assert (lungs & ~circle).sum() > 1000
    cut = np.where(circle, hu, -1024).astype(np.int16)
    scan = volume_lung_mask(np.stack([cut] * 3), spacing=(5.0, 1.5, 1.5), dilation=0)
    assert dsc(scan[1] > 0, lungs & circle) > 0.95


def test_a_lung_that_reaches_a_corner_stays_in_hu():
    hu, lungs, _ = thorax(lesion=False)
    cut, rest = hu[40:120, 45:115], lungs[40:120, 45:115]
    assert rest[0, 0]
    mask = threshold_lung_mask(cut, intensity="hu", dilation=0) > 0
    assert dsc(mask, rest) > 0.95


def test_air_under_the_table_of_a_body_as_wide_as_the_picture():
    """The table then closes off pockets that no corner touches."""
    hu, lungs = patient()
    picture, lungs = grey(hu)[:, 46:254], lungs[:, 46:254]
    assert dsc(found(picture), lungs) > 0.96


@pytest.mark.parametrize("window", [(-160, 240), (-125, 275), (-100, 200)])
def test_a_soft_tissue_window_cannot_show_lung(window):
    hu, _ = patient()
    hu = np.where((hu > 0) & (hu < 80), hu + 20, hu)
    picture = grey(hu, window)
    assert not found(picture).any()
    (doubt,) = picture_doubts(picture, found(picture))
    assert "cannot show lung" in doubt
    assert "-1250 to 250 HU" in doubt


def test_pictures_without_lung_say_so_and_others_nothing():
    hu, lungs = patient()
    picture = grey(hu)
    assert picture_doubts(picture, found(picture)) == []
    solid = grey(np.where(lungs, 40, hu))
    assert not found(solid).any()
    assert "no lung found" in picture_doubts(solid, found(solid))[0]


def test_fill_is_what_surrounds_convex_content():
    hu, _ = patient()
    picture = grey(hu)
    assert fill_of_picture(picture) is None
    picture[CIRCLE] = 255
    fill = fill_of_picture(picture)
    assert (fill != CIRCLE).mean() < 0.005
    # A window that shows tissue as white: white surrounds the lungs, but not convexly.
    crop = grey(hu, (-1000, 0))[40:170, 60:240]
    crop[[0, 0, -1, -1], [0, -1, 0, -1]] = 255
    crop[:12], crop[-12:] = 255, 255
    assert fill_of_picture(crop) is None


def test_content_box_by_hand():
    picture = np.full((9, 8), 7, np.uint8)
    assert content_box(picture) == (slice(0, 9), slice(0, 8))
    picture[2:5, 3:7] = np.arange(12).reshape(3, 4) * 20
    assert content_box(picture) == (slice(2, 5), slice(3, 7))
