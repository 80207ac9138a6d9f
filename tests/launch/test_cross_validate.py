"""Folds, and the command from a published tree to predictions and scores of each fold."""

import json
import re
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from input_pipeline.splits import make_folds
from launch import cli, compare, cross_validate, lung_masks, predict, prepare, score
from tests.support import ROOT
from tests.support.phantom_chest import SHAPE, SPACING, chest

pytestmark = pytest.mark.slow

AFFINE = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
PATIENTS = [f"p{number:02d}" for number in range(20)]


@pytest.mark.parametrize(("scheme", "sizes"), [("usual", (16, 4)), ("ma", (4, 16))])
def test_folds_of_twenty_patients(scheme, sizes):
    folds = make_folds(PATIENTS * 3, folds=5, scheme=scheme, seed=0)
    assert [(len(train), len(held)) for train, held in folds] == [sizes] * 5
    assert all(sorted(train + held) == PATIENTS for train, held in folds)
    counts = Counter(name for _, held in folds for name in held)
    assert set(counts.values()) == ({1} if scheme == "usual" else {4})
    assert folds == make_folds(PATIENTS[::-1], folds=5, scheme=scheme, seed=0)
    assert folds != make_folds(PATIENTS, folds=5, scheme=scheme, seed=1)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"folds": 21}, "21 folds of 20 patients"),
        ({"folds": 1}, "1 folds of 20 patients"),
        ({"scheme": "other"}, "scheme is 'other'"),
    ],
)
def test_bad_folds(given, text):
    with pytest.raises(ValueError, match=text):
        make_folds(PATIENTS, **({"folds": 5, "scheme": "usual", "seed": 0} | given))


def run(capsys, main, *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.run(main, [str(argument) for argument in arguments])
    return int(ended.value.code or 0), *capsys.readouterr()


def save(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.transpose(2, 1, 0), AFFINE), path)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """COVID-19-CT-Seg with two thin volumes of a chest, its solid part the lesion."""
    folder = tmp_path_factory.mktemp("ct_seg")
    scan = chest()
    assert scan.voxels.shape == SHAPE
    for number in range(2):
        levels = slice(19 + number, 23 + number)
        for part, voxels in (
            ("COVID-19-CT-Seg_20cases", scan.voxels),
            ("Lung_Mask", scan.sides),
            ("Infection_Mask", (scan.dense & (scan.sides > 0)).astype(np.uint8)),
        ):
            save(folder / part / f"coronacases_{number}.nii.gz", voxels[levels])
    return folder


@pytest.mark.usefixtures("small_network")
def test_from_the_published_tree_to_scores_of_every_fold(tree, tmp_path, capsys):
    records = tree / "records"
    assert (
        run(capsys, prepare.main, "covid19_ct_seg", "--source", tree, "--data-dir", records)[0] == 0
    )
    fields = {
        "data.source_dir": tree,
        "data.data_dir": records,
        "data.image_size": 32,
        "train.batch_size": 8,
        "train.epochs": 1,
    }
    config = [f"--config.{name}={value}" for name, value in fields.items()]
    given = ["--config", ROOT / "configs/covid19_ct_seg.py", "--workdir", tmp_path / "w", *config]
    given += ["--folds", "2", "--quiet"]
    status, printed, errors = run(capsys, cross_validate.main, *given)
    assert (status, errors) == (0, "")
    assert "interval over 2 cases" in printed and "HD95 (mm)" in printed
    summary = json.loads((tmp_path / "w" / "metrics.json").read_text())
    assert (summary["cases"], summary["patients"]) == (2, 2)
    held = [json.loads((tmp_path / "w" / f"fold_{k}" / "splits.json").read_text()) for k in (1, 2)]
    assert sorted(name for fold in held for name in fold["validation"]) == sorted(
        f"coronacases_{number}_{place:04d}" for number in range(2) for place in range(4)
    )
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "w").glob("fold_*/**/*")}
    assert run(capsys, cross_validate.main, *given)[1] == printed  # done: nothing is trained again
    assert stamps == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "w").glob("fold_*/**/*")
    }
    parts = ",".join(str(tmp_path / "w" / f"fold_{k}") for k in (1, 2))
    status, printed, errors = run(capsys, compare.main, tmp_path / "w", f"parts={parts}")
    assert (status, errors) == (0, "")  # the folds' own tables are the cross-validation's
    assert re.search(
        r"^ +parts +\S+ \[.*\] +\+0.000 \[\+0.000, \+0.000\] .* 0 / 2 / 0$", printed, re.M
    )
    status, _, errors = run(capsys, cross_validate.main, *given, "--scheme", "ma")
    assert status == 2 and "other folds than these" in errors

    images, out = tree / "COVID-19-CT-Seg_20cases", tmp_path / "masks"
    options = ("--workdir", tmp_path / "w" / "fold_1", "--intensity", "hu", "--which", "last")
    options += ("--lungs", tree / "Lung_Mask", "--out", out, "--quiet")
    assert run(capsys, predict.main, *options, images)[0] == 0
    for number in range(2):
        name = f"coronacases_{number}.nii.gz"
        mask, image = nib.load(out / name), nib.load(images / name)
        assert mask.shape == image.shape
        np.testing.assert_array_equal(mask.affine, image.affine)
    status, printed, _ = run(
        capsys, score.main, "--pred", out, "--truth", tree / "Infection_Mask", "--quiet"
    )
    assert status == 0 and "interval over 2 cases" in printed
    made = ("--intensity", "hu", "--out", tmp_path / "lungs")
    assert run(capsys, lung_masks.main, *made, images)[0] == 0
    assert (tmp_path / "lungs" / "coronacases_0.nii.gz").exists()
