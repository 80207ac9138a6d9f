"""Scans through the predict command, with a predictor whose answer is known."""

import csv
import hashlib
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from configs import covid_semiseg, ct_phantom
from input_pipeline.lungs.left_right import LEFT, RIGHT
from launch import cli, predict
from ssa_jax.evaluation.inference import Output
from ssa_jax.experiment import network as networks
from ssa_jax.experiment import segmentation
from ssa_jax.experiment import workdir as workdirs
from ssa_jax.experiment.lesion_volumes import lesion_volumes, rounded
from ssa_jax.experiment.settings import Settings
from tests.support.phantom_chest import SPACING, chest

# From [slices, rows, columns] to the world: columns to the patient's left, rows to the back.
AFFINE = np.array(
    [[0, 0, -SPACING[2], 50.0], [0, -SPACING[1], 0, 20.0], [SPACING[0], 0, 0, -300.0], [0, 0, 0, 1]]
)
ORDERS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def dense_in_lung(image: np.ndarray) -> Output:
    """Lesion where the lung mask is set and the intensity is that of soft tissue."""
    lesion = (image[..., 0] > 0.6) & (image[..., 1] > 0.5)
    prob = np.stack([~lesion, lesion], axis=-1).astype(np.float32)
    return Output(prob, np.repeat(image[..., :1], 4, axis=-1))


@pytest.fixture(scope="module")
def scan():
    return chest()


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> Path:
    """A network that reads HU and a lung mask from a file, its place taken by `dense_in_lung`."""
    monkeypatch.setattr(workdirs, "trained_variables", lambda *_: ({}, 0))
    monkeypatch.setattr(networks, "make_predict", lambda *_, **__: lambda _: dense_in_lung)
    config = ct_phantom.get_config()
    config.data.update({"image_size": 128, "lung_mask": "file"})
    workdirs.save_settings(Settings.from_config(config), tmp_path / "work")
    return tmp_path / "work"


def save(path: Path, voxels: np.ndarray, order=(0, 1, 2), signs=(1, 1, 1)) -> Path:
    """Write voxels with their axes in another order and direction; they stay where they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, AFFINE)
    nib.save(image.as_reoriented(np.stack([np.argsort(order), signs], axis=-1)), path)
    return path


def run(capsys, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command."""
    with pytest.raises(SystemExit) as ended:
        cli.run(predict.main, [str(argument) for argument in arguments])
    return int(ended.value.code or 0), *capsys.readouterr()


def refuse(capsys, text: str, *arguments: str | Path) -> None:
    """The command stops with one line."""
    status, out, errors = run(capsys, *arguments)
    assert (status, out) == (2, "") and errors.startswith("error: ") and text in errors, errors
    assert errors.count("\n") == 1


def fail(capsys, text: str, *arguments: str | Path) -> None:
    """The command leaves an input out, says `text` of it, and ends with status 3."""
    status, _, errors = run(capsys, *arguments)
    lines = [line for line in errors.splitlines() if "made-up chests" not in line]
    assert status == 3 and lines[0].startswith("failed: ") and text in lines[0], errors
    assert text in lines[-1]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def upright(image: nib.Nifti1Image) -> np.ndarray:
    """Voxels as [slices to the head, rows to the back, columns to the left]."""
    ours = nib.orientations.axcodes2ornt(("S", "P", "L"))
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), ours)
    return nib.orientations.apply_orientation(np.asarray(image.dataobj), turn)


@pytest.mark.slow
def test_the_mask_lies_where_the_lesion_is_in_every_orientation(tmp_path, workdir, capsys, scan):
    for number, (order, signs) in enumerate(ORDERS):
        name = f"scan{number:02d}.nii.gz"
        save(tmp_path / "in" / name, scan.voxels, order, signs)
        save(tmp_path / "lungs" / name, scan.sides)  # one orientation for all
    out = tmp_path / "out"
    options = ["--workdir", workdir, "--out", out, "--intensity", "hu", "--no-pictures"]
    options += ["--lungs", tmp_path / "lungs", "--quiet"]
    assert run(capsys, *options, tmp_path / "in")[0] == 0
    truth = scan.dense & (scan.sides == RIGHT)
    rows = table(out / "volumes.csv")
    assert len(rows) == len(ORDERS) == 48
    first = None
    for number, row in enumerate(rows):
        given = nib.load(tmp_path / "in" / f"scan{number:02d}.nii.gz")
        mask = nib.load(out / f"scan{number:02d}.nii.gz")
        assert mask.shape == given.shape
        np.testing.assert_array_equal(mask.affine, given.affine)
        found = upright(mask)
        first = found if first is None else first
        np.testing.assert_array_equal(found, first)
        del row["file"]
        assert row == {name: rows[0][name] for name in row}
    overlap = 2 * (first.astype(bool) & truth).sum() / (first.sum() + truth.sum())
    assert overlap > 0.9
    assert not first[scan.sides == LEFT].any()


def test_volumes_by_class_and_side(scan):
    labels = np.zeros_like(scan.sides)
    labels[22, 46, 30:34] = 1  # right lung
    labels[22, 46, 90:92] = 2  # left lung
    labels[0, 0, :3] = 1  # outside
    row = lesion_volumes(labels, scan.sides, (2.0, 0.5, 1.0), ("a", "b"))
    assert row["a_ml"] == pytest.approx(0.007)
    assert [row[f"a_{part}_ml"] for part in ("right", "left", "outside")] == pytest.approx(
        [0.004, 0, 0.003]
    )
    assert [row[f"b_{part}_ml"] for part in ("right", "left", "outside")] == pytest.approx(
        [0, 0.002, 0]
    )
    right, left = (int((scan.sides == side).sum()) for side in (RIGHT, LEFT))
    assert row["right_lung_ml"] == pytest.approx(right / 1000)
    assert row["a_share_of_right_lung"] == pytest.approx(4 / right)
    assert row["a_share_of_lung"] == pytest.approx(4 / (right + left))
    assert row["b_share_of_left_lung"] == pytest.approx(2 / left)
    row = lesion_volumes(labels, scan.sides, (1.1, 0.7, 0.7), ("a", "b"))
    assert row["a_ml"] == pytest.approx(0.003773)
    row["a_ml"] = 12.34567
    assert rounded(row)["a_ml"] == 12.3
    assert rounded(row)["a_share_of_lung"] == pytest.approx(4 / (right + left))


def test_what_touches_no_lung_is_removed():
    sides = np.zeros((4, 10, 10), np.uint8)
    sides[1:3, 2:6, 2:6] = RIGHT
    labels = np.zeros_like(sides)
    labels[1, 3, 5:9] = 1  # from the lung into what the mask lost
    labels[2, 4, 9] = 2  # hangs on by a corner: one slice up, one row, one column on
    labels[3, 8, 8] = 2
    labels[0, 0, :3] = 1
    kept = labels.copy()
    kept[3, 8, 8] = 0
    kept[0, 0, :3] = 0
    assert segmentation.remove_outside_lungs(labels, sides).sum() == 4
    np.testing.assert_array_equal(labels, kept)


def test_a_scan_without_lungs_gets_an_empty_mask_and_a_line(tmp_path, workdir, capsys):
    voxels = np.full((6, 40, 50), -1000, np.int16)
    voxels[:, 10:30, 10:40] = 40
    path = save(tmp_path / "block.nii.gz", voxels)
    save(tmp_path / "lungs" / "block.nii.gz", np.zeros(voxels.shape, np.uint8))
    out = tmp_path / "out"
    options = ["--workdir", workdir, "--out", out, "--lungs", tmp_path / "lungs"]
    status, said, _ = run(capsys, *options, "--intensity", "hu", path)
    assert status == 0 and "no lung found; the mask is empty" in said
    assert not np.asarray(nib.load(out / "block.nii.gz").dataobj).any()
    (row,) = table(out / "volumes.csv")
    assert row["lesion_ml"] == "0.0" and row["lesion_share_of_lung"] == ""
    shown = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
    assert shown == ["block.nii.gz", "prediction.json", "volumes.csv"]


def test_a_network_of_grey_slices_reads_the_window_cropped_to_the_lungs(
    tmp_path, workdir, capsys, scan
):
    config = covid_semiseg.get_config()
    config.data.update({"image_size": 128, "lung_mask": "threshold"})
    workdirs.save_settings(Settings.from_config(config), tmp_path / "grey")
    save(tmp_path / "lungs" / "a.nii.gz", scan.sides)
    out = tmp_path / "out"
    options = ["--workdir", tmp_path / "grey", "--out", out, "--lungs", tmp_path / "lungs"]
    path = save(tmp_path / "a.nii.gz", scan.voxels)
    assert run(capsys, *options, "--intensity", "hu", path)[0] == 0
    mask = np.asarray(nib.load(out / "a.nii.gz").dataobj)
    rows, columns = (np.flatnonzero(scan.sides.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    outside = np.ones(mask.shape, bool)
    outside[:, rows[0] - 4 : rows[-1] + 5, columns[0] - 4 : columns[-1] + 5] = False
    assert not mask[outside].any()
    truth = scan.dense & (scan.sides == RIGHT)
    assert mask[truth].mean() > 0.4  # the 2-D lung mask loses a part
    assert (out / "a.png").stat().st_size > 10_000


def test_a_bad_scan_costs_itself_alone(tmp_path, workdir, capsys, scan):
    path = save(tmp_path / "a.nii.gz", scan.voxels)
    (tmp_path / "lungs").mkdir()
    out = tmp_path / "out"
    lungs = ["--workdir", workdir, "--out", out, "--lungs", tmp_path / "lungs"]
    fail(capsys, "lungs: no a.nii.gz, expected a lung mask", *lungs, "--intensity", "hu", path)
    save(tmp_path / "lungs" / "a.nii.gz", scan.sides[1:])
    fail(capsys, "state the intensity", *lungs, path)
    fail(capsys, "44 x 100 x 130", *lungs, "--intensity", "hu", path)
    nib.save(nib.Nifti1Image(scan.sides, AFFINE * 1.01), tmp_path / "lungs" / "a.nii.gz")
    fail(capsys, "mm apart", *lungs, "--intensity", "hu", path)
    save(tmp_path / "lungs" / "a.nii.gz", scan.sides * 3)
    fail(capsys, "holds the values 3, 6", *lungs, "--intensity", "hu", path)
    assert not list(out.glob("*.nii.gz"))


def test_what_stops_everything_leaves_nothing(tmp_path, workdir, capsys, scan):
    path = save(tmp_path / "a.nii.gz", scan.voxels)
    out = tmp_path / "out"
    base = ["--workdir", workdir, "--out", out]
    (tmp_path / "b.png").write_bytes(b"")
    refuse(capsys, "predict each kind alone", *base, path, tmp_path / "b.png")
    refuse(capsys, "--lungs takes threshold, unet:WEIGHTS", *base, "--lungs", "thresh", path)
    refuse(capsys, "needs weights", *base, "--lungs", "unet", path)
    assert not out.exists()


def test_the_header_and_the_table_name_the_network(tmp_path, workdir, capsys, scan):
    path = save(tmp_path / "a.nii.gz", scan.voxels)
    out = tmp_path / "out"
    options = ["--workdir", workdir, "--out", out, "--intensity", "hu", "--no-pictures"]
    status, said, errors = run(capsys, *options, path)
    sha = hashlib.sha256(b"").hexdigest()[:12]  # of the variables, of which there are none
    origin = f"ct_phantom, weights {sha}"
    assert status == 0 and f"trained on {origin}; lungs are found by intensity and shape" in said
    assert "has only seen made-up chests" in errors
    header = nib.load(out / "a.nii.gz").header
    assert header["descrip"].item().decode() == f"SSA-Net: {origin}"
    (row,) = table(out / "volumes.csv")
    assert (row["network"], row["notes"]) == (origin, "")
    assert float(row["lung_ml"]) == round(float(row["lung_ml"]), 1) > 1000
