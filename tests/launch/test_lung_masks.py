"""From scan files to lung masks on disk: every orientation, the three methods, what is refused."""

import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from input_pipeline.preprocess import windowed
from launch import cli
from launch.lung_masks import main
from ssa_jax.experiment import lung_masks
from tests.support import ROOT, lungmask_stand_in
from tests.support.phantom_chest import SPACING, chest


@pytest.fixture(scope="module")
def phantom():
    return chest()


def write(path, array, axes, affine=None):
    """A NIfTI file of [slices, rows, columns], laid out in its axes another way."""
    if affine is None:
        affine = np.diag([*SPACING[::-1], 1.0])
        affine[:2] *= -1  # columns run to the left, rows to the back
        affine[:3, 3] = (12, -7, 30)
    image = nib.Nifti1Image(array.transpose(2, 1, 0), affine)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image.as_reoriented(turn), path)
    return path


def read(path, axes="LPS"):
    """A mask as [slices, rows, columns]."""
    image = nib.load(path)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
    )
    return np.asarray(image.as_reoriented(turn).dataobj).transpose(2, 1, 0)


def run(capsys, *arguments):
    """Exit status, standard output and standard error of the command."""
    with pytest.raises(SystemExit) as ended:
        cli.run(main, [str(argument) for argument in arguments])
    return int(ended.value.code or 0), *capsys.readouterr()


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SAL", "PIR"])
def test_right_is_right_however_the_file_lies(tmp_path, capsys, phantom, axes):
    source = write(tmp_path / "scan.nii.gz", phantom.voxels, axes)
    status, said, _ = run(capsys, "--out", tmp_path / "out", "--intensity", "hu", source)
    assert status == 0
    mask = nib.load(tmp_path / "out/scan.nii.gz")
    np.testing.assert_allclose(mask.affine, nib.load(source).affine)
    assert mask.shape == nib.load(source).shape
    assert mask.get_data_dtype() == np.uint8
    sides = read(tmp_path / "out/scan.nii.gz")
    for side in (1, 2):
        ours, truth = sides == side, phantom.sides == side
        assert 2 * (ours & truth).sum() / (ours.sum() + truth.sum()) > 0.96
    millilitres = np.bincount(sides.ravel()) * 0.045  # 5 x 3 x 3 mm
    assert f"right lung {millilitres[1]:.0f} mL, left lung {millilitres[2]:.0f} mL" in said


def test_folders_scans_without_lung_and_going_on(tmp_path, capsys, phantom):
    write(tmp_path / "scans/b.nii", phantom.voxels[:9], "RAS")
    first = write(tmp_path / "scans/a.nii.gz", phantom.voxels, "RAS")
    options = ("--out", tmp_path / "out", "--intensity", "hu")
    status, _, _ = run(capsys, *options, first)
    before = (tmp_path / "out/a.nii.gz").stat().st_mtime_ns
    status, said, _ = run(capsys, *options, tmp_path / "scans")
    assert status == 0
    assert "out: holds 1 of 2 already" in said
    assert "b.nii: no lung found, the mask is empty" in said
    assert (tmp_path / "out/a.nii.gz").stat().st_mtime_ns == before
    assert not read(tmp_path / "out/b.nii.gz").any()


def test_unet_runs_with_weights_from_a_file(tmp_path, capsys, monkeypatch, phantom):
    """A network that calls everything the left lung: the body's box is what it gets to see."""
    entries = lungmask_stand_in.state_dict(features=4)
    entries["last.weight"][:] = 0
    entries["last.bias"][:] = (0, 0, 9)
    np.savez(tmp_path / "R231.npz", **entries)
    narrow = lung_masks.unet.LungUNet(features=4)
    monkeypatch.setattr(lung_masks.unet, "LungUNet", lambda: narrow)
    source = write(tmp_path / "scan.nii.gz", phantom.voxels[20:22], "RAS")
    status, said, error = run(
        capsys,
        *("--weights", tmp_path / "R231.npz", "--out", tmp_path / "out"),
        *("--intensity", "hu", source),
    )
    assert status == 0 and "the right lung is missing or much smaller" in error
    assert "right lung 0 mL" in said
    sides = read(tmp_path / "out/scan.nii.gz")
    rows, columns = np.nonzero(sides[0] == 2)
    assert abs(rows.min() - 5) <= 2  # the body is rows 5 to 85; the table below touches it not
    assert abs(columns.min() - 6) <= 2
    assert abs(columns.max() - 122) <= 2


def test_lungmask_is_used_where_asked_for(tmp_path, capsys, monkeypatch, phantom):
    monkeypatch.setitem(sys.modules, "lungmask", lungmask_stand_in.inferer(3))
    (tmp_path / "R231.pth").write_bytes(b"weights")
    source = write(tmp_path / "scan.nii.gz", phantom.voxels[20:22], "LPS")
    options = ("--method", "lungmask", "--weights", tmp_path / "R231.pth", "--intensity", "hu")
    assert run(capsys, *options, "--out", tmp_path / "out", source)[0] == 0
    sides = read(tmp_path / "out/scan.nii.gz")
    assert (sides[..., 0] == 1).all()
    assert (sides[..., 1] == 2).all()
    settings = json.loads((tmp_path / "out/lung_masks.json").read_text())
    assert (settings["method"], settings["weights"]) == ("lungmask", "R231.pth")
    status, _, error = run(capsys, "--out", tmp_path / "out", "--intensity", "hu", source)
    assert status == 2
    assert "name another --out folder" in error


def test_lungmask_absent(tmp_path, capsys, monkeypatch, phantom):
    monkeypatch.setitem(sys.modules, "lungmask", None)
    (tmp_path / "R231.pth").write_bytes(b"weights")
    source = write(tmp_path / "scan.nii.gz", phantom.voxels[20:22], "LPS")
    options = ("--method", "lungmask", "--weights", tmp_path / "R231.pth", "--intensity", "hu")
    status, _, error = run(capsys, *options, "--out", tmp_path / "out", source)
    assert status == 2
    assert "pip install lungmask" in error
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_what_cannot_be_done_is_said(tmp_path, capsys, phantom):
    source = write(tmp_path / "scan.nii.gz", phantom.voxels[20:22], "LPS")
    twin = write(tmp_path / "twin/scan.nii", phantom.voxels[20:22], "LPS")
    np.save(tmp_path / "array.npy", phantom.voxels)
    np.savez(tmp_path / "other.npz", **{"conv1.weight": np.zeros((3, 3))})
    out = ("--out", tmp_path / "out")
    for arguments, message in (
        ((source,), "state the intensity"),
        ((tmp_path / "none.nii",), "no such file or folder"),
        ((source, twin), "would both become scan.nii.gz"),
        (("--method", "unet", source), "needs weights"),
        (("--method", "threshold", "--weights", "w.npz", source), "uses no weights"),
        (("--weights", tmp_path / "w.npz", source), "no such file"),
        (("--weights", tmp_path / "other.npz", source), "1 extra, 0 misshapen (listed above)"),
        (("--intensity", "hu", tmp_path / "array.npy"), "its spacing is unknown"),
    ):
        status, _, error = run(capsys, *out, *arguments)
        assert status == (3 if "failed: " in error else 2)
        assert message in error, error
    assert not list((tmp_path / "out").glob("*.nii.gz"))


@pytest.mark.parametrize("scale", [1, 255])
def test_the_remedy_for_a_windowed_scan_is_a_flag_that_works(tmp_path, capsys, phantom, scale):
    """Grey values 0 to 255, or fractions of the window, give the lungs of the scan in HU."""
    hu = np.clip(phantom.voxels, -1250, 250)
    source = write(tmp_path / "hu/scan.nii.gz", hu, "LPS")
    grey = windowed(hu) / np.float32(scale)
    doubtful = write(tmp_path / "grey/scan.nii.gz", grey, "LPS")
    run(capsys, "--out", tmp_path / "right", "--intensity", "hu", source)
    _, said, noted = run(capsys, "--out", tmp_path / "wrong", "--intensity", "hu", doubtful)
    assert "no lung found" in said and "--intensity windowed" in noted
    given = ("--out", tmp_path / "out", "--intensity", "windowed", doubtful)
    status, _, noted = run(capsys, *given)
    assert status == 0 and noted.count("fractions of the window") == (scale == 255)
    ours, truth = read(tmp_path / "out/scan.nii.gz"), read(tmp_path / "right/scan.nii.gz")
    assert (ours != truth).mean() < 0.002


def test_an_identity_is_said_and_axes_put_the_sides_right(tmp_path, capsys, phantom):
    """Arrays stored with numpy.eye(4), in the order x, y, z and in the order z, y, x."""
    affine = np.diag([-1.0, -1, 1, 1])
    affine[:3, 3] = 7
    upright = write(tmp_path / "sound.nii.gz", phantom.voxels, "LPS", affine)
    run(capsys, "--out", tmp_path / "out", "--intensity", "hu", upright)
    truth = np.asarray(nib.load(tmp_path / "out/sound.nii.gz").dataobj).T
    assert set(np.unique(truth)) == {0, 1, 2}
    for name, array, axes in (("xyz", phantom.voxels.T, "LPS"), ("zyx", phantom.voxels, "SPL")):
        path = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
        _, _, noted = run(capsys, "--out", tmp_path / "guess", "--intensity", "hu", path)
        assert "the affine is the identity" in noted and "--axes LPS" in noted
        given = ("--out", tmp_path / "out", "--intensity", "hu", "--axes", axes, path)
        (small,) = run(capsys, *given)[2].splitlines()  # of 1 mm voxels, a toy's lungs
        assert "the lungs have 0.05 L, expected 0.8 to 9 L" in small
        mask = nib.load(tmp_path / f"out/{name}.nii.gz")
        np.testing.assert_array_equal(mask.affine, np.eye(4))
        ours = np.asarray(mask.dataobj)
        np.testing.assert_array_equal(ours if axes == "SPL" else ours.T, truth)


@pytest.mark.slow
@pytest.mark.parametrize(
    "surroundings",
    [{"PYTHONIOENCODING": "ascii"},
     {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)  # fmt: skip
def test_names_survive_where_text_is_ascii(tmp_path, phantom, surroundings):
    """A name in Latin-1 bytes and one in UTF-8, printed to a terminal that can show neither."""
    names = [b"M\xfcller.nii.gz", "Müller.nii.gz".encode()]
    folder = os.fsencode(tmp_path / "scans")
    for name in names:
        source = write(tmp_path / "scans" / "x.nii.gz", phantom.voxels[20:22], "LPS")
        os.rename(source, os.path.join(folder, name))
    done = subprocess.run(
        [sys.executable, "-m", "launch.lung_masks", "--out", tmp_path / "out", "--intensity", "hu",
         tmp_path / "scans"],
        cwd=ROOT, env=os.environ | surroundings, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr.isascii()
    assert done.stderr.count(b"ller.nii.gz: the scan ends within the lungs") == 2
    written = os.listdir(os.fsencode(tmp_path / "out"))
    assert sorted(name for name in written if name.endswith(b".nii.gz")) == sorted(names)
    table = (tmp_path / "out/lungs.csv").read_text(encoding="utf-8")
    assert "M\\udcfcller.nii.gz" in table and "Müller.nii.gz" in table
    assert done.stdout.count(b"right lung") == 2 and done.stdout.isascii()
