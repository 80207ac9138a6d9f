"""The score command: label maps of another program, on whatever axes they are stored."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from launch import cli, score

AFFINE = np.diag([1.0, 2.0, 5.0, 1.0])


def label_map() -> np.ndarray:
    """Class 1 in 4 x 3 x 2 voxels and class 2 in a voxel."""
    labels = np.zeros((12, 10, 8), np.uint8)
    labels[2:6, 3:6, 2:4] = 1
    labels[9, 8, 6] = 2
    return labels


def save(path: Path, labels: np.ndarray, *, turned: bool = False, affine=AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(labels, affine)
    nib.save(image.as_reoriented([[2, -1], [0, 1], [1, -1]]) if turned else image, path)


def run(capsys, *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.run(score.main, [str(argument) for argument in arguments])
    return int(ended.value.code or 0), *capsys.readouterr()


def refuse(capsys, text: str, folder: Path) -> None:
    pair = ("--pred", folder / "pred", "--truth", folder / "truth")
    status, out, errors = run(capsys, *pair, "--out", folder / "out")
    assert (status, out) == (2, "") and errors.startswith("error: ") and text in errors, errors
    assert errors.count("\n") == 1
    assert not (folder / "out").exists()


def fail(capsys, text: str, folder: Path) -> None:
    """The bad case is left out and said; the other is scored."""
    pair = ("--pred", folder / "pred", "--truth", folder / "truth")
    status, out, errors = run(capsys, *pair, "--out", folder / "out")
    assert status == 3 and text in errors and "1 of 2 inputs failed, see " in errors, errors
    status, out, errors = run(capsys, *pair)
    assert status == 3 and "1 of 2 inputs failed:\n" in errors, errors
    assert "HD95 (mm)" in out
    assert json.loads((folder / "out" / "metrics.json").read_text())["cases"] == 1


def test_scores_in_millimetres_whatever_the_axes(tmp_path, capsys):
    truth, prediction = label_map(), label_map()
    prediction[6:8, 3:6, 2:4] = 1  # 12 voxels and 2 mm too many along the first axis
    save(tmp_path / "truth" / "a.nii.gz", truth)
    save(tmp_path / "pred" / "a.nii", prediction, turned=True)
    Image.new("L", (4, 4)).save(tmp_path / "pred" / "a.png")  # the picture that predict leaves
    (tmp_path / "pred" / "volumes.csv").write_text("")
    pair = ("--pred", tmp_path / "pred", "--truth", tmp_path / "truth", "--task", "multiclass")
    status, printed, errors = run(capsys, *pair, "--out", tmp_path / "out")
    assert (status, errors) == (0, "") and "HD95 (mm)" in printed
    with (tmp_path / "out" / "cases.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["standard.dsc"]) == pytest.approx(2 * 24 / (24 + 36))
    assert float(first["standard.hd95"]) == pytest.approx(2.0)
    assert float(second["standard.dsc"]) == 1.0
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert summary["cases"] == 1 and "paper_compat" not in summary


def test_binary_counts_both_classes_as_lesion(tmp_path, capsys):
    save(tmp_path / "truth" / "a.nii.gz", label_map())
    save(tmp_path / "pred" / "a.nii.gz", (label_map() > 0).astype(np.uint8))
    pair = ("--pred", tmp_path / "pred", "--truth", tmp_path / "truth")
    assert run(capsys, *pair, "--out", tmp_path / "out")[0] == 0
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert summary["standard"]["lesion"]["dsc"]["mean"] == 1.0


def test_pictures_are_scored_in_pixels(tmp_path, capsys):
    for folder, columns in (("truth", 4), ("pred", 2)):
        mask = np.zeros((8, 8), np.uint8)
        mask[2:6, :columns] = 255
        (tmp_path / folder).mkdir()
        Image.fromarray(mask).save(tmp_path / folder / "a.png")
    status, printed, _ = run(capsys, "--pred", tmp_path / "pred", "--truth", tmp_path / "truth")
    assert status == 0 and "HD95 (px)" in printed and "0.6667" in printed


def test_bad_input_is_one_line_and_a_bad_case_costs_itself(tmp_path, capsys):
    refuse(capsys, "no such folder", tmp_path)
    (tmp_path / "pred").mkdir()
    save(tmp_path / "truth" / "a.nii.gz", label_map())
    refuse(capsys, "no label map in it", tmp_path)
    save(tmp_path / "pred" / "b.nii.gz", label_map())
    refuse(capsys, "no prediction of that name", tmp_path)
    save(tmp_path / "truth" / "b.nii.gz", label_map())
    save(tmp_path / "pred" / "a.nii.gz", label_map()[1:])
    fail(capsys, "not on the grid of", tmp_path)
    moved = AFFINE.copy()
    moved[0, 3] = 0.5
    save(tmp_path / "pred" / "a.nii.gz", label_map(), affine=moved)
    fail(capsys, "mm apart", tmp_path)
    save(tmp_path / "pred" / "a.nii.gz", label_map() * 4)
    fail(capsys, "holds the values 4, 8", tmp_path)
    (tmp_path / "pred" / "a.nii.gz").write_bytes(b"")
    fail(capsys, "the file is empty", tmp_path)
    save(tmp_path / "pred" / "a.nii.gz", label_map())
    pair = ("--pred", tmp_path / "pred", "--truth", tmp_path / "truth")
    status, out, errors = run(capsys, *pair, "--out", tmp_path / "out")
    assert (status, errors) == (0, "") and "holds 1 of 2 already" in out
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["cases"] == 2


def test_doubts_about_the_millimetres_are_said(tmp_path, capsys):
    """An identity makes every voxel 1 mm wide; a plain scaling leaves only the sides unknown."""
    pair = ("--pred", tmp_path / "pred", "--truth", tmp_path / "truth")
    for affine, said in ((np.eye(4), True), (AFFINE, False)):
        for folder in ("truth", "pred"):
            save(tmp_path / folder / "a.nii.gz", label_map(), affine=affine)
        status, _, errors = run(capsys, *pair)
        assert status == 0
        assert errors.count("\n") == said
        assert not said or "truth/a.nii.gz: the affine is the identity" in errors


def test_maps_without_orientation_are_scored_on_stated_axes(tmp_path, capsys):
    for folder in ("truth", "pred"):
        path = tmp_path / folder / "a.nii.gz"
        save(path, label_map())
        image = nib.load(path)
        bare = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
        bare.set_sform(None, 0)
        nib.save(bare, path)
    pair = ("--pred", tmp_path / "pred", "--truth", tmp_path / "truth")
    status, _, errors = run(capsys, *pair)
    assert status == 3 and "--axes LPS" in errors
    status, _, errors = run(capsys, *pair, "--axes", "LPS", "--out", tmp_path / "out")
    assert (status, errors) == (0, "")
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert summary["standard"]["lesion"]["dsc"]["mean"] == 1.0
