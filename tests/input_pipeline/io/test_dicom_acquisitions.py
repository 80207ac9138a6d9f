"""Several acquisitions in one series: each can be chosen, and none is mixed with another."""

import numpy as np
import pytest
from pydicom.uid import generate_uid

from input_pipeline.io.dicom_series import read_dicom
from input_pipeline.io.read import read_scan
from tests.input_pipeline.io.test_dicom import OTHER, above, dataset, series, write
from tests.input_pipeline.io.test_scan import VOXELS, refused

SECOND = VOXELS + np.int16(7)


def two(folder, first, second, *, shift=0.0):
    """A folder with both acquisitions; the tags are functions of the number of the slice."""
    folder.mkdir(exist_ok=True)
    for name, voxels, tags, up in (("A", VOXELS, first, 0.0), ("B", SECOND, second, shift)):
        for number, values in enumerate(voxels):
            made = dataset(values, above(number + up), **tags(number))
            write(made, folder / f"{name}{number}")
    return folder


CASES = {
    "acquisition number": (
        lambda k: {"AcquisitionNumber": 4}, lambda k: {"AcquisitionNumber": 7}, "4", "7"),
    "temporal position": (
        lambda k: {"TemporalPositionIdentifier": 1},
        lambda k: {"TemporalPositionIdentifier": 2}, "1", "2"),
    "cardiac phase": (
        lambda k: {"NominalPercentageOfCardiacPhase": 40.0},
        lambda k: {"NominalPercentageOfCardiacPhase": 75.0}, "1", "2"),
    "tube voltage": (lambda k: {"KVP": 80}, lambda k: {"KVP": 140}, "1", "2"),
    "echo": (lambda k: {"EchoNumbers": 1}, lambda k: {"EchoNumbers": 2}, "1", "2"),
    "kernel": (
        lambda k: {"ConvolutionKernel": "B30f"}, lambda k: {"ConvolutionKernel": "B60f"}, "1",
        "2"),
    "image type": (
        lambda k: {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]},
        lambda k: {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, "1", "2"),
    "one time for each": (
        lambda k: {"AcquisitionTime": "101500"}, lambda k: {"AcquisitionTime": "101530"}, "1",
        "2"),
    "a time for each slice": (
        lambda k: {"AcquisitionTime": f"1015{k:02d}.5"},
        lambda k: {"AcquisitionTime": f"1016{k:02d}.5"}, "1", "2"),
    "the second from above": (
        lambda k: {"ContentTime": f"1015{k:02d}"}, lambda k: {"ContentTime": f"1016{9 - k:02d}"},
        "1", "2"),
    "instance number": (
        lambda k: {"InstanceNumber": k + 1}, lambda k: {"InstanceNumber": k + 5}, "1", "2"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_acquisition_can_be_chosen(tmp_path, name):
    first, second, one, other = CASES[name]
    folder = two(tmp_path / "case", first, second)
    refused(read_dicom, folder, "2 acquisitions", f"--series 3:{one} (", f"--series 3:{other} (",
            ", 4 slices)")  # fmt: skip
    refused(read_dicom, folder, "2 acquisitions", series="3")
    for number, voxels in ((one, VOXELS), (other, SECOND)):
        scan = read_scan(folder, series=f"3:{number}")
        np.testing.assert_array_equal(scan.voxels, voxels)
        assert scan.notes == ()
    refused(read_dicom, folder, "no acquisition 9 in series 3", "--series 3:", series="3:9")


def test_what_no_tag_tells_apart_is_refused(tmp_path):
    folder = two(tmp_path / "case", lambda k: {}, lambda k: {})
    refused(read_dicom, folder, "different slices of one series at one position", "keep one")
    numbers = [3, 1, 4, 2]  # both acquisitions alternate in time
    folder = two(
        tmp_path / "mixed",
        lambda k: {"InstanceNumber": numbers[k]},
        lambda k: {"InstanceNumber": 10 * numbers[k] % 7},
    )
    refused(read_dicom, folder, "at one position")


def test_acquisitions_between_one_another_are_not_mixed(tmp_path):
    """Breathing in and out, the second from another start: one even stack, of two states."""
    folder = two(
        tmp_path / "case",
        lambda k: {"AcquisitionNumber": 1},
        lambda k: {"AcquisitionNumber": 2},
        shift=0.5,
    )
    refused(read_dicom, folder, "--series 3:1 (acquisition number 1, 4 slices)")
    np.testing.assert_array_equal(read_scan(folder, series="3:2").voxels, SECOND)


@pytest.mark.parametrize("numbers", [[1, 2, 3, 4], [1, 1, 2, 2]])
def test_one_stack_of_several_acquisition_numbers_is_one_scan(tmp_path, numbers):
    """A number for each rotation, or two ranges that lie one above the other."""
    for k, values in enumerate(VOXELS):
        write(dataset(values, above(k), AcquisitionNumber=numbers[k]), tmp_path / f"{k}")
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, VOXELS)


def test_copies_with_other_names_are_dropped(tmp_path):
    """An archive that got a series twice gave the second new UIDs."""
    folder = series(tmp_path / "case", AcquisitionNumber=1)
    for k, values in enumerate(VOXELS):
        made = dataset(values, above(k), AcquisitionNumber=2, SOPInstanceUID=generate_uid())
        write(made, folder / f"copy{k}")
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.notes == ("4 copies of slices were left out",)


def test_an_acquisition_of_a_series_that_has_one(tmp_path):
    folder = series(tmp_path / "case", AcquisitionNumber=5)
    for name in ("3", "3:1", "3:5"):
        np.testing.assert_array_equal(read_scan(folder, series=name).voxels, VOXELS)
    refused(read_dicom, folder, "one acquisition, expected one numbered 2", series="3:2")


def test_a_series_without_number_is_named_by_its_uid(tmp_path):
    first, second, *_ = CASES["acquisition number"]
    folder = two(tmp_path / "case", lambda k: first(k) | {"SeriesNumber": None},
                 lambda k: second(k) | {"SeriesNumber": None})  # fmt: skip
    refused(read_dicom, folder, "--series 1.2.3.4:4 (")
    np.testing.assert_array_equal(read_scan(folder, series="1.2.3.4:7").voxels, SECOND)


def test_a_colon_in_a_description_is_no_acquisition(tmp_path):
    folder = series(tmp_path / "case", SeriesDescription="phase:2")
    series(folder, names=list("abcd"), SeriesInstanceUID=OTHER, SeriesNumber=9)
    np.testing.assert_array_equal(read_scan(folder, series="Phase:2").voxels, VOXELS)


@pytest.mark.parametrize("tags", [{"PixelSpacing": [0.8, 0.8]}, {"Rows": 4, "Columns": 6}])
def test_acquisitions_of_another_geometry_can_be_chosen(tmp_path, tags):
    folder = series(tmp_path / "case", AcquisitionNumber=1)
    other = SECOND[:, : tags.get("Rows", 5)]
    for k, values in enumerate(other):
        made = dataset(values, above(k), AcquisitionNumber=2, **tags)
        write(made, folder / f"B{k}")
    refused(read_dicom, folder, "--series 3:1 (acq", "--series 3:2 (acquisition number 2, 4 sl")
    np.testing.assert_array_equal(read_scan(folder, series="3:1").voxels, VOXELS)
    np.testing.assert_array_equal(read_scan(folder, series="3:2").voxels, other)
