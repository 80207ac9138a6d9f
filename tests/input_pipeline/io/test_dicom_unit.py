"""What a file states of the unit of its values (RescaleType)."""

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from input_pipeline.io.dicom_header import OTHER_UNITS
from input_pipeline.io.dicom_series import read_dicom
from input_pipeline.io.read import read_scan
from tests.input_pipeline.io.test_dicom import OTHER, above, dataset, series, write
from tests.input_pipeline.io.test_dicom_enhanced import enhanced, frames_of, group
from tests.input_pipeline.io.test_scan import VOXELS, refused

SHARE = ((VOXELS >= -1100) & (VOXELS <= -300)).mean()
assert SHARE > 0.005


@pytest.mark.parametrize("unit", ["HU", "hu ", "Hounsfield Units", "", None, "US"])
def test_hounsfield_units_and_none_are_read_in_silence(tmp_path, unit):
    tags = {} if unit is None else {"RescaleType": unit}
    scan = read_scan(series(tmp_path / "case", **tags))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.notes == ()


@pytest.mark.parametrize("unit", ["HU_MOD", "normalized"])
def test_a_unit_that_may_be_another_is_doubted(tmp_path, unit):
    scan = read_scan(series(tmp_path / "case", RescaleType=unit))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    (note,) = scan.notes
    assert note == (
        f"states its values as {unit.upper()} (RescaleType), expected HU, and {SHARE:.1%} of the "
        "voxels lie in -1100 to -300 (air and lung in Hounsfield units); if they are in another "
        "unit, name a series in Hounsfield units"
    )


def test_an_unspecified_unit_is_doubted_where_the_values_are_no_chest(tmp_path):
    (tmp_path / "case").mkdir()
    for number, values in enumerate(VOXELS):
        shown = np.clip(values, 0, 200)
        write(dataset(shown, above(number), RescaleType="US"), tmp_path / f"case/{number}")
    (note,) = (note for note in read_scan(tmp_path / "case").notes if "RescaleType" in note)
    assert note.startswith("states its values as US (RescaleType), expected HU, and 0.0% of")


@pytest.mark.parametrize("unit", OTHER_UNITS)
def test_another_unit_is_no_ct_slice(tmp_path, unit):
    folder = series(tmp_path / "case", RescaleType=unit)
    refused(read_dicom, folder, f"holds no CT slice (4 of values in {unit}, not HU (IM2")
    said = f"states its values as {unit} (RescaleType), expected Hounsfield units; name a CT series"
    refused(read_dicom, folder / "IM2", said)


def test_a_map_beside_the_scan_is_left_out_and_counted(tmp_path):
    """As a spectral scanner exports: iodine and atomic numbers beside Hounsfield units."""
    folder = series(tmp_path / "case")
    for number, (unit, uid) in enumerate((("MGML", OTHER), ("Z_EFF", "1.2.9"))):
        for place, values in enumerate(VOXELS):
            made = dataset(values, above(place), RescaleType=unit, SeriesInstanceUID=uid)
            write(made, folder / f"M{number}{place}")
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    (note,) = scan.notes
    assert "4 of values in MGML, not HU (M00, M01, M02 and 1 more)" in note
    assert "4 of values in Z_EFF, not HU" in note


@pytest.mark.parametrize("place", ["shared", "frames"])
def test_the_unit_of_an_enhanced_ct(tmp_path, place):
    for unit, reads in (("HU", True), ("US", True), ("EDW", False)):
        made = enhanced(frames_of(), rescale_of_frames=place == "frames")
        if place == "frames":
            for item in made.PerFrameFunctionalGroupsSequence:
                item.PixelValueTransformationSequence[0].RescaleType = unit
        else:
            made.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = group(
                RescaleSlope=1, RescaleIntercept=-1024, RescaleType=unit
            )
        path = write(made, tmp_path / f"{unit}.dcm", ExplicitVRLittleEndian)
        if reads:
            scan = read_scan(path)
            np.testing.assert_array_equal(scan.voxels, VOXELS)
            assert scan.notes == ()
        else:
            refused(read_scan, path, "states its values as EDW (RescaleType)")
