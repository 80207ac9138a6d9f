"""Uneven and missing slices, and absent tags: volumes, positions and what is said of them."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from input_pipeline.inference_slices import read_lung_labels
from input_pipeline.io.dicom_series import read_dicom
from input_pipeline.io.dicom_stack import lay_out
from input_pipeline.io.nifti import write_nifti_mask
from input_pipeline.io.read import read_scan
from input_pipeline.io.scan import own_slices, to_file_grid
from ssa_jax.experiment.lesion_volumes import lesion_volumes, missing_note, volume_ml
from tests.input_pipeline.io.test_dicom import NAMES, ORIGIN, above, dataset, series, write
from tests.input_pipeline.io.test_scan import MASK, SPACING, VOXELS, refused

DZ = SPACING[0]
UPSIDE_DOWN = [1, 0, 0, 0, -1, 0]  # rows to the front, so that the normal points to the feet


def stack(folder, heights, **tags):
    """A folder with a slice at each height (in mm above the origin); its value is its number."""
    folder.mkdir()
    for number, height in enumerate(heights):
        values = np.full((5, 6), number - 900, np.int16)
        values[-1] += np.arange(6, dtype=np.int16)  # a constant at the corners would be padding
        values[0] = -1000 + number  # the front row, so that slices cannot be turned unnoticed
        if tags.get("ImageOrientationPatient") == UPSIDE_DOWN:
            values = values[::-1].copy()
        write(
            dataset(values, ORIGIN + np.array([0, 0, height]), **tags), folder / f"IM{number:03d}"
        )
    return folder


def places(path):
    """The values in the first row of each plane of a mask file, by the plane's height."""
    image = nib.load(path)
    planes = np.asarray(image.dataobj)[0, 0]
    heights = image.affine[2, 3] + image.affine[2, 2] * np.arange(len(planes))
    return dict(zip(np.round(heights - ORIGIN[2], 3).tolist(), planes.tolist(), strict=True))


@pytest.mark.parametrize("tags", [{}, {"ImageOrientationPatient": UPSIDE_DOWN}])
@pytest.mark.parametrize(
    ("heights", "wanted", "slice_mm"),
    [
        # 8 mm below, 4 mm above: each thick slice has two planes
        ([0, 8, 16, 24, 28, 32, 36, 40],
         [1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8], (8, 8, 8, 6, 4, 4, 4, 4)),
        # slices 3 and 4 of an even stack are missing
        ([0, 5, 10, 25, 30], [1, 2, 3, 0, 0, 4, 5], None),
        # two single ones
        ([0, 5, 15, 20, 30, 35], [1, 2, 0, 3, 4, 0, 5, 6], None),
        # the gap is no multiple of the distance
        ([0, 4, 8, 18, 22], [1, 1, 2, 2, 3, 3, 0, 0, 0, 4, 4, 5], None),
        # both: uneven, and a gap of 15 mm
        ([0, 5, 10, 15, 17.5, 20, 22.5, 37.5, 40],
         [1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0, 8, 9],
         (5, 5, 5, 3.75, 2.5, 2.5, 2.5, 2.5, 2.5)),
        # even but for rounding
        ([0, 5.001, 9.999, 15], [1, 2, 3, 4], None),
        # even, with a distance that is not that of most pairs: rounded positions
        (np.round(np.arange(40) * 1.4285714, 1), list(range(1, 41)), None),
    ],
)  # fmt: skip
def test_the_mask_lies_where_the_slices_are(tmp_path, heights, wanted, slice_mm, tags):
    scan = read_scan(
        stack(tmp_path / "case", heights, SliceThickness=min(np.diff(heights)), **tags)
    )
    np.testing.assert_array_equal(scan.voxels[:, 1, 1], np.arange(len(heights)) - 900)
    assert scan.slice_mm == (None if slice_mm is None else pytest.approx(slice_mm))
    mask = np.ones(scan.voxels.shape, np.uint8) * np.arange(1, len(heights) + 1)[:, None, None]
    write_nifti_mask(tmp_path / "m.nii.gz", mask.astype(np.uint8), scan)
    found = places(tmp_path / "m.nii.gz")
    at = sorted(found)
    step = at[1] - at[0]
    for number, height in enumerate(heights, start=1):
        near = min(at, key=lambda place: abs(place - height))
        assert abs(near - height) <= 0.1 * step
        assert found[near] == number
    if not tags:  # a plane at the border of two slices belongs to the lower one on the normal
        assert [found[place] for place in at] == wanted
    again = read_scan(tmp_path / "m.nii.gz", intensity="uint8")
    np.testing.assert_array_equal(own_slices(again.voxels, scan), mask)
    assert len([note for note in scan.notes if "uneven" in note]) == (slice_mm is not None)
    assert len([note for note in scan.notes if "gap" in note]) == (0 in wanted)


def test_volumes_use_each_slices_own_extent(tmp_path):
    heights = [0, 8, 16, 24, 28, 32]
    scan = read_scan(stack(tmp_path / "case", heights))
    lung = np.zeros(scan.voxels.shape, np.uint8)
    lung[:, 1:3], lung[:, 3:] = 1, 2
    labels = np.zeros_like(lung)
    labels[1, 1], labels[5, 3] = 1, 1
    pixel = SPACING[1] * SPACING[2] / 1000
    row = lesion_volumes(labels, lung, scan.spacing, ("lesion",), scan.slice_mm)
    extents = 8 + 8 + 8 + 6 + 4 + 4
    assert row["right_lung_ml"] == pytest.approx(12 * extents * pixel, abs=1e-6)
    assert row["lesion_right_ml"] == pytest.approx(6 * 8 * pixel, abs=1e-6)
    assert row["lesion_left_ml"] == pytest.approx(6 * 4 * pixel, abs=1e-6)
    assert row["lesion_share_of_right_lung"] == pytest.approx(6 * 8 / (12 * extents))
    counts = np.count_nonzero(lung == 1, axis=(1, 2))
    assert volume_ml(counts, scan) == pytest.approx(12 * extents * pixel)
    even = replace(scan, slice_mm=None)
    assert volume_ml(counts, even) == pytest.approx(12 * 6 * scan.spacing[0] * pixel)
    assert missing_note(lung, scan) == []


def test_the_lung_in_missing_slices_is_estimated(tmp_path):
    scan = read_scan(stack(tmp_path / "case", [0, 50, 100, 250, 300]))
    lung = np.zeros(scan.voxels.shape, np.uint8)
    lung[1:, 1:3] = 1
    lung[3, 1:5] = 2
    volume = (12 + 24) / 2 * SPACING[1] * SPACING[2] * 100 / 1000
    (note,) = missing_note(lung, scan)
    assert note.endswith(f"about {volume:.0f} mL of the lungs are not in the volumes")
    assert missing_note(np.zeros_like(lung), scan) == []


def test_one_line_for_all_gaps_and_one_for_uneven_steps(tmp_path):
    heights = [0, 5, 10, 20, 25, 35, 40, 50, 55, 65, 70, 75, 80]
    (note,) = read_scan(stack(tmp_path / "a", heights)).notes
    assert note.startswith("gap of 10 mm between IM002 and IM003: 1 slice; gap of 10 mm between ")
    assert "; 1 more gaps; missing slices are in no volume" in note
    heights = np.cumsum([0] + [8] * 11 + [4] * 12)
    (note,) = read_scan(stack(tmp_path / "b", heights)).notes
    assert note == (
        "11 of 23 steps between slices are uneven (4 to 8 mm); volumes use each slice's own "
        "extent, and the mask has planes every 4 mm"
    )


def test_a_coarser_part_is_no_gap_and_thin_slices_far_apart_are_none():
    assert lay_out(np.array([0, 4, 8, 12, 20, 28, 36.0]), 4.0).gaps == ()
    assert lay_out(np.array([0, 4, 8, 12, 20, 24.0]), 4.0).gaps == (3,)
    assert lay_out(np.array([0, 4, 8, 12, 20, 24.0]), 8.0).gaps == ()  # a thick slice covers it
    even = lay_out(np.arange(6) * 10.0, 1.0)  # high resolution: 1 mm every 10 mm
    assert (even.gaps, even.usual, even.slice_mm) == ((), 10.0, None)


def test_what_no_regular_grid_holds_is_said_and_two_mixed_stacks_are_refused(tmp_path):
    heights = [0, 5, 8.1, 14.7, 19.2, 25.9]
    (note,) = read_scan(stack(tmp_path / "a", heights)).notes
    assert "5 of 5 steps" in note or "4 of 5 steps" in note
    layout = lay_out(np.array(heights), None)
    assert ("positions are off" in note) == (layout.off > 0.1 * layout.usual)
    mixed = np.sort(np.r_[np.arange(9) * 5.0, np.arange(9) * 5.0 + 0.1])
    refused(read_dicom, stack(tmp_path / "b", mixed[:12]), "only 0.1 mm apart")


def test_probabilities_and_labels_fill_missing_planes(tmp_path):
    scan = read_scan(stack(tmp_path / "case", [0, 5, 10, 25, 30]))
    ones = np.ones(scan.voxels.shape, np.float32)
    grid = to_file_grid(ones, scan, empty=0.5)
    assert grid.shape == scan.file_shape == (6, 5, 7)
    assert grid[0, 0].tolist() == [1, 1, 1, 0.5, 0.5, 1, 1]


def test_lung_masks_are_read_back_to_the_slices(tmp_path):
    for number, heights in enumerate(([0, 5, 10, 25, 30], [0, 8, 16, 24, 28, 32, 36])):
        scan = read_scan(stack(tmp_path / f"case{number}", heights))
        lung = np.random.default_rng(0).integers(0, 3, scan.voxels.shape).astype(np.uint8)
        write_nifti_mask(tmp_path / "m.nii.gz", lung, scan)
        np.testing.assert_array_equal(read_lung_labels(tmp_path / "m.nii.gz", scan), lung)
        other = read_scan(stack(tmp_path / f"other{number}", [0, 5, 10]))
        with pytest.raises(ValueError, match="not on the grid"):
            read_lung_labels(tmp_path / "m.nii.gz", other)


def test_an_uneven_stack_that_is_not_axial_is_refused(tmp_path):
    (tmp_path / "case").mkdir()
    for number, back in enumerate((0, 3, 6, 15)):
        made = dataset(VOXELS[0], ORIGIN + np.array([0, back, 0]), SliceThickness=3,
                       ImageOrientationPatient=[1, 0, 0, 0, 0, -1])  # fmt: skip
        write(made, tmp_path / "case" / f"{number}")
    refused(read_dicom, tmp_path / "case", "gap of 9 mm", "not axial")


def test_absent_rescale_tags(tmp_path):
    tags = {"RescaleSlope": None, "RescaleIntercept": None}
    scan = read_scan(series(tmp_path / "hu", intercept=0, PixelRepresentation=1, **tags))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    (note,) = scan.notes
    assert note.startswith("has no RescaleSlope and RescaleIntercept: slope 1 and intercept 0")
    scan = read_scan(series(tmp_path / "slope", RescaleSlope=None))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.notes[0].startswith("has no RescaleSlope: ")


@pytest.mark.parametrize("padding", [None, -2000])
def test_absent_rescale_tags_of_values_that_need_them(tmp_path, padding):
    """HU + 1024, also with a padding below 0."""
    tags = {"RescaleSlope": None, "RescaleIntercept": None, "PixelRepresentation": 1}
    (tmp_path / "case").mkdir()
    for number, values in enumerate(VOXELS):
        stored = values + np.int16(1024)
        if padding is not None:
            stored[:2] = padding
        write(dataset(stored, above(number), intercept=0, **tags), tmp_path / f"case/{number}")
    refused(read_dicom, tmp_path / "case", "case/0: has no RescaleSlope, RescaleIntercept",
            "air and lung", "-1024 in most scanners")  # fmt: skip


@pytest.mark.parametrize("tags", [{}, {"ImageOrientationPatient": UPSIDE_DOWN}])
def test_slice_location_stands_for_an_absent_position(tmp_path, tags):
    (tmp_path / "case").mkdir()
    for number, (values, name) in enumerate(zip(VOXELS, NAMES, strict=True)):
        shown = values[::-1].copy() if tags else values
        made = dataset(shown, ORIGIN, ImagePositionPatient=None, SliceLocation=DZ * number, **tags)
        write(made, tmp_path / "case" / name)
    scan = read_scan(tmp_path / "case")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.spacing, SPACING)
    (note,) = scan.notes
    assert note.startswith("has no ImagePositionPatient: SliceLocation is used")


def test_what_cannot_be_placed_is_refused(tmp_path):
    numbered = {"ImagePositionPatient": None, "InstanceNumber": 3}
    refused(read_dicom, series(tmp_path / "a", **numbered), "no ImagePositionPatient or SliceLoc")
    located = {"ImageOrientationPatient": None, "SliceLocation": 3}
    refused(read_dicom, series(tmp_path / "b", **located), "has no ImageOrientationPatient")
    folder = series(tmp_path / "c")
    write(dataset(VOXELS[0], ORIGIN, ImagePositionPatient=None, SliceLocation=99), folder / "IM2")
    refused(read_dicom, folder, "IM2: has no ImagePositionPatient, expected these as in the other")


def test_gaps_are_reported(tmp_path):
    scan = read_scan(series(tmp_path / "case", heights=[0, 1, 2, 5]))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    (note,) = scan.notes
    assert "gap of 7.5 mm between IM9 and IM4: 2 slices" in note
    np.testing.assert_allclose(scan.spacing, SPACING)


def test_uneven_steps_are_reported(tmp_path):
    (note,) = read_scan(series(tmp_path / "case", heights=[0, 1, 2.3, 3.3])).notes
    assert "1 of 3 steps between slices are uneven (2.5 to 3.25 mm)" in note
    assert read_scan(series(tmp_path / "noise", heights=[0, 1.001, 1.999, 3])).notes == ()


def test_gantry_tilt_is_reported(tmp_path):
    lean = np.tan(np.radians(12)) * SPACING[0]
    for number, (values, name) in enumerate(zip(VOXELS, NAMES, strict=True)):
        write(dataset(values, above(number, back=lean * number)), tmp_path / name)
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.spacing, SPACING)
    (note,) = scan.notes
    assert "leans by 12.0 degrees (gantry tilt)" in note
    np.testing.assert_allclose((scan.affine @ [0, 0, 3, 1])[:3], (120, 90 - 3 * lean, 47.5))
    write_nifti_mask(tmp_path.parent / "t.nii.gz", MASK, scan)
    np.testing.assert_allclose(nib.load(tmp_path.parent / "t.nii.gz").affine, scan.affine, 1e-5)


def test_a_slice_beside_the_others_is_refused(tmp_path):
    folder = series(tmp_path / "case")
    write(dataset(VOXELS[1], above(1, left=30)), folder / "IM2")
    refused(read_dicom, folder, "IM2", "beside the line")
