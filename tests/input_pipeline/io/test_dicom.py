"""DICOM series as scanners, archives and people leave them; all written here by pydicom."""

import warnings

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from input_pipeline.io.dicom_series import read_dicom
from input_pipeline.io.nifti import write_nifti_mask
from input_pipeline.io.read import read_scan
from input_pipeline.io.scan import to_file_grid
from tests.input_pipeline.io.test_scan import MASK, SPACING, VOXELS, refused

AXIAL = [1, 0, 0, 0, 1, 0]
SAGITTAL = [0, 1, 0, 0, 0, -1]
ORIGIN = np.array([-120.0, -90.0, 40.0])  # left, back, head
SERIES, OTHER = "1.2.3.4", "1.2.3.5"
NAMES = ["IM7", "IM2", "IM9", "IM4"]  # the order of the names is not that of the slices


def dataset(values, position, *, intercept=-1024, **tags):
    """One CT slice of Hounsfield units `values`; tags set to None are left out."""
    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = CTImageStorage
    made.SOPClassUID = CTImageStorage
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPInstanceUID = generate_uid(entropy_srcs=[str((position, values.tobytes()))])
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    pixels = (values.astype(np.int32) - intercept).astype(np.uint16)
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 0
    made.PixelSpacing, made.SliceThickness = list(SPACING[1:]), SPACING[0]
    made.ImagePositionPatient = [float(x) for x in position]
    made.ImageOrientationPatient = AXIAL
    made.RescaleSlope, made.RescaleIntercept = 1, intercept
    made.Modality, made.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.SeriesInstanceUID, made.SeriesNumber = SERIES, 3
    made.PixelData = pixels.tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def write(made, path, syntax=None):
    if syntax in (RLELossless, JPEG2000Lossless):
        made.compress(syntax, generate_instance_uid=False)
    elif syntax:
        made.file_meta.TransferSyntaxUID = syntax
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom, of the odd values we write on purpose
        made.save_as(path, enforce_file_format=True)
    return path


def above(height, left=0.0, back=0.0):
    """A place `height` slices above the origin, and so many mm to the left and to the back."""
    return ORIGIN + np.array([left, back, SPACING[0] * height])


def series(folder, heights=range(4), names=NAMES, syntax=None, **tags):
    """A folder with the slices of VOXELS; heights count in steps of the slice spacing."""
    folder.mkdir(exist_ok=True)
    for values, height, name in zip(VOXELS, heights, names, strict=True):
        write(dataset(values, above(height), **tags), folder / name, syntax)
    return folder


def test_slices_are_sorted_by_position(tmp_path):
    folder = series(tmp_path / "case")
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.voxels.dtype == np.int16
    assert (scan.intensity, scan.id, scan.notes) == ("hu", "case", ())
    assert scan.file_shape == (6, 5, 4)
    np.testing.assert_allclose(scan.spacing, SPACING)


def test_the_affine_is_that_of_another_library(tmp_path):
    folder = series(tmp_path / "case")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs = reader.Execute()
    scan = read_scan(folder)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(theirs), scan.voxels)
    for index in ((0, 0, 0), (5, 0, 0), (0, 4, 0), (2, 1, 3)):
        left, back, head = theirs.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((scan.affine @ [*index, 1])[:3], (-left, -back, head))


@pytest.mark.parametrize("second", [1, -1])
@pytest.mark.parametrize("first", [1, -1])
@pytest.mark.parametrize("turned", [False, True])
def test_axial_slices_turned_and_mirrored(tmp_path, turned, first, second):
    """Patients lie on their belly, go in feet first, and pictures get turned."""
    row, column = ([0, first, 0], [second, 0, 0]) if turned else ([first, 0, 0], [0, second, 0])
    for values, number, name in zip(VOXELS, range(4), NAMES, strict=True):
        shown = values if row[0] else values.T
        left, back = (row, column) if row[0] else (column, row)
        shown = shown[:, :: left[0]] if row[0] else shown[:: left[0]]
        shown = shown[:: back[1]] if row[0] else shown[:, :: back[1]]
        spacing = SPACING[1:] if row[0] else SPACING[:0:-1]
        position = above(number, 5 * SPACING[2] * (left[0] < 0), 4 * SPACING[1] * (back[1] < 0))
        made = dataset(
            np.ascontiguousarray(shown),
            position,
            ImageOrientationPatient=[*row, *column],
            PixelSpacing=list(spacing),
        )
        write(made, tmp_path / name)
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.spacing, SPACING)
    write_nifti_mask(tmp_path.parent / "m.nii.gz", MASK, scan)
    again = read_scan(tmp_path.parent / "m.nii.gz", intensity="uint8")
    np.testing.assert_array_equal(again.voxels, MASK)
    np.testing.assert_allclose(again.spacing, SPACING)
    np.testing.assert_allclose(again.affine, scan.affine, atol=1e-4)


def test_one_file(tmp_path):
    path = write(dataset(VOXELS[0], ORIGIN), tmp_path / "a.dcm")
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.voxels, VOXELS[:1])
    assert (scan.id, scan.notes) == ("a", ())
    np.testing.assert_allclose(scan.spacing, SPACING)
    bare = write(dataset(VOXELS[0], ORIGIN, SliceThickness=None), tmp_path / "bare")
    scan = read_scan(bare)
    np.testing.assert_allclose(scan.spacing[0], 1)
    assert "1 mm is assumed" in scan.notes[0]


def test_absent_tags_that_do_not_matter(tmp_path):
    absent = ("Modality", "ImageType", "SliceThickness", "SeriesNumber", "SeriesInstanceUID")
    scan = read_scan(series(tmp_path / "case", **dict.fromkeys(absent)))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.spacing, SPACING)


@pytest.mark.parametrize(
    "name", ["PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"]
)
def test_absent_tags_that_matter_are_named(tmp_path, name):
    path = write(dataset(VOXELS[0], ORIGIN, **{name: None}), tmp_path / "a.dcm")
    refused(read_dicom, path, f"has no {name}", "export the original series")


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, 0, np.int16), (2, -1000, np.int16), (0.5, -1000, np.float32), (-1, 300, np.int16)],
)
def test_rescale(tmp_path, slope, intercept, dtype):
    stored = np.arange(30, dtype=np.uint16).reshape(5, 6) * 7
    made = dataset(VOXELS[0], ORIGIN, RescaleSlope=slope, RescaleIntercept=intercept)
    made.PixelData = stored.tobytes()
    scan = read_scan(write(made, tmp_path / "a"))
    np.testing.assert_array_equal(scan.voxels[0], stored * np.float64(slope) + intercept)
    assert scan.voxels.dtype == dtype


def test_signed_twelve_bit_pixels(tmp_path):
    values = np.clip(VOXELS[0], -2048, 2047)
    made = dataset(values, ORIGIN, intercept=0, PixelRepresentation=1, BitsStored=12, HighBit=11)
    made.PixelData = (values & 0x0FFF).astype(np.uint16).tobytes()  # upper bits are not the value
    np.testing.assert_array_equal(read_scan(write(made, tmp_path / "a")).voxels[0], values)


def test_monochrome1_changes_no_hounsfield_unit(tmp_path):
    scan = read_scan(series(tmp_path / "case", PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert "MONOCHROME1" in scan.notes[0]


def test_copies_are_dropped(tmp_path):
    folder = series(tmp_path / "case")
    (folder / "copy").write_bytes((folder / "IM2").read_bytes())
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.notes == ("1 copies of slices were left out",)


def test_two_acquisitions_at_one_position_are_refused(tmp_path):
    folder = series(tmp_path / "case")
    write(dataset(VOXELS[0] + 1, ORIGIN), folder / "again")
    refused(read_dicom, folder, "again", "IM7", "one position", "keep one")


def test_localisers_are_left_out(tmp_path):
    folder = series(tmp_path / "case")
    scout = {"ImageOrientationPatient": SAGITTAL, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write(dataset(VOXELS[0, :, :3], ORIGIN, SeriesInstanceUID=OTHER, **scout), folder / "AAA")
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.notes == ("1 file left out: 1 of a localiser (AAA)",)
    scout["ImageType"] = ["ORIGINAL", "PRIMARY"]
    write(dataset(VOXELS[0, :, :3], ORIGIN, **scout), folder / "AAA")
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert "AAA left out: localiser (at an angle" in scan.notes[0]
    lone = tmp_path / "lone"
    lone.mkdir()
    write(dataset(VOXELS[0], ORIGIN, ImageType=["A", "B", "LOCALIZER"]), lone / "AAA")
    refused(read_dicom, lone, "no CT slice", "localiser")


def test_two_series_are_listed_and_one_can_be_chosen(tmp_path):
    folder = series(tmp_path / "case")
    tags = {"SeriesInstanceUID": OTHER, "SeriesNumber": 8}
    series(folder, names=["B1", "B2", "B3", "B4"], intercept=-2000, **tags)
    message = refused(read_dicom, folder, "2 series", "choose one")
    assert message.endswith(": --series 3 (4 slices of 2.5 mm); --series 8 (4 slices of 2.5 mm)")
    for name in (OTHER, "8"):
        np.testing.assert_array_equal(read_scan(folder, series=name).voxels, VOXELS)
    refused(read_dicom, folder, "no single series is '5'", "--series 3", series="5")
    alone = series(tmp_path / "alone")
    np.testing.assert_array_equal(read_scan(alone, series=SERIES).voxels, VOXELS)
    refused(read_dicom, alone, "no single series is '5'", series="5")


@pytest.mark.parametrize(
    "tags",
    [{"PixelSpacing": [0.8, 0.8]}, {"ImageOrientationPatient": [0.9952, 0, 0.0979, 0, 1, 0]}],
)
def test_a_mixed_series_is_refused(tmp_path, tags):
    folder = series(tmp_path / "case")
    write(dataset(VOXELS[3], above(4), **tags), folder / "odd")
    refused(read_dicom, folder, "different size, spacing or orientation", "odd", "4 of 5 x 6")


def test_damaged_slices_are_refused_and_not_left_out(tmp_path):
    folder = series(tmp_path / "case")
    whole = (folder / "IM2").read_bytes()
    (folder / "IM2").write_bytes(whole[:-9])
    refused(read_dicom, folder, "IM2", "again")
    (folder / "IM2").write_bytes(b"")
    refused(read_dicom, folder, "IM2", "empty")
    (folder / "IM2").unlink()
    (folder / "IM2.dcm").write_bytes(b"hello" * 100)
    refused(read_dicom, folder, "IM2.dcm", "not a DICOM file")
    (folder / "IM2.dcm").write_bytes(whole[:300])
    refused(read_dicom, folder, "IM2.dcm", "ends before its image")


@pytest.mark.parametrize(
    ("tags", "word"),
    [
        ({"NumberOfFrames": 2}, "2 frames without positions"),
        ({"SamplesPerPixel": 3}, "coloured"),
        ({"Modality": "MR"}, "modality MR"),
        ({"RescaleSlope": 0}, "slope 0"),
        ({"RescaleSlope": 1000}, "-32768 to 32767"),
        ({"Rows": 4}, "bytes of pixels, expected 48 for 4 x 6"),
        ({"Rows": 6}, "expected 72"),
        ({"Rows": 0}, "0 x 6 pixels"),
        ({"Columns": 65535}, "x 65535 pixels"),
        ({"PixelSpacing": [0.0, 0.5]}, "0.5 x 0 x 2.5 mm"),
        ({"PixelSpacing": [0.5]}, "incomplete"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "right angles"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]}, "right angles"),
        ({"ImageOrientationPatient": SAGITTAL}, "coronal or sagittal"),
        ({"SliceThickness": -3}, "-3"),
        ({"PixelData": None}, "before its pixels"),
        ({"BitsAllocated": 7}, "a.dcm"),
    ],
)
def test_slices_that_cannot_be_used_are_refused(tmp_path, tags, word):
    path = write(dataset(VOXELS[0], ORIGIN, **tags), tmp_path / "a.dcm")
    refused(read_dicom, path, word)


def test_masks_come_back_in_the_order_of_positions(tmp_path):
    scan = read_scan(series(tmp_path / "case", heights=[3, 2, 1, 0]))
    np.testing.assert_array_equal(scan.voxels, VOXELS[::-1])
    np.testing.assert_array_equal(to_file_grid(MASK, scan), MASK.transpose(2, 1, 0))
