"""Images of nibabel are read as their files are."""

import nibabel as nib
import numpy as np
import pytest

from input_pipeline.io.nifti import read_nibabel, read_nifti, write_nifti_mask
from tests.input_pipeline.io.test_nifti import AFFINE, FILE, edited, scans_equal
from tests.input_pipeline.io.test_scan import (
    CODES,
    MASK,
    VOXELS,
    affine_of,
    save,
    stored,
)


@pytest.mark.parametrize("code", CODES[::7])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_an_image_of_nibabel_is_the_scan_of_its_file(tmp_path, code, kind):
    image = kind(stored(VOXELS, code), affine_of(code))
    nib.save(image, tmp_path / "a.nii.gz")
    expected = read_nifti(tmp_path / "a.nii.gz", intensity="hu")
    scans_equal(read_nibabel(nib.load(tmp_path / "a.nii.gz"), intensity="hu"), expected)
    in_memory = kind(stored(VOXELS, code), affine_of(code))
    scan = read_nibabel(in_memory, intensity="hu")
    scans_equal(scan, expected, "image")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    for name, source in (("ours.nii", scan), ("theirs.nii", expected)):
        write_nifti_mask(tmp_path / name, MASK, source)
    assert (tmp_path / "ours.nii").read_bytes() == (tmp_path / "theirs.nii").read_bytes()


@pytest.mark.parametrize(
    ("slope", "inter"), [(1, -1024), (2, 0), (0.5, -3.25), (0.1, 0.3), (0, 9), (np.nan, 9)]
)
def test_an_image_of_nibabel_is_scaled_as_its_file_is(tmp_path, slope, inter):
    path = edited(tmp_path / "a.nii", scl_slope=slope, scl_inter=inter)
    scan = read_nibabel(nib.load(path), intensity="hu")
    scans_equal(scan, read_nifti(path, intensity="hu"))
    values = scan.voxels.transpose(2, 1, 0)[::-1, ::-1]
    np.testing.assert_allclose(values, nib.load(path).get_fdata(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 4, 1), (6, 5, 4, 1, 1)])
def test_one_slice_and_one_frame_of_nibabel(tmp_path, shape):
    path = save(tmp_path / "a.nii", FILE.ravel()[: np.prod(shape)].reshape(shape), AFFINE)
    scan = read_nibabel(nib.load(path), intensity="hu")
    scans_equal(scan, read_nifti(path, intensity="hu"))
    assert scan.file_shape == shape


def test_a_note_of_the_header_is_that_of_the_file(tmp_path):
    path = edited(tmp_path / "a.nii", pixdim=[1, 0.5, 0.75, 5, 0, 0, 0, 0])
    scan = read_nibabel(nib.load(path), intensity="hu")
    assert len(scan.notes) == 1
    scans_equal(scan, read_nifti(path, intensity="hu"))


def test_an_image_of_nibabel_without_orientation_needs_axes(tmp_path):
    path = edited(tmp_path / "a.nii", sform_code=0, qform_code=0)
    for image in (nib.load(path), nib.Nifti1Image(FILE, None)):
        with pytest.raises(ValueError, match=r"left and right are unknown.*'LPS'"):
            read_nibabel(image, intensity="hu")
        with pytest.raises(ValueError, match="expected one each"):
            read_nibabel(image, intensity="hu", axes="LPX")
    for axes in ("RAS", "LPS", "IPR"):
        expected = read_nifti(path, intensity="hu", axes=axes)
        scans_equal(read_nibabel(nib.load(path), intensity="hu", axes=axes), expected)
    scan = read_nibabel(nib.Nifti1Image(FILE, None), intensity="hu", axes="RAS")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.spacing == (1, 1, 1)
    # Where the image states its orientation, that counts.
    scan = read_nibabel(nib.Nifti1Image(FILE, AFFINE), intensity="hu", axes="LPS")
    np.testing.assert_array_equal(scan.voxels, VOXELS)


def test_another_format_of_nibabel():
    data = nib.MGHImage(stored(VOXELS, "LIP"), affine_of("LIP")).to_bytes()
    scan = read_nibabel(nib.MGHImage.from_bytes(data), intensity="hu")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.affine, affine_of("LIP"), atol=1e-4)
    np.testing.assert_allclose(scan.spacing, (2.5, 0.75, 0.5), rtol=1e-6)


def test_images_of_nibabel_that_cannot_be_used(tmp_path):
    colour = np.zeros(FILE.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for values, word in (
        (np.stack([FILE, FILE], axis=-1), r"\(6, 5, 4, 2\).*one frame"),
        (FILE.astype(np.complex64), "complex64"),
        (colour, "grey values"),
        (np.full(FILE.shape, np.nan, np.float32), "NaN"),
        (FILE.astype(np.float32) * 1000, "-32768 to 32767"),
        (FILE[:, :1], "coronal or sagittal"),
        (FILE[0, 0], r"\(4,\).*2 or 3 axes"),
    ):
        image = nib.Nifti1Image(values, AFFINE)
        with pytest.raises(ValueError, match=f"^image: .*{word}"):
            read_nibabel(image, intensity="hu")
    with pytest.raises(ValueError, match="0 to 255"):
        read_nibabel(nib.Nifti1Image(FILE, AFFINE), intensity="uint8")
    path = save(tmp_path / "a.nii.gz", FILE, AFFINE)
    with pytest.raises(ValueError, match=r"a\.nii\.gz: .*0 to 255"):
        read_nibabel(nib.load(path), intensity="uint8")
