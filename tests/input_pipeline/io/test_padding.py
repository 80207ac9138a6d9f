"""A constant outside of a scan is air, whatever its value; the same constant inside it is not."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from input_pipeline.io.padding import clear_padding
from input_pipeline.io.read import read_npy, read_scan
from tests.input_pipeline.io.test_dicom import above, dataset, write
from tests.support.phantom_chest import ellipsoid

SHAPE = (6, 64, 72)


def patient(noise=12.0, circle=True):
    """HU float of a body with two lungs in air, and what lies outside the scanner's circle."""
    hu = np.full(SHAPE, -1000.0)
    hu[ellipsoid((2.5, 33, 36), (90, 24, 30), SHAPE)] = 40
    for column in (24, 48):
        hu[ellipsoid((2.5, 33, column), (90, 16, 8), SHAPE)] = -850
    hu += np.random.default_rng(0).normal(0, noise, SHAPE)
    outside = ~ellipsoid((2.5, 31.5, 35.5), (1e6, 32, 36), SHAPE)
    return np.rint(hu), outside if circle else np.zeros(SHAPE, bool)


def test_any_constant_outside_the_circle_becomes_air():
    hu, outside = patient()
    for value in (-32768, -3024, -2000, -850, 0, 40, 1000, 3071, 32767):
        padded = np.where(outside, value, hu).astype(np.int16)
        (note,) = clear_padding(padded)
        np.testing.assert_array_equal(padded, np.where(outside, -1024, hu))
        assert f"{outside.mean():.1%} of the voxels" in note
        assert f"the value {value}:" in note


def test_air_stays_as_it_is():
    hu, outside = patient()
    for value in (-1024, -1000, -950):
        padded = np.where(outside, value, hu).astype(np.int16)
        before = padded.copy()
        assert clear_padding(padded) == []
        np.testing.assert_array_equal(padded, before)


def test_the_value_inside_the_body_stays():
    """Zero is water: voxels of that value that do not touch the edge are tissue."""
    hu, outside = patient()
    hu[:, 30:36, 34:38] = 0
    padded = np.where(outside, 0, hu).astype(np.int16)
    assert clear_padding(padded)
    assert (padded[:, 30:36, 34:38] == 0).all()


@pytest.mark.parametrize("axes", [(1, 2), (0, 1), (0, 2)])
@pytest.mark.parametrize("value", [-3024, 0, 3071])
def test_wedges_of_a_turned_volume_become_air(axes, value):
    hu, _ = patient(circle=False)
    large = np.repeat(hu, 4, axis=0)
    turned = ndimage.rotate(large, 7, axes=axes, reshape=False, order=1, cval=value)
    wedges = ndimage.rotate(np.zeros(large.shape), 7, axes=axes, reshape=False, order=0, cval=1) > 0
    clear = turned.astype(np.float32)
    assert len(clear_padding(clear)) == 1
    assert (clear[wedges & (turned == value)] == -1024).all()
    kept = ~ndimage.binary_dilation(wedges, np.ones((1, 3, 3)), iterations=2)
    np.testing.assert_array_equal(clear[kept], turned[kept].astype(np.float32))


def test_two_paddings_give_two_notes():
    hu, outside = patient()
    padded = np.pad(np.where(outside, -2000, hu), ((0, 0), (8, 8), (8, 8)), constant_values=0)
    padded = np.concatenate([padded, np.where(padded == 0, -2000, padded)]).astype(np.int16)
    assert len(clear_padding(padded)) == 2
    assert padded.min() >= -1060
    assert (padded[:, :8] == -1024).all()


def noise_free_body():
    hu, _ = patient(noise=0)
    return hu[:, 20:46, 20:52]  # every corner is tissue of 40 HU


def metal_at_a_corner():
    hu, _ = patient()
    hu[2:4, :14, :14] = 3071
    return hu


def air_in_other_units():
    hu, outside = patient()
    return np.where(outside, 0, hu + 1024)  # the outside is the darkest value: no HU


def labels():
    return (patient(noise=0)[0] < -840) & (patient(noise=0)[0] > -900)


def soft_tissue():
    return np.clip(patient()[0], -160, 240)


@pytest.mark.parametrize(
    "make", [noise_free_body, metal_at_a_corner, air_in_other_units, labels, soft_tissue]
)
def test_what_is_no_padding(make):
    values = make().astype(np.int16)
    before = values.copy()
    assert clear_padding(values) == []
    np.testing.assert_array_equal(values, before)


def dicom(folder, stored, **tags):
    """A series of stored values, which are HU plus 1024, with further tags."""
    signed = stored.min() < 0
    for index, values in enumerate(stored):
        made = dataset(np.zeros(values.shape), above(index))
        made.PixelRepresentation = int(signed)
        made.PixelData = values.astype("<i2" if signed else "<u2").tobytes()
        for name, value in tags.items():
            setattr(made, name, value)
        write(made, folder / f"{index}.dcm")
    return folder


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(("stored", "value"), [(4095, 3071), (63536, 62512), (-2000, -3024)])
def test_dicom_padding_named_or_not(tmp_path, stored, value, named):
    hu, outside = patient()
    values = np.where(outside, stored, np.maximum(hu + 1024, 0))
    scan = read_scan(dicom(tmp_path, values, **{"PixelPaddingValue": stored} if named else {}))
    np.testing.assert_array_equal(scan.voxels, np.where(outside, -1024, np.maximum(hu, -1024)))
    assert f"the value {value}:" in scan.notes[-1]


def test_a_range_of_padding_that_dicom_names(tmp_path):
    hu, outside = patient()
    many = np.random.default_rng(1).integers(60000, 63537, SHAPE)
    values = np.where(outside, many, np.maximum(hu + 1024, 0))
    tags = {"PixelPaddingValue": 63536, "PixelPaddingRangeLimit": 60000}
    scan = read_scan(dicom(tmp_path, values, **tags))
    np.testing.assert_array_equal(scan.voxels, np.where(outside, -1024, np.maximum(hu, -1024)))


def test_a_range_that_covers_tissue_is_not_believed(tmp_path):
    hu, outside = patient()
    values = np.where(outside, 0, np.maximum(hu + 1024, 0))
    tags = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 1100}
    scan = read_scan(dicom(tmp_path, values, **tags))
    np.testing.assert_array_equal(scan.voxels, values - 1024)


def test_nifti_npy_and_notes_about_values(tmp_path):
    hu, outside = patient()
    nib.save(nib.Nifti1Image(np.where(outside, 63536, hu).astype(np.int32).T, np.eye(4)),
             tmp_path / "a.nii")  # fmt: skip
    scan = read_scan(tmp_path / "a.nii", intensity="hu")
    assert scan.voxels.dtype == np.int16
    assert scan.voxels.max() < 200
    assert "the value 63536:" in scan.notes[-1]
    offset = np.where(outside, -2000, hu + 1100).astype(np.int16)
    np.save(tmp_path / "b.npy", offset)
    first, second = read_npy(tmp_path / "b.npy", intensity="hu").notes
    assert "the value -2000:" in first
    assert "plus an offset" in second  # which the padding would have hidden


def test_a_value_out_of_range_inside_the_scan_is_refused(tmp_path):
    hu, outside = patient()
    values = np.where(outside, 63536, hu).astype(np.int32)
    values[2, 30, 30] = 40000
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match="40000, expected -32768 to 32767"):
        read_npy(tmp_path / "a.npy", intensity="hu")
