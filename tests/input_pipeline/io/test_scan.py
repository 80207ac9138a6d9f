"""Every orientation of a file gives the same scan, and its masks lie on the file's own grid."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from input_pipeline.io.nifti import write_nifti_mask
from input_pipeline.io.read import read_npy, read_scan
from input_pipeline.io.scan import to_file_grid

RNG = np.random.default_rng(0)
# [slices to the head, rows to the back, columns to the patient's left], no two axes of one size.
VOXELS = RNG.integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
MASK = RNG.integers(0, 3, VOXELS.shape).astype(np.uint8)
MM = {"S": 2.5, "A": 0.75, "R": 0.5}  # spacing along each anatomical axis
SPACING = (2.5, 0.75, 0.5)
WAYS = {"S": (0, False), "I": (0, True), "P": (1, False), "A": (1, True), "L": (2, False),
        "R": (2, True)}  # fmt: skip
UNIT = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1),
        "I": (0, 0, -1)}  # fmt: skip
CODES = [
    "".join(letters)
    for pairs in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*pairs)
]


def stored(array, code):
    """An array of ours as a file whose axes point to `code` holds it."""
    turned = array.transpose([WAYS[letter][0] for letter in code])
    return turned[tuple(slice(None, None, -1 if WAYS[c][1] else 1) for c in code)]


def affine_of(code, origin=(-11.0, 7.0, 30.0)):
    affine = np.eye(4)
    for axis, letter in enumerate(code):
        size = next(mm for name, mm in MM.items() if UNIT[name][0] ** 2 == UNIT[letter][0] ** 2
                    and UNIT[name][1] ** 2 == UNIT[letter][1] ** 2)  # fmt: skip
        affine[:3, axis] = np.array(UNIT[letter]) * size
    affine[:3, 3] = origin
    return affine


def save(path, array, affine, sform=1, qform=1):
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def refused(read, path, *words, **kwargs):
    """The message of the error: one line, naming the file."""
    with pytest.raises(ValueError, match=path.name) as caught:
        read(path, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("code", CODES)
def test_every_orientation_comes_out_upright_and_goes_back(tmp_path, code):
    assert len(CODES) == 48
    forms = [(1, 1), (2, 0), (0, 3)][CODES.index(code) % 3]
    path = save(tmp_path / "a.nii.gz", stored(VOXELS, code), affine_of(code), *forms)
    scan = read_scan(path, intensity="hu")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert (scan.voxels.dtype, scan.intensity, scan.id) == (np.int16, "hu", "a")
    np.testing.assert_allclose(scan.spacing, SPACING, rtol=1e-6)
    assert scan.notes == ()
    np.testing.assert_array_equal(to_file_grid(scan.voxels, scan), stored(VOXELS, code))
    write_nifti_mask(tmp_path / "out" / "mask.nii.gz", MASK, scan)
    theirs, ours = nib.load(path), nib.load(tmp_path / "out" / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(ours.dataobj), stored(MASK, code))
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    assert ours.get_data_dtype() == np.uint8
    for name in ("sform_code", "qform_code", "xyzt_units", "pixdim", "dim", "quatern_b", "srow_x"):
        np.testing.assert_array_equal(ours.header[name], theirs.header[name])


@pytest.mark.parametrize("code", ["RAS", "LPS", "LIP", "PIR", "SRA", "ASL"])
def test_another_library_sees_the_same(tmp_path, code):
    path = save(tmp_path / "a.nii.gz", stored(VOXELS, code), affine_of(code))
    other = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(path)), "LPS")
    np.testing.assert_array_equal(
        read_scan(path, intensity="hu").voxels, SimpleITK.GetArrayFromImage(other)
    )


@pytest.mark.parametrize("code", CODES[::5])
def test_right_front_and_head_are_where_the_affine_says(tmp_path, code):
    """A marker put at a place of the world shows up on that side, whatever the file's axes."""
    affine = affine_of(code, (0.0, 0.0, 0.0))
    shape = stored(VOXELS, code).shape
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    for axis, towards in ((2, (1, 0, 0)), (1, (0, 1, 0)), (0, (0, 0, -1))):
        array = np.zeros(shape, np.int16)
        for index in np.ndindex(shape):
            if (affine[:3, :3] @ index - middle) @ towards > 0.9:
                array[index] = 7
        scan = read_scan(save(tmp_path / "a.nii", array, affine), intensity="hu")
        assert array.any()
        lit = np.nonzero(scan.voxels)[axis]
        assert lit.max() < (scan.voxels.shape[axis] - 1) / 2  # right, front, feet come first


def test_oblique_grids_are_kept_and_noted(tmp_path):
    turn = np.radians(20)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    path = save(tmp_path / "a.nii.gz", stored(VOXELS, "LAS"), rotation @ affine_of("LAS"))
    scan = read_scan(path, intensity="hu")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.spacing, SPACING, rtol=1e-5)
    assert "20 degrees off" in scan.notes[0]
    assert len(scan.notes) == 1


def test_a_leaning_stack_keeps_its_volume(tmp_path):
    affine = affine_of("RAS")
    affine[1, 2] = MM["S"] * np.tan(np.radians(10))
    path = save(tmp_path / "a.nii.gz", stored(VOXELS, "RAS"), affine, sform=1, qform=0)
    scan = read_scan(path, intensity="hu")
    np.testing.assert_allclose(scan.spacing, SPACING, rtol=1e-6)
    assert "leans by 10.0 degrees" in scan.notes[0]
    write_nifti_mask(tmp_path / "m.nii", MASK, scan)
    np.testing.assert_array_equal(nib.load(tmp_path / "m.nii").affine, nib.load(path).affine)


def test_masks_are_checked_and_equal_ones_give_equal_files(tmp_path):
    path = save(tmp_path / "a.nii.gz", stored(VOXELS, "RAS"), affine_of("RAS"))
    scan = read_scan(path, intensity="hu")
    for name in ("m.nii.gz", "n.nii.gz", "m.nii"):
        write_nifti_mask(tmp_path / name, MASK, scan)
    assert (tmp_path / "m.nii.gz").read_bytes() == (tmp_path / "n.nii.gz").read_bytes()
    again = read_scan(tmp_path / "m.nii", intensity="uint8")
    np.testing.assert_array_equal(again.voxels, MASK)
    for mask, words in (
        (MASK[1:], "expected the shape of its scan"),
        (MASK.astype(float), "whole numbers"),
        (MASK.astype(np.int16) - 1, "whole numbers"),
    ):
        with pytest.raises(ValueError, match=words):
            write_nifti_mask(tmp_path / "bad.nii", mask, scan)
    with pytest.raises(ValueError, match=r"\.nii or \.nii\.gz"):
        write_nifti_mask(tmp_path / "bad.png", MASK, scan)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["a.nii.gz", "m.nii", "m.nii.gz", "n.nii.gz"]


def test_masks_take_no_free_text_of_the_file(tmp_path):
    image = nib.Nifti1Image(stored(VOXELS, "RAS"), affine_of("RAS"))
    image.header["descrip"] = b"Jane Doe"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(image, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes().count(b"Jane") == 2
    write_nifti_mask(tmp_path / "m.nii", MASK, read_scan(tmp_path / "a.nii", intensity="hu"))
    assert b"Jane" not in (tmp_path / "m.nii").read_bytes()


@pytest.mark.parametrize("array", [VOXELS, VOXELS[0], VOXELS + np.float32(0.5)])
def test_npy(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    scan = read_scan(tmp_path / "a.npy", intensity="hu", spacing=SPACING)
    np.testing.assert_array_equal(scan.voxels, array.reshape(-1, 5, 6))
    assert scan.voxels.dtype == array.dtype
    assert (scan.file_shape, scan.spacing) == (array.shape, SPACING)
    np.testing.assert_array_equal(to_file_grid(scan.voxels, scan), array)
    mask = MASK[: len(scan.voxels)]
    write_nifti_mask(tmp_path / "m.nii.gz", mask, scan)
    again = read_scan(tmp_path / "m.nii.gz", intensity="uint8")
    np.testing.assert_array_equal(again.voxels, mask)
    np.testing.assert_allclose(again.spacing, SPACING)


def test_npy_of_unknown_spacing_gives_no_nifti(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(MASK))
    scan = read_scan(tmp_path / "a.npy", intensity="uint8")
    np.testing.assert_array_equal(scan.voxels, MASK)
    assert scan.spacing is None
    with pytest.raises(ValueError, match="spacing is unknown"):
        write_nifti_mask(tmp_path / "m.nii", MASK, scan)


def test_bad_npy_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    for array, word in (
        (np.zeros((2, 2, 2, 2)), "[slices, rows, columns]"),
        (np.zeros((0, 4)), "[rows, columns]"),
        (np.zeros((3, 4), complex), "complex128"),
        (np.full((3, 4), np.nan), "NaN"),
        (np.array([[0, 40000]]), "40000"),
    ):
        np.save(path, array)
        refused(read_npy, path, word, intensity="hu")
    np.save(path, np.array([[0, 300]]))
    refused(read_npy, path, "0 to 255", intensity="uint8")
    np.save(path, VOXELS)
    refused(read_npy, path, "voxels of 0 x", intensity="hu", spacing=(0.0, 0.0, 0.0))
    data = path.read_bytes()
    for damaged in (data[:-1], data + b"0", data[:50], b"hello" * 40):
        path.write_bytes(damaged)
        refused(read_npy, path, "save it again", intensity="hu")
    path.write_bytes(b"")
    refused(read_npy, path, "empty", intensity="hu")
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused(read_npy, path, intensity="hu")


def test_pictures(tmp_path):
    grey = RNG.integers(0, 256, (9, 7)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    scan = read_scan(tmp_path / "a.png")
    np.testing.assert_array_equal(scan.voxels, grey[None])
    assert (scan.intensity, scan.spacing, scan.affine) == ("uint8", None, None)
    np.testing.assert_array_equal(to_file_grid(scan.voxels, scan), grey)
    refused(read_scan, tmp_path / "a.png", "'uint8'", intensity="hu")
    Image.fromarray(np.dstack([grey, grey, 255 - grey])).save(tmp_path / "rgb.png")
    refused(read_scan, tmp_path / "rgb.png", "colours", "8-bit grey")
    Image.fromarray(grey.astype(np.uint16) * 256).save(tmp_path / "deep.png")
    refused(read_scan, tmp_path / "deep.png", "8-bit")


def test_the_intensity_is_stated_and_never_guessed(tmp_path):
    path = save(tmp_path / "a.nii", stored(VOXELS, "RAS"), affine_of("RAS"))
    refused(read_scan, path, "state the intensity")
    with pytest.raises(ValueError, match="'HU'"):
        read_scan(path, intensity="HU")
    refused(read_scan, path, "0 to 255", intensity="uint8")
    np.save(tmp_path / "a.npy", VOXELS)
    refused(read_scan, tmp_path / "a.npy", "state the intensity")


def test_values_unlike_the_stated_intensity_are_noted(tmp_path):
    for low, high, word in (
        (0, 255, "windowed to 8"),
        (0, 4000, "offset"),
        (-1, 255, None),
    ):
        np.save(tmp_path / "a.npy", np.linspace(low, high, 20).round().reshape(4, 5))
        notes = read_scan(tmp_path / "a.npy", intensity="hu").notes
        assert len(notes) == (word is not None)
        assert word is None or word in notes[0]
    np.save(tmp_path / "a.npy", np.array([[0.0, 1.2], [254.6, 3.0]]))
    scan = read_scan(tmp_path / "a.npy", intensity="uint8")
    assert scan.voxels.tolist() == [[[0, 1], [255, 3]]]
    assert "rounded" in scan.notes[0]


def test_unknown_and_absent_files(tmp_path):
    (tmp_path / "a.mhd").write_text("ObjectType = Image")
    refused(read_scan, tmp_path / "a.mhd", "unknown kind of file", "convert")
    for name in ("a.nii.gz", "a.npy", "a.png", "a.dcm", "a"):
        with pytest.raises(FileNotFoundError, match=name):
            read_scan(tmp_path / name, intensity=None if name[2:] in ("png", "dcm", "") else "hu")
