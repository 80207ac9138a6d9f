"""Headers of NIfTI files: units, geometry, orientation, and what is wrong in them."""

import nibabel as nib
import numpy as np
import pytest

from input_pipeline.io.nifti import read_nibabel, read_nifti, write_nifti_mask
from tests.input_pipeline.io.test_nifti import AFFINE, FILE, edited, scans_equal
from tests.input_pipeline.io.test_scan import (
    MASK,
    VOXELS,
    affine_of,
    refused,
    save,
    stored,
)


def test_units_become_millimetres(tmp_path):
    for unit, factor in ((0, 1.0), (2, 1.0), (1, 1000.0), (3, 0.001)):
        affine = np.diag([0.5, 0.75, 2.5, factor]) / factor
        image = nib.Nifti1Image(FILE, affine)
        image.header["xyzt_units"] = unit
        nib.save(image, tmp_path / "a.nii")
        scan = read_nifti(tmp_path / "a.nii", intensity="hu")
        np.testing.assert_allclose(scan.spacing, (2.5, 0.75, 0.5), rtol=1e-6)
        np.testing.assert_allclose(scan.affine, affine, rtol=1e-6)


@pytest.mark.parametrize("unit", [1, 3])
def test_a_unit_that_makes_no_sense_counts_as_mm(tmp_path, unit):
    image = nib.Nifti1Image(FILE, affine_of("RAS") * [0.002, 0.002, 0.002, 1])
    image.header["xyzt_units"] = unit
    nib.save(image, tmp_path / "tiny.nii")  # neither as micrometres nor as mm
    if unit == 3:
        refused(read_nifti, tmp_path / "tiny.nii", "mm, expected 0.01", intensity="hu")
    path = edited(tmp_path / "b.nii", xyzt_units=unit)
    scan = read_nifti(path, intensity="hu")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.spacing, (2.5, 0.75, 0.5))
    (note,) = scan.notes
    assert "0.5 x 0.75 x 2.5 mm is used" in note and "set the unit to mm" in note
    write_nifti_mask(tmp_path / "m.nii", MASK, scan)
    assert nib.load(tmp_path / "m.nii").header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan, np.inf])
def test_voxel_sizes_that_are_none_give_way_to_the_sform(tmp_path, size):
    sizes = {"pixdim": [1, 0.5, size, 2.5, 0, 0, 0, 0]}
    for codes in ({}, {"qform_code": 1}):
        path = edited(tmp_path / "a.nii", **sizes, **codes)
        scan = read_nifti(path, intensity="hu")
        np.testing.assert_array_equal(scan.voxels, VOXELS)
        np.testing.assert_allclose(scan.spacing, (2.5, 0.75, 0.5))
        (note,) = scan.notes
        assert f"0.5 x {size:g} x 2.5 disagree with its sform 0.5 x 0.75 x 2.5" in note
        write_nifti_mask(tmp_path / "m.nii", MASK, scan)
        mask = nib.load(tmp_path / "m.nii")
        np.testing.assert_allclose(mask.header.get_sform(), AFFINE)
        np.testing.assert_allclose(mask.header.get_zooms(), (0.5, 0.75, 2.5))
    path = edited(tmp_path / "q.nii", **sizes, sform_code=0, qform_code=1)
    refused(read_nifti, path, "pixdim", "again", intensity="hu")
    path = edited(tmp_path / "n.nii", **sizes, sform_code=0)
    refused(read_nifti, path, "set them in the header", intensity="hu", axes="RAS")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"quatern_b": 3.0}, "qform is damaged (w2 should be positive"),
        ({"quatern_b": np.nan}, "qform is damaged"),
        ({"qoffset_x": np.inf}, "qform is damaged (it holds NaN or infinity)"),
        ({"pixdim": [5, 0.5, 0.75, 2.5, 0, 0, 0, 0]}, "qform is damaged (qfac"),
        ({"pixdim": [np.nan, 0.5, 0.75, 2.5, 0, 0, 0, 0]}, "qform is damaged (qfac"),
    ],
)
def test_a_damaged_qform_gives_way_to_the_sform(tmp_path, fields, word):
    path = edited(tmp_path / "a.nii", qform_code=1, **fields)
    scan = read_nifti(path, intensity="hu")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.affine, AFFINE)
    (note,) = scan.notes
    assert word in note and "sform is used" in note
    write_nifti_mask(tmp_path / "m.nii", MASK, scan)
    np.testing.assert_allclose(nib.load(tmp_path / "m.nii").affine, AFFINE)
    path = edited(tmp_path / "b.nii", sform_code=0, qform_code=1, **fields)
    refused(read_nifti, path, "damaged header", intensity="hu")


def test_qfac_of_0_counts_as_1(tmp_path):
    """As the NIfTI standard says; with 1 the third axis points as the quaternion says."""
    for code in ("RAS", "LPS", "LAS"):
        image = nib.Nifti1Image(stored(VOXELS, code), None)
        image.set_qform(affine_of(code), 1)
        data = bytearray(image.to_bytes())
        header = nib.Nifti1Header(bytes(data[:348]), check=False)
        assert header["pixdim"][0] == (-1 if code == "LAS" else 1)
        header["pixdim"][0] = 0
        data[:348] = header.binaryblock
        (tmp_path / "a.nii").write_bytes(data)
        scan = read_nifti(tmp_path / "a.nii", intensity="hu")
        expected = VOXELS[::-1] if code == "LAS" else VOXELS
        np.testing.assert_array_equal(scan.voxels, expected)
        (note,) = scan.notes
        assert "qfac (pixdim[0]) is 0" in note


@pytest.mark.parametrize("row", [[0, 0, 0, 0], [np.nan, 0, 0, 0]])
def test_a_damaged_sform_gives_way_to_a_valid_qform(tmp_path, row):
    image = nib.Nifti1Image(stored(VOXELS, "LPS"), None)
    image.set_qform(affine_of("LPS"), 1)
    image.set_sform(affine_of("LPS"), 1)
    data = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    header["srow_x"] = row
    data[:348] = header.binaryblock
    (tmp_path / "a.nii").write_bytes(data)
    scan = read_nifti(tmp_path / "a.nii", intensity="hu")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert "its qform is used" in scan.notes[0]
    write_nifti_mask(tmp_path / "m.nii", MASK, scan)
    mask = nib.load(tmp_path / "m.nii")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), stored(MASK, "LPS"))
    np.testing.assert_allclose(mask.affine, affine_of("LPS"))
    assert mask.header["sform_code"] == 0


DEFAULTS = {
    "identity": np.eye(4),
    "of SimpleITK": np.diag([-1.0, -1, 1, 1]),
    "scaling": np.diag([0.5, 0.75, 2.5, 1]),
    "permuted": np.eye(4)[[2, 1, 0, 3]],
}


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_a_default_orientation_is_said_and_axes_override_it(tmp_path, name, form):
    affine = DEFAULTS[name]
    image = nib.Nifti1Image(FILE, None)
    image.header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    (image.set_sform if form == "sform" else image.set_qform)(affine, 1)
    path = tmp_path / "a.nii"
    nib.save(image, path)
    own = "".join(nib.aff2axcodes(affine))
    plain, again = read_nifti(path, intensity="hu"), read_nifti(path, intensity="hu", axes=own)
    np.testing.assert_array_equal(plain.voxels, again.voxels)
    stated = read_nifti(path, intensity="hu", axes="LPS")
    scans_equal(read_nibabel(nib.load(path), intensity="hu", axes="LPS"), stated)
    if name == "permuted":  # a program that writes this has looked at the axes
        assert plain.notes == () and "point to SAR by its header" in stated.notes[0]
        np.testing.assert_array_equal(stated.voxels, plain.voxels)
        return
    (note,) = plain.notes
    assert "default" in note and "--axes LPS" in note
    assert (stated.notes, stated.stated_axes, plain.stated_axes) == ((), "LPS", None)
    np.testing.assert_array_equal(stated.voxels, FILE.transpose(2, 1, 0))
    np.testing.assert_allclose(stated.spacing, np.linalg.norm(affine[:3, :3], axis=0)[::-1])
    write_nifti_mask(tmp_path / "m.nii", MASK, stated)
    mask = nib.load(tmp_path / "m.nii")  # where the file says that it is
    np.testing.assert_array_equal(np.asarray(mask.dataobj), MASK.transpose(2, 1, 0))
    np.testing.assert_allclose(mask.affine, affine)


def test_an_orientation_that_is_no_default_has_no_note(tmp_path):
    turned = affine_of("RAS", (0, 0, 0))
    turned[0, 1] = 0.01
    shifted = np.eye(4)
    shifted[2, 3] = -1
    for affine in (AFFINE, affine_of("LPS", (0, 0, 0)), turned, shifted):
        assert read_nifti(save(tmp_path / "a.nii", FILE, affine), intensity="hu").notes == ()
    path = save(tmp_path / "a.nii", FILE, affine_of("LPS", (0, 0, 0)))
    assert read_nifti(path, intensity="hu", axes="LPS").notes == ()
    (note,) = read_nifti(path, intensity="hu", axes="RAS").notes
    assert "point to LPS by its header, which is used, not --axes RAS" in note


def test_geometry_that_makes_no_sense_is_refused(tmp_path):
    for fields, word in (
        ({"srow_x": [0, 0, 0, 0]}, "0 x 0.75 x 2.5 mm"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "NaN"),
        ({"srow_y": [0.5, 0.1, 0, 0]}, "right angles"),
        ({"srow_x": [1e9, 0, 0, 0]}, "1e+09"),
        ({"sform_code": 77}, "77"),
        ({"qform_code": -1}, "-1"),
        ({"xyzt_units": 5}, "unit 5"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 3.0}, "damaged"),
        ({"scl_slope": np.inf}, "damaged"),
        ({"bitpix": 32}, "32 bits"),
        ({"vox_offset": 100}, "byte 100"),
        ({"vox_offset": np.nan}, "byte nan"),
        ({"datatype": 999}, "damaged"),
        ({"dim": [3, -6, 5, 4, 1, 1, 1, 1]}, "shape"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "holds at most"),
        ({"dim": [1, 120, 1, 1, 1, 1, 1, 1]}, "2 or 3 axes"),
    ):
        refused(read_nifti, edited(tmp_path / "a.nii", **fields), word, intensity="hu")


def test_a_file_without_orientation_needs_a_word(tmp_path):
    path = tmp_path / "a.nii"
    edited(path, sform_code=0, qform_code=0)
    refused(read_nifti, path, "left and right are unknown", "LPS", intensity="hu")
    scan = read_nifti(path, intensity="hu", axes="RAS")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.spacing, (2.5, 0.75, 0.5))
    upright = read_nifti(path, intensity="hu", axes="LPS")
    np.testing.assert_array_equal(upright.voxels, FILE.transpose(2, 1, 0))
    for axes in ("LPX", "LRS", "LP", ""):
        with pytest.raises(ValueError, match="expected one each"):
            read_nifti(path, intensity="hu", axes=axes)
    write_nifti_mask(tmp_path / "m.nii", MASK, scan)
    image = nib.load(tmp_path / "m.nii")
    assert (image.header["sform_code"], image.header["qform_code"]) == (0, 0)
    np.testing.assert_array_equal(image.affine, nib.load(path).affine)
    np.testing.assert_array_equal(np.asarray(image.dataobj), stored(MASK, "RAS"))


def test_disagreement_within_the_header_is_noted(tmp_path):
    path = edited(tmp_path / "a.nii", pixdim=[1, 0.5, 0.75, 5, 0, 0, 0, 0])
    (note,) = read_nifti(path, intensity="hu").notes
    assert "0.5 x 0.75 x 5" in note
    assert "0.5 x 0.75 x 2.5" in note
    path = edited(tmp_path / "b.nii", qform_code=1, qoffset_x=50.0)
    (note,) = read_nifti(path, intensity="hu").notes
    assert "sform is used" in note
