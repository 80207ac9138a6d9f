"""What is said of a chest whose values are not what was stated; a sound one raises no doubt."""

import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from input_pipeline.inference_slices import read_hu, read_lung_labels
from input_pipeline.io.doubts import value_doubts
from input_pipeline.io.read import read_scan
from input_pipeline.preprocess import unwindowed, windowed
from tests.input_pipeline.io.test_dicom import above, dataset, write
from tests.support.phantom_chest import SPACING, chest

HU = chest().voxels
GREY = windowed(HU)
ROWS, COLUMNS = HU.shape[1:]
ROW, COLUMN = np.ogrid[:ROWS, :COLUMNS]
OUTSIDE = ((ROW - ROWS / 2) / (ROWS / 2)) ** 2 + ((COLUMN - COLUMNS / 2) / (COLUMNS / 2)) ** 2 > 1


def padded(values, padding):
    """The voxels outside the scanner's circle have one value."""
    return np.where(OUTSIDE, padding, values)


def window(low, high):
    return np.clip((HU - float(low)) / (high - low) * 255, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "values",
    [HU, HU[20:24], HU.astype(np.float32) + 0.25, np.maximum(HU, -1000), HU[:, 5:86, 10:120]]
    + [padded(HU, padding) for padding in (-2000, -2048, -3024, -1024, 0, 3071)],
)
def test_a_chest_in_hu_has_no_doubt(values):
    assert value_doubts(values, "hu") == []


@pytest.mark.parametrize("values", [GREY, padded(GREY, 0), padded(GREY, 255)])
def test_a_windowed_chest_has_no_doubt(values):
    assert value_doubts(values.astype(np.uint8), "uint8") == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (HU + 1024, "plus an offset of about 1024; subtract it"),
        (np.maximum(HU + 1024, 0), "plus an offset of about 1024; subtract it"),
        (HU + 1000, "plus an offset of about 1024"),
        (HU.astype(np.float32) + 1024.5, "plus an offset of about 1024"),
        (padded(HU + 1024, -2000), "plus an offset of about 1024"),
        (padded(HU + 1024, -1000), "plus an offset of about 1024"),
        (padded(HU + 1024, 0), "plus an offset of about 1024"),
        (HU + 1500, "plus an offset of about 1500"),
        (HU - 1024, "minus an offset of about 1024; add it to"),
        (padded(HU - 1024, -3072), "minus an offset of about 1024"),
        (HU - 2048, "minus an offset of about 2048"),
        (HU / 1000, "air lies near -1 and soft tissue near 0.04"),
        (HU * 2, "multiply them by 0.5"),
        ((HU - HU.mean()) / HU.std(), "as in a normalised scan"),
        (windowed(HU) / np.float32(255), "all values lie in 0..1"),
        (windowed(HU).astype(np.int16), "all values lie in 0..255, as in a scan windowed"),
        (window(-160, 240).astype(np.int16), "all values lie in 0..255"),
        (np.clip(HU + 500, 200, 900), "no value is below 200"),
        (-HU, "invert them"),
        (HU.max() - HU, "invert them"),
        (255 - windowed(HU).astype(np.int16), "invert them"),
        (np.zeros_like(HU), "all voxels are 0"),
    ],
)
def test_what_is_not_hu_is_said_with_its_remedy(values, words):
    (doubt,) = value_doubts(values, "hu")
    assert words in doubt and "\n" not in doubt and not doubt.endswith(".")
    for axes in ((1, 2, 0), (2, 1, 0)):  # in any order of the axes where there is no place to see
        if "invert" not in words:
            assert value_doubts(values.transpose(axes), "hu") == [doubt]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (255 - windowed(HU), "invert them: 255 minus each value"),
        (padded(255 - windowed(HU), 255), "invert them"),
        (window(-160, 240), "may not be -1250..250 HU"),
        (window(-1024, 3071), "may not be -1250..250 HU"),
        ((HU > 0).astype(np.uint8), "as in a label map"),
        (np.full(HU.shape, 255, np.uint8), "all voxels are 255"),
    ],
)
def test_what_is_not_the_window_is_said_with_its_remedy(values, words):
    (doubt,) = value_doubts(values, "uint8")
    assert words in doubt


def save(path, values):
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    affine[:3, 3] = 1
    nib.save(nib.Nifti1Image(values.T, affine), path)
    return path


@pytest.mark.parametrize(
    ("kind", "change", "notes"),
    [
        ("bytes", lambda grey: grey, ()),
        ("floats", lambda grey: grey.astype(np.float32), ()),
        ("rounded", lambda grey: grey + np.float32(0.3), ("had fractions and were rounded",)),
        ("fractions", lambda grey: grey / np.float32(255), ("read as fractions of the window",)),
        ("doubles", lambda grey: grey / 255, ("read as fractions of the window",)),
    ],
)
def test_windowed_scans_are_read_as_bytes_or_fractions(tmp_path, kind, change, notes):
    grey = np.clip(windowed(HU), 1, 254)
    path = save(tmp_path / "a.nii.gz", change(grey))
    scan = read_hu(path, intensity="windowed", series=None, axes=None)
    np.testing.assert_array_equal(scan.voxels, unwindowed(grey), kind)
    assert np.abs(scan.voxels - np.clip(HU, -1250, 250)).max() <= 6
    assert len(scan.notes) == len(notes)
    assert all(word in note for word, note in zip(notes, scan.notes, strict=True))


def test_hu_stated_as_windowed_is_refused_with_the_flag(tmp_path):
    path = save(tmp_path / "a.nii.gz", HU)
    with pytest.raises(ValueError, match=r"expected 0 to 255.*state --intensity hu"):
        read_hu(path, intensity="windowed", series=None, axes=None)


def test_dicom_states_hu_itself_so_no_intensity_is_proposed(tmp_path):
    """Its remedy is another export, as the command refuses an intensity for DICOM."""
    folder = tmp_path / "case"
    folder.mkdir()
    for height, values in enumerate(GREY[20:24]):
        write(dataset(values.astype(np.int16), above(height)), folder / f"{height}.dcm")
    notes = read_scan(folder).notes
    (doubt,) = (note for note in notes if "0..255" in note)
    assert "export the original series" in doubt and "--intensity" not in doubt
    with pytest.raises(ValueError, match="leave --intensity out"):
        read_scan(tmp_path / "case", intensity="uint8")


def test_no_copy_of_the_volume_is_made():
    large = np.tile(HU[:16] + np.int16(1024), (8, 4, 4))
    tracemalloc.start()
    (doubt,) = value_doubts(large, "hu")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "1024" in doubt
    assert peak < large.nbytes / 2


def test_axes_stated_for_a_scan_count_for_its_lung_mask(tmp_path):
    for name, array in (("scan", HU), ("lung", chest().sides)):
        nib.save(nib.Nifti1Image(array.T, np.eye(4)), tmp_path / f"{name}.nii.gz")
    scan = read_hu(tmp_path / "scan.nii.gz", intensity="hu", series=None, axes="LPS")
    np.testing.assert_array_equal(scan.voxels, HU)
    lung = read_lung_labels(tmp_path / "lung.nii.gz", scan)
    np.testing.assert_array_equal(lung, chest().sides)
