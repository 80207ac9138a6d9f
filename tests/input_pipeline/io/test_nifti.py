"""NIfTI files of every make that must be read, and damaged ones that must be refused."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from input_pipeline.io.find import find_scans
from input_pipeline.io.nifti import read_labels, read_nibabel, read_nifti, write_nifti_mask
from input_pipeline.io.read import read_scan
from tests.input_pipeline.io.test_scan import (
    CODES,
    MASK,
    VOXELS,
    affine_of,
    refused,
    save,
    stored,
)

FILE = stored(VOXELS, "RAS")
AFFINE = affine_of("RAS")


def edited(path, **fields):
    """A sound file with header fields set by hand."""
    image = nib.Nifti1Image(FILE, AFFINE)
    data = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    data[:348] = header.binaryblock
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_versions_and_byte_orders(tmp_path, kind, order, name):
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.int16)
    nib.save(kind(FILE, AFFINE, header), tmp_path / name)
    scan = read_nifti(tmp_path / name, intensity="hu")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    write_nifti_mask(tmp_path / "m.nii.gz", MASK, scan)
    image = nib.load(tmp_path / "m.nii.gz")
    assert isinstance(image, kind)
    np.testing.assert_array_equal(np.asarray(image.dataobj), stored(MASK, "RAS"))
    np.testing.assert_array_equal(image.affine, nib.load(tmp_path / name).affine)


def test_compression_is_told_by_the_bytes(tmp_path):
    data = nib.Nifti1Image(FILE, AFFINE).to_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(data)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(data))
    for name in ("plain.nii.gz", "packed.nii"):
        np.testing.assert_array_equal(read_nifti(tmp_path / name, intensity="hu").voxels, VOXELS)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_integers_of_every_width_become_int16(tmp_path, dtype):
    values = np.abs(FILE) % 100
    image = nib.Nifti1Image(values.astype(dtype), AFFINE, dtype=dtype)
    nib.save(image, tmp_path / "a.nii.gz")
    scan = read_nifti(tmp_path / "a.nii.gz", intensity="hu")
    assert scan.voxels.dtype == np.int16
    np.testing.assert_array_equal(scan.voxels, np.abs(VOXELS) % 100)


@pytest.mark.parametrize(
    ("slope", "inter", "dtype"),
    [(1, -1024, np.int16), (2, 0, np.int16), (0.5, -3.25, np.float32), (0, 9, np.int16),
     (np.nan, 9, np.int16)],
)  # fmt: skip
def test_slope_and_intercept(tmp_path, slope, inter, dtype):
    path = edited(tmp_path / "a.nii", scl_slope=slope, scl_inter=inter)
    scan = read_nifti(path, intensity="hu")
    scaled = VOXELS * np.float64(slope) + inter if slope > 0 else VOXELS  # 0 means not scaled
    assert scan.voxels.dtype == dtype
    np.testing.assert_array_equal(scan.voxels, scaled)
    np.testing.assert_array_equal(
        scan.voxels.transpose(2, 1, 0)[::-1, ::-1], nib.load(path).get_fdata()
    )
    write_nifti_mask(tmp_path / "m.nii", MASK, scan)
    np.testing.assert_array_equal(nib.load(tmp_path / "m.nii").get_fdata(), stored(MASK, "RAS"))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 4, 1), (6, 5, 4, 1, 1)])
def test_one_slice_and_one_frame(tmp_path, shape):
    values = FILE.ravel()[: np.prod(shape)].reshape(shape)
    path = save(tmp_path / "a.nii.gz", values, AFFINE)
    scan = read_nifti(path, intensity="hu")
    three = values.reshape((*shape, 1)[:3])
    np.testing.assert_array_equal(scan.voxels, three.transpose(2, 1, 0)[:, ::-1, ::-1])
    write_nifti_mask(tmp_path / "m.nii.gz", (scan.voxels > 0).astype(np.uint8), scan)
    image = nib.load(tmp_path / "m.nii.gz")
    assert image.shape == shape
    np.testing.assert_array_equal(np.asarray(image.dataobj), values > 0)


def test_several_frames_colours_and_complex_numbers_are_refused(tmp_path):
    path = save(tmp_path / "a.nii", np.stack([FILE, FILE], axis=-1), AFFINE)
    refused(read_nifti, path, "(6, 5, 4, 2)", "one frame", intensity="hu")
    path = save(tmp_path / "c.nii", FILE.astype(np.complex64), AFFINE)
    refused(read_nifti, path, "complex64", intensity="hu")
    colour = np.zeros(FILE.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    path = save(tmp_path / "rgb.nii", colour, AFFINE)
    refused(read_nifti, path, "coloured", intensity="hu")


def test_a_coronal_picture_is_refused(tmp_path):
    path = save(tmp_path / "a.nii", FILE[:, :1], AFFINE)
    refused(read_nifti, path, "coronal or sagittal", intensity="hu")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("intensity", ["hu", "uint8"])
def test_values_that_are_no_numbers_are_refused(tmp_path, bad, intensity):
    values = np.abs(FILE).astype(np.float32) / 10
    values[1, 2, 3] = bad
    path = save(tmp_path / "a.nii.gz", values, AFFINE)
    refused(read_nifti, path, "1 voxels", "NaN or infinite", intensity=intensity)


def test_values_beyond_hounsfield_are_refused(tmp_path):
    path = save(tmp_path / "a.nii.gz", FILE.astype(np.float32) * 1000, AFFINE)
    refused(read_nifti, path, "-32768 to 32767", intensity="hu")
    path = edited(tmp_path / "b.nii", scl_slope=3e38, scl_inter=0)
    refused(read_nifti, path, intensity="hu")


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


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_bytes_after_the_voxels_are_ignored_with_a_note(tmp_path, name):
    data = nib.Nifti1Image(FILE, AFFINE).to_bytes() + bytes(100)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    scan = read_nifti(tmp_path / name, intensity="hu")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    (note,) = scan.notes
    assert note.startswith("100 bytes after its 6 x 5 x 4 voxels are ignored")
    fewer = edited(tmp_path / "b.nii", dim=[3, 6, 5, 3, 1, 1, 1, 1])
    scan = read_nifti(fewer, intensity="hu")
    np.testing.assert_array_equal(scan.voxels, VOXELS[:3])
    assert "60 bytes" in scan.notes[0] and "slices are missing" in scan.notes[0]


def test_bytes_after_the_compressed_data_are_ignored_with_a_note(tmp_path):
    packed = gzip.compress(nib.Nifti1Image(FILE, AFFINE).to_bytes())
    for tail, notes in ((b"garbage", 1), (b"g", 1), (bytes(512), 0)):
        (tmp_path / "a.nii.gz").write_bytes(packed + tail)
        scan = read_nifti(tmp_path / "a.nii.gz", intensity="hu")
        np.testing.assert_array_equal(scan.voxels, VOXELS)
        assert len(scan.notes) == notes
    data = bytearray(packed + b"garbage")
    data[len(packed) - 6] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(data)
    refused(read_nifti, tmp_path / "a.nii.gz", "CRC", intensity="hu")


@pytest.mark.parametrize("parts", [2, 5])
def test_several_gzip_members_are_one_file(tmp_path, parts):
    """As bgzip and pigz -i write them."""
    data = nib.Nifti1Image(FILE, AFFINE).to_bytes()
    step = -(-len(data) // parts)
    members = [gzip.compress(data[at : at + step]) for at in range(0, len(data), step)]
    (tmp_path / "a.nii.gz").write_bytes(b"".join(members))
    scan = read_nifti(tmp_path / "a.nii.gz", intensity="hu")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.notes == ()


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("packed", ["", "hdr", "img", "hdr img"])
def test_pairs_are_read_by_either_name(tmp_path, kind, packed):
    nib.save(kind(FILE, AFFINE), tmp_path / "a.b.img")
    for suffix in packed.split():
        path = tmp_path / f"a.b.{suffix}"
        (tmp_path / f"a.b.{suffix}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    for path in files:
        scan = read_scan(path, intensity="hu")
        np.testing.assert_array_equal(scan.voxels, VOXELS)
        assert (scan.id, scan.notes) == ("a.b", ())
        np.testing.assert_allclose(scan.affine, AFFINE)
    assert find_scans([tmp_path]) == {"a.b.nii.gz": next(p for p in files if ".hdr" in p.name)}
    write_nifti_mask(tmp_path / "m.nii.gz", MASK, scan)
    image = nib.load(tmp_path / "m.nii.gz")
    assert type(image) is {nib.Nifti1Pair: nib.Nifti1Image, nib.Nifti2Pair: nib.Nifti2Image}[kind]
    np.testing.assert_array_equal(np.asarray(image.dataobj), stored(MASK, "RAS"))
    np.testing.assert_allclose(image.affine, AFFINE)


def test_half_a_pair_and_analyze_are_refused(tmp_path):
    nib.save(nib.Nifti1Pair(FILE, AFFINE), tmp_path / "a.hdr")
    (tmp_path / "b.hdr").write_bytes((tmp_path / "a.hdr").read_bytes())
    refused(read_nifti, tmp_path / "b.hdr", "expected b.img or b.img.gz", intensity="hu")
    (tmp_path / "c.img").write_bytes((tmp_path / "a.img").read_bytes())
    refused(read_nifti, tmp_path / "c.img", "expected c.hdr or c.hdr.gz", intensity="hu")
    (tmp_path / "a.img").write_bytes((tmp_path / "a.img").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"a\.img: .*truncated"):
        read_nifti(tmp_path / "a.hdr", intensity="hu")
    nib.save(nib.AnalyzeImage(FILE, AFFINE), tmp_path / "d.hdr")
    refused(read_nifti, tmp_path / "d.hdr", "Analyze", "left and right", intensity="hu")


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


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path, name, share):
    path = save(tmp_path / name, FILE, AFFINE)
    data = path.read_bytes()
    path.write_bytes(data[: max(1, int(len(data) * share))])
    refused(read_nifti, path, "again", intensity="hu")


def test_a_wrong_checksum_is_refused(tmp_path):
    path = save(tmp_path / "a.nii.gz", FILE, AFFINE)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    refused(read_nifti, path, "CRC", intensity="hu")


def test_empty_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(b"")
    refused(read_nifti, path, "empty", intensity="hu")
    path.write_bytes(b"hello " * 200)
    refused(read_nifti, path, "single-file NIfTI", "convert", intensity="hu")
    data = bytearray(nib.Nifti1Image(FILE, AFFINE).to_bytes())
    data[344:348] = b"ni1\0"
    path.write_bytes(data)
    refused(read_nifti, path, "ni1", intensity="hu")


def scans_equal(found, expected, name=None):
    np.testing.assert_array_equal(found.voxels, expected.voxels)
    assert found.voxels.dtype == expected.voxels.dtype
    np.testing.assert_array_equal(found.affine, expected.affine)
    for field in ("intensity", "spacing", "axes", "flips", "file_shape", "notes"):
        assert getattr(found, field) == getattr(expected, field), field
    assert found.id == (name or expected.id)


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


@pytest.mark.parametrize("error", [1.526e-5, -1e-7, 0.009, -0.009])
def test_labels_near_whole_numbers_are_those_numbers(tmp_path, error):
    truth = (MASK + 1) % 3
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(stored(truth, "RAS") * (1 + error / 2), affine_of("RAS")), path)
    np.testing.assert_array_equal(read_labels(path, (0, 1, 2)).voxels, truth)


def test_labels_between_whole_numbers_are_refused(tmp_path):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(stored(MASK, "RAS") * 0.98, affine_of("RAS")), path)
    with pytest.raises(ValueError, match=r"a\.nii\.gz: holds the values 0\.98.*only the labels"):
        read_labels(path, (0, 1, 2))


def test_labels_that_nibabel_scaled_are_read(tmp_path):
    """nibabel stores floats as int16 with a slope, and 1 becomes 1.00001526."""
    image = nib.Nifti1Image(stored(MASK, "RAS").astype(float), affine_of("RAS"))
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.nii.gz")
    assert nib.load(tmp_path / "a.nii.gz").dataobj.slope != 1
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii.gz", (0, 1, 2)).voxels, MASK)
