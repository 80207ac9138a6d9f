"""The way to the network's grid and back, held against numbers worked out by hand."""

import numpy as np
import pytest

from input_pipeline.preprocess import (
    Grid,
    Preprocessing,
    fit_grid,
    from_grid,
    normalize,
    prepare_slice,
    to_grid,
)
from input_pipeline.slices import Slice

PLAIN = Preprocessing(image_size=32, intensity="uint8", lung_mask="none", lung_dilation=0)


def make_slice(image, mask=None, lung=None):
    return Slice(image, mask, lung, "slice-7", "patient-1", None)


def ellipse(height, width):
    rows, columns = np.indices((height, width))
    y, x = (rows - 0.45 * height) / (0.3 * height), (columns - 0.55 * width) / (0.2 * width)
    return y**2 + x**2 < 1


def dsc(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), Grid(64, 64, 32, 0, 0, 32, 32)),
        ((40, 20), Grid(40, 20, 32, 0, 8, 32, 16)),
        ((16, 64), Grid(16, 64, 32, 12, 0, 8, 32)),
        ((8, 8), Grid(8, 8, 32, 0, 0, 32, 32)),
        ((101, 57), Grid(101, 57, 32, 0, 7, 32, 18)),  # 57 * 32 / 101 = 18.06
        ((5000, 3), Grid(5000, 3, 32, 0, 15, 32, 2)),  # would round to no pixel at all
    ],
)
def test_fit_grid_by_hand(size, expected):
    assert fit_grid(*size, 32) == expected


def test_fit_grid_refuses_a_slice_without_pixels():
    with pytest.raises(ValueError, match="0 x 5"):
        fit_grid(0, 5, 32)


def test_to_grid_halves_by_antialiased_mean():
    """Half the size: the triangle filter spans 4 pixels with weights 1, 3, 3, 1 (of 8)."""
    array = np.zeros((64, 64))
    array[:, 20] = 8.0
    square = to_grid(array, fit_grid(64, 64, 32), nearest=False, fill=0)
    assert square.dtype == np.float32
    np.testing.assert_allclose(square[16, 8:13], [0, 1, 3, 0, 0], atol=1e-6)


def test_to_grid_doubles_by_half_pixel_centres():
    ramp = np.tile(np.arange(16.0), (16, 1))
    square = to_grid(ramp, fit_grid(16, 16, 32), nearest=False, fill=0)
    np.testing.assert_allclose(square[5, :6], [0, 0.25, 0.75, 1.25, 1.75, 2.25], atol=1e-6)


def test_to_grid_nearest_keeps_labels_and_fills():
    mask = np.zeros((16, 8), np.uint8)
    mask[3, 5] = 2
    square = to_grid(mask, fit_grid(16, 8, 32), nearest=True, fill=7)
    assert square.dtype == np.uint8
    expected = np.full((32, 32), 7)
    expected[:, 8:24] = 0
    expected[6:8, 8 + 10 : 8 + 12] = 2
    np.testing.assert_array_equal(square, expected)


def test_nearest_takes_the_pixel_under_the_centre():
    """Three pixels for four: centres 0.67, 2.0, 3.33 lie in pixels 0, 2, 3."""
    grid = Grid(4, 4, 3, 0, 0, 3, 3)
    square = to_grid(np.tile(np.arange(4), (4, 1)), grid, nearest=True, fill=0)
    np.testing.assert_array_equal(square[0], [0, 2, 3])


@pytest.mark.parametrize("size", [(273, 369), (437, 191), (151, 150), (597, 600), (97, 301)])
def test_there_and_back_keeps_a_shape(size):
    shape = ellipse(*size)
    grid = fit_grid(*size, 192)
    back = from_grid(to_grid(shape.astype(float), grid, nearest=False, fill=0), grid)
    assert back.shape == size
    assert back.dtype == np.float32
    assert dsc(back > 0.5, shape) > 0.98
    labels = to_grid(shape, grid, nearest=True, fill=False).astype(np.float32)
    assert dsc(from_grid(labels, grid) > 0.5, shape) > 0.98


def test_from_grid_cuts_the_padding_off():
    """Padding of another value must not leak into the slice's edge."""
    grid = fit_grid(20, 40, 32)
    square = np.full((32, 32, 2), -5.0, np.float32)
    square[grid.window] = (1.0, 3.0)
    back = from_grid(square, grid)
    assert back.shape == (20, 40, 2)
    np.testing.assert_allclose(back[..., 0], 1.0, atol=1e-6)
    np.testing.assert_allclose(back[..., 1], 3.0, atol=1e-6)


def test_wrong_shapes_are_refused():
    grid = fit_grid(20, 40, 32)
    with pytest.raises(ValueError, match=r"\(40, 20\).*\(20, 40\)"):
        to_grid(np.zeros((40, 20)), grid, nearest=True, fill=0)
    with pytest.raises(ValueError, match=r"\(31, 32\)"):
        from_grid(np.zeros((31, 32), np.float32), grid)


def test_hu_window_by_hand():
    image = np.array([[-2048, -1250, -500], [-250, 250, 3000]], np.int16)
    expected = [[0, 0, 0.5], [2 / 3, 1, 1]]
    np.testing.assert_allclose(normalize(image, "hu"), expected, rtol=1e-6)


def test_uint8_percentiles_by_hand():
    """0..100: the 1st percentile is 1, the 99th 99."""
    image = np.arange(101, dtype=np.uint8)[None]
    unit = normalize(image, "uint8")
    np.testing.assert_allclose(unit[0], np.clip((np.arange(101) - 1) / 98, 0, 1), rtol=1e-6)


def test_uint8_brightness_and_contrast_do_not_matter():
    image = np.random.default_rng(0).integers(0, 100, (40, 40)).astype(np.uint8)
    np.testing.assert_allclose(
        normalize(image, "uint8"), normalize(2 * image + 30, "uint8"), atol=1e-6
    )


@pytest.mark.parametrize(
    ("dtype", "intensity"), [(np.uint8, "hu"), (np.int16, "uint8"), (np.float32, "uint8")]
)
def test_values_that_do_not_suit_the_intensity_are_refused(dtype, intensity):
    with pytest.raises(ValueError, match=f"{np.dtype(dtype)}.*{intensity}"):
        normalize(np.arange(16).reshape(4, 4).astype(dtype), intensity)


@pytest.mark.parametrize(
    ("image", "intensity"),
    [
        (np.zeros((9, 9), np.uint8), "uint8"),
        (np.full((9, 9), 200, np.uint8), "uint8"),
        (np.full((9, 9), -1024, np.int16), "hu"),
        (np.arange(81).reshape(9, 9).astype(np.int16) + 400, "hu"),  # all above the window
    ],
)
def test_a_slice_without_contrast_is_refused_by_name(image, intensity):
    settings = Preprocessing(32, intensity, "none", 0)
    with pytest.raises(ValueError, match=r"slice-7.*no contrast"):
        prepare_slice(make_slice(image), settings)


def test_prepare_puts_everything_in_its_place():
    image = np.tile(np.linspace(0, 200, 20).astype(np.uint8), (40, 1))
    mask = np.zeros((40, 20), np.uint8)
    mask[10:20, 5:10] = 2
    lung = np.zeros((40, 20), np.uint8)
    lung[5:35] = 1
    settings = Preprocessing(32, "uint8", "file", 0)
    prepared = prepare_slice(make_slice(image, mask, lung), settings)
    assert (settings.channels, PLAIN.channels) == (2, 1)
    assert prepared.grid == Grid(40, 20, 32, 0, 8, 32, 16)
    assert (prepared.image.dtype, prepared.image.shape) == (np.float32, (32, 32, 2))
    assert (prepared.mask.dtype, prepared.mask.shape) == (np.int32, (32, 32))
    assert (prepared.weight.dtype, prepared.weight.shape) == (np.float32, (32, 32, 1))
    expected = np.zeros((32, 32))
    expected[8:16, 12:16] = 2
    np.testing.assert_array_equal(prepared.mask, expected)
    inside = np.zeros((32, 32), bool)
    inside[:, 8:24] = True
    np.testing.assert_array_equal(prepared.weight[..., 0], inside)
    np.testing.assert_array_equal(prepared.image[..., 1], inside & _rows(4, 28))
    assert (prepared.image[..., 0][~inside] == 0).all()
    row = prepared.image[16, 8:24, 0]  # a ramp from 0 to 1, symmetric about its middle
    np.testing.assert_allclose(row + row[::-1], 1.0, atol=0.02)
    assert (np.diff(row) > 0).all()


def _rows(first, last):
    return (np.arange(32) >= first)[:, None] & (np.arange(32) < last)[:, None]


def test_lung_dilation_counts_pixels_of_the_slice_itself():
    """One pixel of 64 with 4 pixels around it: 9 of 64 across, so 4 or 5 of 32."""
    image = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    lung = np.zeros((64, 64), np.uint8)
    lung[32, 32] = 1
    prepared = prepare_slice(make_slice(image, None, lung), Preprocessing(32, "uint8", "file", 4))
    assert prepared.image[..., 1].max(axis=0).sum() in (4, 5)


def test_an_unlabelled_slice_has_a_mask_of_zeros():
    image = np.random.default_rng(0).integers(0, 255, (33, 47)).astype(np.uint8)
    prepared = prepare_slice(make_slice(image), PLAIN)
    assert prepared.mask.shape == (32, 32)
    assert not prepared.mask.any()


def test_defects_of_a_slice_are_named():
    image = np.random.default_rng(0).integers(0, 255, (20, 20)).astype(np.uint8)
    with pytest.raises(ValueError, match=r"slice-7: mask is \(20, 19\).*\(20, 20\)"):
        prepare_slice(make_slice(image, np.zeros((20, 19), np.uint8)), PLAIN)
    with pytest.raises(ValueError, match=r"slice-7: lung mask is \(5, 5\)"):
        prepare_slice(make_slice(image, None, np.zeros((5, 5), np.uint8)), PLAIN)
    with pytest.raises(ValueError, match=r"slice-7: mask holds labels \[3, 9\]"):
        prepare_slice(
            make_slice(image, np.full((20, 20), 3, np.uint8) + 6 * np.eye(20, dtype=np.uint8)),
            PLAIN,
        )
    with pytest.raises(
        ValueError, match=r"slice-7: has no lung mask.*'file'.*'threshold' or 'none'"
    ):
        prepare_slice(make_slice(image), Preprocessing(32, "uint8", "file", 0))
    with pytest.raises(ValueError, match=r"slice-7: image is \(20, 20, 3\)"):
        prepare_slice(make_slice(np.zeros((20, 20, 3), np.uint8)), PLAIN)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 100),
        ("image_size", 0),
        ("intensity", "float"),
        ("lung_mask", "unet"),
        ("lung_dilation", -1),
    ],
)
def test_settings_that_make_no_sense_are_refused(field, value):
    good = {"image_size": 32, "intensity": "hu", "lung_mask": "none", "lung_dilation": 0}
    with pytest.raises(ValueError, match=field):
        Preprocessing(**{**good, field: value})
