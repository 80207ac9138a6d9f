"""NIfTI files of every make that must be read, and damaged ones that must be refused."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from input_pipeline.io.find import find_scans
from input_pipeline.io.nifti import read_labels, read_nifti, write_nifti_mask
from input_pipeline.io.read import read_scan
from tests.input_pipeline.io.test_scan import (
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
