"""The Python API: one mask from a path, an image, an array and the command; on the own grid."""

import csv

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import ssa_jax
from configs import covid_semiseg
from launch import cli, predict
from ssa_jax.evaluation.inference import Output
from ssa_jax.experiment import network as networks
from ssa_jax.experiment import workdir as workdirs
from ssa_jax.experiment.lesion_volumes import rounded
from ssa_jax.experiment.settings import Settings
from ssa_jax.ops import tuning
from tests.support.phantom_chest import SPACING, chest

pytestmark = pytest.mark.slow

AFFINE = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])


@pytest.fixture(scope="module")
def phantom():
    return chest()


@pytest.fixture
def scan(tmp_path, phantom):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(phantom.voxels.transpose(2, 1, 0), AFFINE), path)
    return path


@pytest.fixture
def network(small_workdir):
    return ssa_jax.load(small_workdir)


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.run(predict.main, [str(argument) for argument in arguments])
    assert not ended.value.code


def test_command_path_image_and_array_give_one_mask(
    tmp_path, small_workdir, network, scan, phantom
):
    out = tmp_path / "out"
    run("--workdir", small_workdir, "--out", out, "--intensity", "hu", "--no-pictures", scan)
    written = np.asarray(nib.load(out / "scan.nii.gz").dataobj)
    assert 0 < written.sum() < written.size
    result = network.segment(scan, intensity="hu")
    np.testing.assert_array_equal(result.labels, written)
    image = nib.load(scan)
    np.testing.assert_array_equal(network.segment(image, intensity="hu").labels, written)
    voxels = np.asarray(image.dataobj)
    spacing, axes = image.header.get_zooms(), "".join(nib.aff2axcodes(image.affine))
    of_array = network.segment(voxels, intensity="hu", spacing=spacing, axes=axes)
    np.testing.assert_array_equal(of_array.labels, written)
    # The same array in another order of axes: the mask comes in that order.
    turned = network.segment(phantom.voxels, intensity="hu", spacing=SPACING, axes="SPL")
    np.testing.assert_array_equal(turned.labels, written.transpose(2, 1, 0))
    with (out / "volumes.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert {name: str(value) for name, value in rounded(result.volumes).items()} == {
        name: value for name, value in row.items() if name not in ("file", "network", "notes")
    }
    voxel = np.prod(SPACING) / 1000
    assert result.lesion_ml == {"lesion": pytest.approx(written.sum() * voxel)}
    result.save(tmp_path / "mask.nii.gz")
    saved = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(saved.dataobj), written)
    np.testing.assert_array_equal(saved.affine, image.affine)


def test_probabilities_lie_on_the_same_grid(network, scan, phantom):
    result = network.segment(scan, intensity="hu")
    prob = result.prob
    assert (prob.shape, prob.dtype) == ((*result.labels.shape, 2), np.float32)
    np.testing.assert_allclose(prob.sum(axis=-1), 1, atol=1e-5)
    outside = ~phantom.sides.any(axis=(1, 2))
    np.testing.assert_array_equal(prob[:, :, outside, 0], 1)
    # What is called lesion has the larger probability; only what touches no lung was removed.
    likely = prob[..., 1] > prob[..., 0]
    assert not (result.labels.astype(bool) & ~likely).any()
    removed = (likely & (result.labels == 0)).sum() * np.prod(SPACING) / 1000
    assert removed == pytest.approx(result.removed_ml)


def test_a_picture_has_pixels_and_no_millimetres(tmp_path, monkeypatch):
    def bright(image):
        lesion = image[..., :1] > 0.5
        prob = np.concatenate([~lesion, lesion], axis=-1).astype(np.float32)
        return Output(prob, np.repeat(image[..., :1], 4, axis=-1))

    monkeypatch.setattr(workdirs, "trained_variables", lambda *_: ({}, 3))
    monkeypatch.setattr(networks, "make_predict", lambda *_, **__: lambda _: bright)
    config = covid_semiseg.get_config()
    config.data.update({"lung_mask": "none", "image_size": 64})
    workdirs.save_settings(Settings.from_config(config), tmp_path / "work")
    picture = np.zeros((40, 64), np.uint8)
    picture[5:15, 10:30] = 200
    Image.fromarray(picture).save(tmp_path / "slice.png")
    network = ssa_jax.load(tmp_path / "work", checkpoint="last")
    assert network.step == 3 and network.class_names == ("lesion",)
    result = network.segment(str(tmp_path / "slice.png"))
    np.testing.assert_array_equal(result.labels, picture > 100)
    np.testing.assert_array_equal(result.prob[..., 1], picture > 100)
    assert result.lesion_ml is None and result.volumes == {}
    result.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), picture > 100)
    with pytest.raises(ValueError, match=r"a PNG; name it \.png"):
        result.save(tmp_path / "mask.nii.gz")


def test_what_cannot_be_segmented_is_said(tmp_path, network, scan, phantom):
    with pytest.raises(ValueError, match="intensity"):
        network.segment(scan)
    with pytest.raises(ValueError, match="intensity is not stated"):
        network.segment(nib.load(scan))
    with pytest.raises(ValueError, match="spacing"):
        network.segment(phantom.voxels, intensity="hu")
    with pytest.raises(ValueError, match="reads Hounsfield units"):
        network.segment(tmp_path / "slice.png")
    with pytest.raises(FileNotFoundError, match="absent"):
        network.segment(tmp_path / "absent.nii.gz", intensity="hu")
    with pytest.raises(FileNotFoundError, match=r"config\.json: not found"):
        ssa_jax.load(tmp_path)


def test_a_checkpoint_is_best_or_last(small_workdir):
    with pytest.raises(ValueError, match="checkpoint is 'newest'; expected one of"):
        ssa_jax.load(small_workdir, checkpoint="newest")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        ssa_jax.load(small_workdir, checkpoint="last")


def test_a_network_computed_in_bfloat16_differs_by_its_rounding(small_workdir, network, scan):
    """Eight bits of each value: within a hundredth where a GPU computes so; the CPU does not."""
    exact = network.segment(scan, intensity="hu").prob
    here = ssa_jax.load(small_workdir, dtype="bfloat16")
    np.testing.assert_array_equal(here.segment(scan, intensity="hu").prob, exact)
    with tuning.compiling_for("gpu"):
        rounded = ssa_jax.load(small_workdir, dtype="bfloat16").segment(scan, intensity="hu").prob
    assert 0 < np.max(np.abs(rounded - exact)) < 0.01
    with pytest.raises(ValueError, match="dtype is 'float16'; expected one of"):
        ssa_jax.load(small_workdir, dtype="float16")


def test_score_by_hand():
    truth, prediction = np.zeros((2, 3, 8, 8), np.uint8)
    truth[1, 2:6, 2:6], prediction[1, 2:6, 2:5] = 1, 1  # 16 and 12 pixels
    scores = ssa_jax.score(truth, prediction, spacing=(5.0, 0.5, 0.5))
    assert list(scores) == ["lesion"]
    assert scores["lesion"]["dsc"] == pytest.approx(2 * 12 / 28)
    assert scores["lesion"]["unit"] == "mm" and scores["lesion"]["hd95"] == pytest.approx(0.5)
    prediction[1, 2, 2] = 2  # one class: any label is lesion
    assert ssa_jax.score(truth, prediction)["lesion"]["dsc"] == pytest.approx(2 * 12 / 28)
    both = ssa_jax.score(truth, prediction, class_names=("a", "b"))
    assert both["a"]["dsc"] == pytest.approx(2 * 11 / 27)
    assert both["b"]["outcome"] == "false_alarm" and both["b"]["unit"] == "px"
    assert ssa_jax.score(truth > 0, truth > 0)["lesion"]["dsc"] == 1
    with pytest.raises(ValueError, match="own grid"):
        ssa_jax.score(truth, prediction[:2])
