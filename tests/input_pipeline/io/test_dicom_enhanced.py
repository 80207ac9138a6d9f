"""Enhanced CT: many slices as the frames of one file, as newer scanners and archives store them."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
)

from input_pipeline.io.dicom_series import read_dicom
from input_pipeline.io.read import read_scan
from input_pipeline.io.scan import to_file_grid
from tests.input_pipeline.io.test_dicom import AXIAL, ORIGIN, above, dataset, series, write
from tests.input_pipeline.io.test_scan import SPACING, VOXELS, refused

ORDER = [2, 0, 3, 1]  # of the frames: not that of the slices


def group(**tags):
    made = Dataset()
    for name, value in tags.items():
        setattr(made, name, value)
    return [made]


def enhanced(frames, *, rescale_of_frames=False, kind=EnhancedCTImageStorage, **tags):
    """A file whose frames are (values, position, further functional groups)."""
    made = dataset(frames[0][0], ORIGIN, **tags)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = kind
    for name in ("PixelSpacing", "SliceThickness", "ImagePositionPatient",
                 "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept"):  # fmt: skip
        delattr(made, name)
    made.NumberOfFrames, made.InstanceNumber = len(frames), 1
    shared = Dataset()
    shared.PixelMeasuresSequence = group(PixelSpacing=list(SPACING[1:]), SliceThickness=SPACING[0])
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=AXIAL)
    if not rescale_of_frames:
        shared.PixelValueTransformationSequence = group(RescaleSlope=1, RescaleIntercept=-1024)
    made.SharedFunctionalGroupsSequence = [shared]
    pixels, items = [], []
    for number, (values, position, groups) in enumerate(frames):
        item = Dataset()
        item.PlanePositionSequence = group(ImagePositionPatient=[float(x) for x in position])
        inter = -1024
        if rescale_of_frames:
            inter = -1000 - number
            item.PixelValueTransformationSequence = group(RescaleSlope=1, RescaleIntercept=inter)
        for name, content in groups.items():
            setattr(item, name, content)
        items.append(item)
        pixels.append((values.astype(np.int32) - inter).astype(np.uint16))
    made.PerFrameFunctionalGroupsSequence = items
    made.PixelData = np.stack(pixels).tobytes()
    return made


def frames_of(voxels=VOXELS, order=ORDER, **groups):
    return [(voxels[k], above(k), groups) for k in order]


@pytest.mark.parametrize("rescale_of_frames", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_frames_are_slices_sorted_by_position(tmp_path, alone, rescale_of_frames):
    made = enhanced(frames_of(), rescale_of_frames=rescale_of_frames)
    path = write(made, tmp_path / "a.dcm", ExplicitVRLittleEndian)
    scan = read_scan(path if alone else tmp_path)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.voxels.dtype == np.int16
    assert (scan.file_shape, scan.notes) == ((6, 5, 4), ())
    np.testing.assert_allclose(scan.spacing, SPACING)


def test_it_is_the_scan_that_one_file_for_each_slice_gives(tmp_path):
    single = read_scan(series(tmp_path / "single"))
    multi = read_scan(write(enhanced(frames_of()), tmp_path / "multi.dcm"))
    np.testing.assert_array_equal(multi.voxels, single.voxels)
    np.testing.assert_array_equal(multi.affine, single.affine)
    assert multi.axes == single.axes
    np.testing.assert_array_equal(to_file_grid(multi.voxels, multi), single.voxels.T)


@pytest.mark.parametrize("signed", [0, 1])
def test_signed_frames_and_twelve_bits(tmp_path, signed):
    values = np.clip(VOXELS, -1024, 1023)
    made = enhanced(frames_of(values))
    made.BitsStored, made.HighBit, made.PixelRepresentation = 12, 11, signed
    stored = np.stack([values[k] for k in ORDER]).astype(np.int32) + (0 if signed else 1024)
    made.PixelData = (stored & 0x0FFF).astype(np.uint16).tobytes()
    shared = made.SharedFunctionalGroupsSequence[0]
    shared.PixelValueTransformationSequence[0].RescaleIntercept = 0 if signed else -1024
    scan = read_scan(write(made, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(scan.voxels, values)


def test_compressed_frames(tmp_path):
    made = enhanced(frames_of())
    plain = read_scan(write(made, tmp_path / "a.dcm"))
    packed = read_scan(write(made, tmp_path / "b.dcm", RLELossless))
    np.testing.assert_array_equal(packed.voxels, plain.voxels)
    assert pydicom.dcmread(tmp_path / "b.dcm").file_meta.TransferSyntaxUID == RLELossless


def test_legacy_converted(tmp_path):
    """Old slices put together by an archive: tags of a slice lie in a sequence of their own."""
    frames = [
        (values, position, {"UnassignedPerFrameConvertedAttributesSequence": group(
            AcquisitionNumber=1, InstanceNumber=number)})
        for number, (values, position, _) in enumerate(frames_of())
    ]  # fmt: skip
    made = enhanced(frames, kind=LegacyConvertedEnhancedCTImageStorage, rescale_of_frames=True)
    scan = read_scan(write(made, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(scan.voxels, VOXELS)


@pytest.mark.parametrize("name", ["TemporalPositionIndex", "FrameAcquisitionNumber"])
def test_phases_are_acquisitions(tmp_path, name):
    other = VOXELS + 7
    frames = frames_of(FrameContentSequence=group(**{name: 1}))
    frames += frames_of(other, FrameContentSequence=group(**{name: 2}))
    path = write(enhanced(frames), tmp_path / "a.dcm")
    refused(read_dicom, path, "2 acquisitions", "--series 3:1", "--series 3:2", "4 slices")
    for number, voxels in ((1, VOXELS), (2, other)):
        scan = read_scan(path, series=f"3:{number}")
        np.testing.assert_array_equal(scan.voxels, voxels)


def test_frames_over_several_files_are_one_scan(tmp_path):
    """Archives split long scans into concatenations."""
    for number, half in enumerate((ORDER[:2], ORDER[2:])):
        made = enhanced(frames_of(order=half), SOPInstanceUID=f"1.2.{number}")
        write(made, tmp_path / f"{number}.dcm")
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, VOXELS)


def test_localisers_among_the_frames_are_left_out(tmp_path):
    frames = frames_of()
    scout = group(FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"])
    frames.insert(1, (VOXELS[0], above(9), {"CTImageFrameTypeSequence": scout}))
    np.testing.assert_array_equal(
        read_scan(write(enhanced(frames), tmp_path / "a.dcm")).voxels, VOXELS
    )


def test_damaged_files_are_refused(tmp_path):
    made = enhanced(frames_of())
    made.NumberOfFrames = 5
    refused(read_dicom, write(made, tmp_path / "a.dcm"), "describes 4 frames, expected 5")
    made = enhanced(frames_of())
    made.PixelData = made.PixelData[:-60]
    refused(read_dicom, write(made, tmp_path / "b.dcm"), "bytes of pixels, expected 240")
    made = enhanced(frames_of())
    del made.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    refused(read_dicom, write(made, tmp_path / "c.dcm"), "has no ImagePositionPatient")
