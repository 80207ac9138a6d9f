"""DICOM as hospitals export it, through the commands: volumes, positions and choices."""

import re

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from configs import covid_semiseg
from launch import cli, lung_masks
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.workdir import save_settings
from tests.input_pipeline.io.test_archive import pack
from tests.input_pipeline.io.test_dicom import dataset, write
from tests.input_pipeline.io.test_dicom_export import OTHERS
from tests.launch.test_predict_scans import run as predict
from tests.launch.test_predict_scans import table
from tests.launch.test_predict_scans import workdir as _workdir
from tests.support.phantom_chest import SPACING, chest

workdir = _workdir  # a fixture
ORIGIN = np.array([-190.0, -150.0, -100.0])
DZ = 2 * SPACING[0]  # of every second slice of the phantom
ML = DZ * SPACING[1] * SPACING[2] / 1000  # of a voxel
MISSING = (10, 11)


@pytest.fixture(scope="module")
def phantom():
    scan = chest()
    return scan._replace(voxels=scan.voxels[::2], sides=scan.sides[::2], dense=scan.dense[::2])


def export(folder, voxels, heights=None, only=None, name="IM{:03d}", **tags):
    """A DICOM series of a scan; heights in mm above the origin."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(voxels)) if only is None else only:
        height = DZ * number if heights is None else heights[number]
        place = ORIGIN + np.array([0, 0, height])
        made = dataset(voxels[number], place, intercept=-2000, **tags)
        made.PixelSpacing, made.SliceThickness = list(SPACING[1:]), DZ
        write(made, folder / name.format(number))
    return folder


def find_lungs(capsys, out, *arguments):
    """Standard output and error of the command `lung_masks`, and its mL of each side."""
    with pytest.raises(SystemExit) as ended:
        cli.run(lung_masks.main, [str(argument) for argument in ("--out", out, *arguments)])
    said, errors = capsys.readouterr()
    assert int(ended.value.code or 0) == 0, errors
    found = re.findall(r"right lung (\d+) mL, left lung (\d+) mL", said)
    return said, errors, [tuple(map(int, pair)) for pair in found]


def at_height(path):
    """The voxels of a mask, [rows, columns], by the height of their plane above the origin."""
    image = nib.load(path)
    voxels = np.asarray(image.dataobj)
    heights = image.affine[2, 3] + image.affine[2, 2] * np.arange(voxels.shape[2]) - ORIGIN[2]
    return {float(height): voxels[..., k].T for k, height in enumerate(heights)}


def test_a_mixed_export_gives_the_lungs_of_the_series(tmp_path, capsys, phantom):
    folder = export(tmp_path / "case", phantom.voxels)
    _, said, (plain,) = find_lungs(capsys, tmp_path / "plain", folder)
    assert said == ""
    for number, (make, _) in enumerate(OTHERS.values()):
        make(folder, f"X{number}")
    for options in ((), ("--series", 3)):
        out = tmp_path / f"out{len(options)}"
        _, said, (mixed,) = find_lungs(capsys, out, folder, *options)
        assert mixed == plain
        assert said.count("\n") == 1
        assert f"case: {len(OTHERS)} files left out: " in said
    np.testing.assert_array_equal(*(nib.load(tmp_path / name / "case.nii.gz").dataobj
                                    for name in ("plain", "out0")))  # fmt: skip


def test_the_mask_of_a_series_with_missing_slices(tmp_path, capsys, phantom):
    whole = export(tmp_path / "whole", phantom.voxels)
    part = [k for k in range(len(phantom.voxels)) if k not in MISSING]
    export(tmp_path / "part", phantom.voxels, only=part)
    _, said, (all_of_it, rest) = find_lungs(capsys, tmp_path / "o", whole, tmp_path / "part")
    first, second = at_height(tmp_path / "o/whole.nii.gz"), at_height(tmp_path / "o/part.nii.gz")
    assert list(first) == list(second)
    lost = 0.0
    for number, height in enumerate(first):
        if number in MISSING:
            assert not second[height].any()
            lost += np.count_nonzero(first[height]) * ML
        else:
            np.testing.assert_array_equal(first[height] > 0, second[height] > 0)
    assert sum(all_of_it) - sum(rest) == pytest.approx(lost, abs=2)
    assert "gap of 30 mm between IM009 and IM012: 2 slices; missing slices are in no volume" in said
    (estimate,) = re.findall(r"about (\d+) mL of the lungs are not in the volumes", said)
    assert float(estimate) == pytest.approx(lost, rel=0.05)
    assert said.count("\n") == 2


def test_uneven_slices_have_their_own_volumes(tmp_path, capsys, phantom):
    heights = np.cumsum([0] + [DZ] * 10 + [DZ / 2] * 11)
    export(tmp_path / "even", phantom.voxels)
    export(tmp_path / "uneven", phantom.voxels, heights)
    _, said, (_, uneven) = find_lungs(
        capsys, tmp_path / "o", tmp_path / "even", tmp_path / "uneven"
    )
    even = at_height(tmp_path / "o/even.nii.gz")
    extents = np.r_[[DZ] * 10, 0.75 * DZ, [DZ / 2] * 11]
    for side in (1, 2):
        pixels = np.array([np.count_nonzero(plane == side) for plane in even.values()])
        wanted = float(pixels @ extents) * SPACING[1] * SPACING[2] / 1000
        assert uneven[side - 1] == pytest.approx(wanted, abs=1)
    found = at_height(tmp_path / "o/uneven.nii.gz")
    for number, height in enumerate(heights):
        np.testing.assert_array_equal(found[height], even[DZ * number])
    assert said.count("\n") == 1
    assert "10 of 21 steps between slices are uneven (5 to 10 mm)" in said


def test_predict_measures_and_places_lesion_in_a_broken_stack(tmp_path, capsys, phantom, workdir):
    """Lesion of a known place, with the lung masks that the other command wrote."""
    heights = np.cumsum([0] + [DZ] * 10 + [DZ / 2] * 11)
    part = [k for k in range(len(phantom.voxels)) if k not in (14, 15, 16)]
    folder = export(tmp_path / "case", phantom.voxels, heights, only=part)
    find_lungs(capsys, tmp_path / "lungs", folder)
    lungs = tmp_path / "lungs"
    nib.save(  # of the phantom itself: the command loses the solid part
        nib.Nifti1Image(_on_planes(phantom.sides, heights, part, lungs / "case.nii.gz"),
                        nib.load(lungs / "case.nii.gz").affine),
        lungs / "case.nii.gz",
    )  # fmt: skip
    options = ["--workdir", workdir, "--out", tmp_path / "o", "--lung-dir", lungs, "--quiet"]
    status, said, errors = predict(capsys, *options, folder)
    assert status == 0, errors
    assert "case: lungs" in said
    assert "slices are missing (3 planes of the mask are empty): about" in errors
    found = at_height(tmp_path / "o/case.nii.gz")
    truth = phantom.dense & (phantom.sides == 1)
    for number in part:
        inside = found[float(heights[number])] > 0
        assert np.count_nonzero(inside != truth[number]) <= 0.3 * truth[number].sum() + 4
    (row,) = table(tmp_path / "o/volumes.csv")
    extents = np.r_[[DZ] * 10, 0.75 * DZ, [DZ / 2] * 11]
    pixels = np.array([np.count_nonzero(found[float(heights[k])]) for k in part])
    wanted = float(pixels @ extents[part]) * SPACING[1] * SPACING[2] / 1000
    assert float(row["lesion_ml"]) == pytest.approx(wanted, abs=0.051)  # rounded


def _on_planes(array, heights, part, like):
    """An array on the planes of a mask file, as [columns, rows, planes]."""
    planes = sorted(at_height(like))
    result = np.zeros((*array.shape[:0:-1], len(planes)), np.uint8)
    for number in part:
        result[..., planes.index(float(heights[number]))] = array[number].T
    return result


def test_acquisitions_series_and_places_are_chosen(tmp_path, capsys, phantom):
    shrunk = np.roll(phantom.voxels, 2, axis=2)
    folder = export(tmp_path / "case", phantom.voxels, AcquisitionNumber=1)
    export(folder, shrunk, name="B{:03d}", AcquisitionNumber=2)
    with pytest.raises(SystemExit):
        cli.run(lung_masks.main, ["--out", str(tmp_path / "o"), str(folder)])
    assert "--series 3:1 (acquisition number 1, 22 slices); --series 3:2 (" in (
        capsys.readouterr().err
    )
    for number in (1, 2):
        options = ("--series", f"3:{number}")
        find_lungs(capsys, tmp_path / f"o{number}", folder, *options)
    first, second = (np.asarray(nib.load(tmp_path / name / "case.nii.gz").dataobj)
                     for name in ("o1", "o2"))  # fmt: skip
    np.testing.assert_array_equal(np.roll(first, 2, axis=0), second)


def test_a_tree_of_scans_and_a_preview(tmp_path, capsys, phantom, workdir):
    for patient in ("p1", "p2"):
        folder = export(tmp_path / f"all/{patient}", phantom.voxels, SeriesInstanceUID=patient[1])
        (folder / "preview.jpg").write_bytes(b"\xff\xd8")
    lungs = ("--lung-dir", tmp_path / "lungs")
    _, said, found = find_lungs(capsys, tmp_path / "lungs", tmp_path / "all")
    assert len(set(found)) == 1 and len(found) == 2
    assert said.count("1 not DICOM (preview.jpg)") == 2
    options = ["--workdir", workdir, "--out", tmp_path / "o", *lungs, "--quiet", "--no-pictures"]
    status, *_ = predict(capsys, *options, tmp_path / "all")
    assert status == 0
    assert sorted(path.name for path in (tmp_path / "o").glob("*.*z")) == [
        "p1.nii.gz", "p2.nii.gz"]  # fmt: skip


def test_a_network_of_pictures_reads_the_scan_and_not_its_preview(
    tmp_path, capsys, phantom, workdir
):
    config = covid_semiseg.get_config()
    config.data.update({"image_size": 128, "lung_mask": "threshold"})
    save_settings(Settings.from_config(config), tmp_path / "grey")
    folder = export(tmp_path / "case", phantom.voxels)
    Image.new("L", (64, 64)).save(folder / "preview.jpg")
    nifti = tmp_path / "nifti"
    nifti.mkdir()
    affine = np.diag([DZ, -3, -3, 1])[[2, 1, 0, 3]]
    nib.save(nib.Nifti1Image(phantom.voxels, affine), nifti / "scan.nii.gz")
    Image.new("L", (64, 64)).save(nifti / "scan_preview.png")
    for number, source in enumerate((folder, nifti)):
        out = tmp_path / f"o{number}"
        options = ["--workdir", tmp_path / "grey", "--out", out, "--quiet", "--no-pictures"]
        options += ["--intensity", "hu"]
        status, _, errors = predict(capsys, *options, source)
        assert status == 0, errors
        assert "preview" in errors
        (mask,) = (path.name for path in out.glob("*.nii.gz"))
        assert mask == ("case.nii.gz", "scan.nii.gz")[number]
        assert len(table(out / "volumes.csv")) == 1


def test_scans_of_an_archive_are_kept_and_found_again(tmp_path, capsys, phantom):
    for patient in ("p1", "p2"):
        export(tmp_path / f"all/{patient}", phantom.voxels, SeriesInstanceUID=patient[1])
    path = pack(tmp_path / "study.zip", tmp_path / "all")
    _, _, found = find_lungs(capsys, tmp_path / "o", path)
    assert len(found) == 2
    assert [row["file"] for row in table(tmp_path / "o/lungs.csv")] == [
        str(path / "p1"), str(path / "p2")]  # fmt: skip
    said, *_ = find_lungs(capsys, tmp_path / "o", path)
    assert "holds 2 of 2 already" in said
