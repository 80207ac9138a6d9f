"""Pictures and arrays that must be read, to the value, or refused in one line."""

import os

import numpy as np
import pytest
from PIL import Image

from input_pipeline.io.nifti import read_nifti
from input_pipeline.io.read import read_array, read_image, read_mask
from input_pipeline.io.scan import to_file_grid
from tests.input_pipeline.io.test_scan import CODES, SPACING, VOXELS, affine_of, save, stored

GREY = np.random.default_rng(0).integers(0, 256, (40, 30)).astype(np.uint8)
LABELS = np.repeat(np.arange(3, dtype=np.uint8), 4).reshape(3, 4)


def saved(path, array, mode=None, **kwargs):
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **kwargs)
    return path


def refused(path, read, *words):
    """The message of the error: one line, naming the file."""
    with pytest.raises(ValueError, match=path.name) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_grey_png_in_any_guise(tmp_path, mode):
    path = saved(tmp_path / "a.png", GREY, mode)
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, GREY)


def test_black_and_white_png(tmp_path):
    path = saved(tmp_path / "a.png", GREY > 100)
    np.testing.assert_array_equal(read_image(path), np.where(GREY > 100, 255, 0))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg(tmp_path, mode):
    smooth = np.add.outer(np.arange(40), 2 * np.arange(30)).astype(np.uint8)
    image = read_image(saved(tmp_path / "a.JPG", smooth, mode, quality=95))
    assert image.shape == (40, 30)
    assert np.abs(image.astype(int) - smooth).max() <= 4


def test_colours_and_transparency_are_refused(tmp_path):
    colour = np.stack([GREY, GREY, GREY], axis=-1)
    colour[3, 4] = (255, 0, 0)
    refused(saved(tmp_path / "arrow.png", colour), read_image, "colours", "8-bit grey")
    clear = np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)])
    clear[0, 0, 3] = 0
    refused(saved(tmp_path / "clear.png", clear), read_image, "transparent")


def tinted(tint):
    """Grey values whose channels differ, and their luminance."""
    channels = np.clip(GREY[..., None].astype(int) + tint, 0, 255).astype(np.uint8)
    return channels, np.rint(channels @ np.array([0.299, 0.587, 0.114]))


@pytest.mark.parametrize("tint", [(1, 0, -1), (0, 2, 0), (2, 0, 1), (0, 0, -2)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_tint_of_two_grey_values_is_grey(tmp_path, tint, mode):
    channels, luminance = tinted(tint)
    image = read_image(saved(tmp_path / "a.png", channels, mode))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, luminance)


def test_a_jpeg_tinted_by_its_compression_is_grey(tmp_path):
    smooth = np.add.outer(np.arange(40), 2 * np.arange(30))[..., None].astype(np.uint8)
    path = saved(tmp_path / "a.jpg", smooth + np.array([1, 1, 0], np.uint8), quality=95)
    channels = np.asarray(Image.open(path))
    assert 0 < np.ptp(channels, axis=-1).max() <= 2
    assert np.abs(read_image(path).astype(int) - channels[..., 1]).max() <= 1


@pytest.mark.parametrize("tint", [(3, 0, 0), (2, 0, -1), (0, -3, 0)])
def test_a_stronger_tint_is_refused(tmp_path, tint):
    refused(saved(tmp_path / "a.png", tinted(tint)[0]), read_image, "differ by up to 3 grey values")


def test_tinted_masks(tmp_path):
    """Black and white stay apart; class indices would change by a tint."""
    truth = GREY > 128
    channels = np.where(truth[..., None], (255, 253, 254), (0, 2, 1)).astype(np.uint8)
    path = saved(tmp_path / "m.png", channels)
    np.testing.assert_array_equal(read_mask(path, (0, 1)), truth)
    refused(path, lambda p: read_mask(p, (0, 1, 2)), "changes class indices")
    indices = np.where(truth[..., None], (1, 2, 1), (0, 0, 0)).astype(np.uint8)
    path = saved(tmp_path / "i.png", indices)
    for labels in ((0, 1), (0, 1, 2)):
        refused(path, lambda p, labels=labels: read_mask(p, labels), "changes class indices")
    equal = np.repeat(LABELS[..., None], 3, axis=-1)
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "e.png", equal), (0, 1, 2)), LABELS)


def test_sixteen_bits_are_refused(tmp_path):
    path = saved(tmp_path / "deep.png", GREY.astype(np.uint16) * 256)
    refused(path, read_image, "8-bit")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_pictures_are_refused(tmp_path, suffix, share):
    path = saved(tmp_path / f"short.{suffix}", GREY)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    message = refused(path, read_image)
    assert "truncated or damaged" in message or "not a PNG or JPEG" in message


def test_damaged_png_is_refused(tmp_path):
    path = saved(tmp_path / "bad.png", GREY)
    data = bytearray(path.read_bytes())
    data[60:80] = b"x" * 20
    path.write_bytes(data)
    refused(path, read_image, "damaged")


def test_empty_and_foreign_files_are_refused(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    refused(tmp_path / "empty.png", read_image, "empty")
    (tmp_path / "text.png").write_text("hello")
    refused(tmp_path / "text.png", read_image, "not a PNG or JPEG")
    refused(saved(tmp_path / "a.gif", GREY), read_image, "not a PNG or JPEG")


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    for pixels in (30, 60):  # Pillow warns above the limit and raises above twice the limit
        path = saved(tmp_path / "large.png", np.zeros((pixels, pixels), np.uint8))
        refused(path, read_image, "too large")


def test_system_errors_keep_the_file_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_image(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        read_image(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_locked_file_keeps_its_name(tmp_path):
    path = saved(tmp_path / "locked.png", GREY)
    path.chmod(0)
    with pytest.raises(PermissionError, match=r"locked\.png"):
        read_image(path)


def test_mask_of_class_indices(tmp_path):
    path = saved(tmp_path / "m.png", LABELS)
    mask = read_mask(path, (0, 1, 2))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, LABELS)
    refused(path, lambda p: read_mask(p, (0, 1)), "labels 2,", "0, 1 (or 0 and 255)")


def test_palette_indices_count_and_palette_colours_do_not(tmp_path):
    picture = Image.fromarray(LABELS).convert("L")
    picture.putpalette([9, 9, 9, 255, 0, 0, 0, 0, 7] + [0] * 759)
    assert picture.mode == "P"
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", (0, 1, 2)), LABELS)


@pytest.mark.parametrize("high", [1, 255])
def test_binary_masks(tmp_path, high):
    truth = GREY > 128
    path = saved(tmp_path / "m.png", truth.astype(np.uint8) * high)
    np.testing.assert_array_equal(read_mask(path, (0, 1)), truth)
    one_bit = saved(tmp_path / "bit.png", truth)
    np.testing.assert_array_equal(read_mask(one_bit, (0, 1)), truth)


def test_an_empty_mask_is_a_mask(tmp_path):
    path = saved(tmp_path / "m.png", np.zeros((4, 4), np.uint8))
    assert not read_mask(path, (0, 1)).any()


def test_255_is_stray_among_three_classes(tmp_path):
    path = saved(tmp_path / "m.png", np.array([[0, 255]], np.uint8))
    refused(path, lambda p: read_mask(p, (0, 1, 2)), "labels 255,", "0, 1, 2")


def test_stray_labels_are_listed_up_to_eight(tmp_path):
    path = saved(tmp_path / "m.png", np.array([[0, 1, 7, 3]], np.uint8))
    refused(path, lambda p: read_mask(p, (0, 1, 2)), "labels 3, 7,")
    path = saved(tmp_path / "many.png", np.arange(50, dtype=np.uint8)[None])
    refused(path, lambda p: read_mask(p, (0, 1, 2)), "labels 3, 4, 5, 6, 7, 8, 9, 10, ...")


def test_jpeg_mask_is_refused_once_it_is_blurred(tmp_path):
    path = saved(tmp_path / "m.jpg", (GREY > 128).astype(np.uint8) * 255)
    refused(path, lambda p: read_mask(p, (0, 1)), "PNG of class indices")


def sizes(code):
    """Millimetres along the axes of an array whose axes have these directions."""
    return tuple(np.linalg.norm(affine_of(code)[:3, :3], axis=0))


@pytest.mark.parametrize("code", ["SPL", *CODES[::5]])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_an_array_is_the_scan_of_the_equivalent_nifti(tmp_path, code, dtype):
    array = stored(VOXELS, code).astype(dtype) + dtype(0.5)
    scan = read_array(array, intensity="hu", spacing=sizes(code), axes=code)
    affine = affine_of(code, (0.0, 0.0, 0.0))
    expected = read_nifti(save(tmp_path / "a.nii", array, affine), intensity="hu")
    np.testing.assert_array_equal(scan.voxels, expected.voxels)
    assert scan.voxels.dtype == expected.voxels.dtype
    np.testing.assert_allclose(scan.affine, expected.affine, rtol=1e-6)
    np.testing.assert_allclose(scan.spacing, SPACING, rtol=1e-6)
    for field in ("intensity", "axes", "flips", "file_shape"):
        assert getattr(scan, field) == getattr(expected, field), field
    assert scan.notes == ()  # its axes are stated; those of a plain scaling are a default
    np.testing.assert_array_equal(to_file_grid(scan.voxels, scan), array)


def test_an_array_of_axes_spl_is_taken_as_it_is():
    scan = read_array(VOXELS, intensity="hu", spacing=SPACING, axes="SPL")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.spacing, SPACING)
    assert (scan.axes, scan.flips) == ((0, 1, 2), (False, False, False))
    assert (scan.id, scan.notes, scan.header) == ("array", (), None)
    before = VOXELS.copy()
    scan.voxels[0] = 0
    np.testing.assert_array_equal(VOXELS, before)  # the caller's array is not shared
    grey = read_array(np.abs(VOXELS) % 256, intensity="uint8", spacing=list(SPACING), axes="SPL")
    assert grey.voxels.dtype == np.uint8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spacing": None}, r"spacing None and axes 'SPL'.*axes='SPL'"),
        ({"axes": None}, r"axes None.*spacing=\(5, 0\.7, 0\.7\)"),
        ({"spacing": (5.0, 0.7)}, "expected three sizes"),
        ({"axes": "SPX"}, "'SPX', expected one each"),
        ({"axes": "SP"}, "'SP', expected one each"),
        ({"spacing": (0.0, 0.7, 0.7)}, "voxels of 0 x 0.7 x 0.7 mm"),
        ({"array": VOXELS[0]}, r"array is \(5, 6\) of int16, expected numbers as \[i, j, k\]"),
        ({"array": VOXELS[None]}, r"array is \(1, 4, 5, 6\)"),
        ({"array": VOXELS[:0]}, r"array is \(0, 5, 6\)"),
        ({"array": VOXELS.astype(complex)}, "complex128"),
        ({"array": VOXELS > 0}, "bool"),
        ({"array": np.full((3, 4, 5), np.nan)}, "NaN"),
        ({"array": VOXELS * np.float32(1000)}, "-32768 to 32767"),
        ({"array": VOXELS[:, :1]}, "coronal or sagittal"),
        ({"intensity": "uint8"}, "0 to 255"),
        ({"intensity": "HU"}, "'HU'"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(change, words):
    options = {"array": VOXELS, "intensity": "hu", "spacing": SPACING, "axes": "SPL"} | change
    with pytest.raises(ValueError, match=words) as caught:
        read_array(options.pop("array"), **options)
    assert "\n" not in str(caught.value)
