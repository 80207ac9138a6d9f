"""The evaluate command: scores worked out by hand, its files, the real network, and bad input."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import covid_semiseg
from input_pipeline.datasets import catalog
from input_pipeline.slices import Slice
from launch import cli, evaluate
from ssa_jax.evaluation.inference import Output, make_predict
from ssa_jax.experiment import data, evaluation
from ssa_jax.experiment import network as networks
from ssa_jax.experiment import workdir as workdirs
from ssa_jax.experiment.settings import Settings
from ssa_jax.training.checkpoint import Checkpoints

SIDE = 64
BINARY = Path("TrainingSet/LungInfection-Train/Doctor-label")
PSEUDO = Path("TrainingSet/LungInfection-Train/Pseudo-label/Imgs/Data-1_a_org_001_1.png")
TEST = Path("TestingSet/LungInfection-Test")
FILES = ["cases.csv", "metrics.json"]


def slice_and_truth(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright block of 8 x 8 pixels, of which `number` columns are lesion, and no others."""
    image, truth = np.zeros((2, SIDE, SIDE), np.uint8)
    image[20:28, 30:38] = 200
    truth[20:28, 30 : 30 + number] = 255
    return image, truth


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    """COVID-SemiSeg with 4 labelled slices, an unlabelled one and 2 of the test split."""
    folder = tmp_path_factory.mktemp("covid")
    numbers = {BINARY: (1, 2, 3, 4), TEST: (8, 4)}
    for place, columns in numbers.items():
        for name, number in enumerate(columns):
            image, truth = slice_and_truth(number)
            save(folder / place / "Imgs" / f"{name}.png", image)
            save(folder / place / "GT" / f"{name}.png", truth)
    save(folder / PSEUDO, slice_and_truth(0)[0])
    data_dir = folder / "records"
    catalog.build("covid_semiseg", source_dir=folder, data_dir=data_dir, task="binary")
    return data_dir


@pytest.fixture
def workdir(tmp_path, records) -> Path:
    """The workdir of a training that held one slice out; without a network."""
    config = covid_semiseg.get_config()
    fields = {"data_dir": str(records), "lung_mask": "none", "image_size": SIDE}
    config.data.update({**fields, "validation_slices": 1})
    config.eval.update({"batch_size": 2, "flip": False})
    workdirs.save_settings(Settings.from_config(config), tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def by_brightness(monkeypatch) -> None:
    """In place of the trained network, one that calls bright pixels lesion."""

    def network(image: np.ndarray) -> Output:
        lesion = np.where(image > 0.5, 0.9, 0.1)
        prob = np.concatenate([1 - lesion, lesion], axis=-1)
        return Output(prob.astype(np.float32), np.repeat(image[..., :1], 4, axis=-1))

    monkeypatch.setattr(workdirs, "trained_variables", lambda *_: ({}, 70))
    monkeypatch.setattr(networks, "make_predict", lambda *_, **__: lambda _: network)


def run(capsys, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command."""
    with pytest.raises(SystemExit) as ended:
        cli.run(evaluate.main, [str(argument) for argument in arguments])
    return int(ended.value.code or 0), *capsys.readouterr()


def refuse(capsys, text: str, *arguments: str | Path) -> None:
    """The command ends with one line that says `text`."""
    status, _, errors = run(capsys, *arguments)
    assert status == 2 and errors.startswith("error: ") and text in errors, errors
    assert errors.count("\n") == 1


def size(path: Path) -> tuple[int, int]:
    """Width and height of a picture."""
    with Image.open(path) as picture:
        return picture.size


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_scores_of_a_split_in_every_form(workdir, by_brightness, capsys):
    status, printed, errors = run(capsys, "--workdir", workdir, "--split", "test")
    assert (status, errors) == (0, "")
    out = workdir / "evaluation" / "test"
    assert names(out) == FILES
    with (out / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # 64 pixels predicted; 64 and 32 of them are true.
    scores = [float(row["standard.dsc"]) for row in rows]
    assert scores == [1.0, pytest.approx(2 * 32 / (64 + 32))]
    summary = json.loads((out / "metrics.json").read_text())
    assert summary["standard"]["lesion"]["dsc"]["mean"] == pytest.approx(5 / 6)
    assert summary["standard"]["lesion"]["dsc_pooled"]["mean"] == pytest.approx(2 * 96 / 224)
    origin = {name: summary[name] for name in ("split", "checkpoint", "step", "workdir")}
    assert origin == {
        "split": "test",
        "checkpoint": "best",
        "step": 70,
        "workdir": str(workdir),
    }
    assert summary["config"]["data"]["image_size"] == SIDE
    assert "0.8333 [0.6667, 1.0000]" in printed and "HD95 (px)" in printed


def test_each_class_is_scored_on_its_own(workdir, monkeypatch, capsys):
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[:20, :20], image[40:60, 40:50] = 255, 120
    truth = np.digitize(image, [100, 200]).astype(np.uint8)
    truth[40:60, 50:60] = 1  # twice as many pixels of class 1 as are predicted; class 2 is right

    def network(image: np.ndarray) -> Output:
        chosen = np.digitize(image, [0.3, 0.8])
        return Output(np.eye(3, dtype=np.float32)[chosen[..., 0]], np.repeat(image, 4, axis=-1))

    fields = json.loads((workdir / "config.json").read_text())
    fields["data"]["task"] = "multiclass"
    del fields["content_sha256"]  # changed on purpose
    (workdir / "config.json").write_text(json.dumps(fields))
    slices = [Slice(image, truth, None, "a", "a", None)]
    monkeypatch.setattr(data, "evaluation_slices", lambda *_: slices)
    monkeypatch.setattr(workdirs, "trained_variables", lambda *_: ({}, 1))
    monkeypatch.setattr(networks, "make_predict", lambda *_, **__: lambda _: network)
    assert run(capsys, "--workdir", workdir)[0] == 0
    summary = json.loads((workdir / "evaluation" / "validation" / "metrics.json").read_text())
    dsc = {name: scores["dsc"]["mean"] for name, scores in summary["standard"].items()}
    of_class_1 = pytest.approx(2 * 200 / (200 + 400))
    assert dsc == {
        "ground-glass": of_class_1,
        "consolidation": 1.0,
        "average": pytest.approx((2 / 3 + 1) / 2),
    }


def test_the_validation_split_is_what_the_training_held_out(workdir, by_brightness, capsys):
    assert run(capsys, "--workdir", workdir)[0] == 0
    held_out = json.loads((workdir / "splits.json").read_text())["validation"]
    with (workdir / "evaluation" / "validation" / "cases.csv").open(newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == held_out


def test_pictures_of_the_first_slices_and_none_left_of_an_earlier_run(
    tmp_path, workdir, by_brightness, capsys
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    arguments = ["--workdir", workdir, "--split", "train", "--out", out]
    assert run(capsys, *arguments, "--pictures", "2")[0] == 0
    assert names(out) == [*FILES, "notes.txt", "pictures", "pictures.png"]
    assert len(names(out / "pictures")) == 2
    one, both = size(next(out.glob("pictures/*"))), size(out / "pictures.png")
    assert one[0] == both[0] and 1.5 * one[1] < both[1] < 2 * one[1]
    assert run(capsys, *arguments)[0] == 0
    assert names(out) == [*FILES, "notes.txt"]


@pytest.mark.slow
def test_a_restored_network_is_what_predicts(
    tmp_path, workdir, network_variables, monkeypatch, capsys
):
    stem = network_variables["params"]["encoder"]["stem"]["kernel"][:, :, :1]
    params = network_variables["params"]
    params = params | {"encoder": params["encoder"] | {"stem": {"kernel": stem}}}
    checkpoints = Checkpoints(workdir)
    checkpoints.save_best(5, network_variables | {"params": params}, {})
    seen = []

    def spied(model, *, flip):
        def with_variables(variables):
            np.testing.assert_array_equal(variables["params"]["encoder"]["stem"]["kernel"], stem)
            network = make_predict(model, flip=flip)(variables)

            def predict(image):
                seen.append(network(image))
                return seen[-1]

            return predict

        return with_variables

    monkeypatch.setattr(networks, "make_predict", spied)
    assert run(capsys, "--workdir", workdir, "--split", "test", "--out", tmp_path / "out")[0] == 0
    with (tmp_path / "out" / "cases.csv").open(newline="") as file:
        sizes = [int(row["standard.prediction_size"]) for row in csv.DictReader(file)]
    assert sizes == (seen[0].prob[..., 1] > 0.5).sum((1, 2)).tolist()


def test_a_network_of_another_architecture(workdir, network_variables, capsys):
    checkpoints = Checkpoints(workdir)
    checkpoints.save_best(5, network_variables, {})  # two input channels; the workdir says one
    refuse(capsys, "does not fit the network", "--workdir", workdir, "--split", "test")
    assert not (workdir / "evaluation").exists()


def test_what_is_not_there(tmp_path, workdir, capsys):
    cases = {
        "expected the folder that": ["--workdir", tmp_path / "none"],
        "has no split 'tset'": ["--workdir", workdir, "--split", "tset"],
        "no labels to score": ["--workdir", workdir, "--split", "unlabelled"],
        "is not built": ["--workdir", workdir, "--data-dir", tmp_path / "none"],
        "no checkpoint; train first": ["--workdir", workdir, "--split", "test"],
        f"{workdir}/checkpoints/last": ["--workdir", workdir, "--which", "last"],
    }
    for text, arguments in cases.items():
        refuse(capsys, text, *arguments)
    _, _, errors = run(capsys, *cases["has no split 'tset'"])
    known = ("train (4)", "unlabelled (1)", "test (2)", "validation is held out of train")
    assert all(part in errors for part in known), errors
    assert not (workdir / "evaluation").exists() and not (tmp_path / "none").exists()


def test_the_folder_of_all_rounds_or_folds_names_theirs(tmp_path, workdir, capsys):
    rounds, folds = tmp_path / "rounds", tmp_path / "folds"
    for inner in (rounds / "round_01", rounds / "round_02", folds / "fold_1"):
        (inner / "checkpoints").mkdir(parents=True)
    shutil.copy(workdir / "config.json", rounds)
    both = f"{rounds}: no network of its own; its folders round_01, round_02 hold networks"
    refuse(capsys, both, "--workdir", rounds, "--split", "test")
    refuse(capsys, "its folders fold_1 hold networks", "--workdir", folds, "--split", "test")


def test_a_folder_of_other_pictures_stays(tmp_path, workdir, by_brightness, capsys):
    save(tmp_path / "pictures" / "holiday.png", slice_and_truth(0)[0])
    arguments = ["--workdir", workdir, "--split", "test", "--out", tmp_path]
    refuse(capsys, f"{tmp_path / 'pictures'}: is in the way", *arguments)
    assert names(tmp_path / "pictures") == ["holiday.png"]


def test_a_disk_that_refuses_leaves_the_earlier_evaluation(
    workdir, by_brightness, monkeypatch, capsys
):
    arguments = ["--workdir", workdir, "--split", "test"]
    assert run(capsys, *arguments)[0] == 0
    out = workdir / "evaluation" / "test"
    before = {name: (out / name).read_bytes() for name in FILES}

    def full(*_):
        raise OSError(28, "No space left on device", "metrics.json")

    monkeypatch.setattr(evaluation, "write_json", full)
    refuse(capsys, "metrics.json: No space left on device", *arguments, "--pictures", "1")
    assert {name: (out / name).read_bytes() for name in FILES} == before
    assert names(out) == FILES
    refuse(capsys, "config.json", *arguments, "--out", workdir / "config.json" / "out")


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", "x\0y"])
def test_no_name_of_a_slice_leads_out_of_the_folder(
    tmp_path, workdir, by_brightness, monkeypatch, capsys, name
):
    image, truth = slice_and_truth(8)
    made = [Slice(image, (truth > 0).astype(np.uint8), None, name, "=cmd()", None)]
    monkeypatch.setattr(data, "evaluation_slices", lambda *_: made)
    before = set(tmp_path.rglob("*"))
    out = tmp_path / "deep" / "er" / "out"
    arguments = ["--workdir", workdir, "--split", "test", "--out", out, "--pictures", "1"]
    assert run(capsys, *arguments)[0] == 0
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(out) for path in written)
    (drawn,) = (out / "pictures").iterdir()
    assert drawn.suffix == ".png"
    (row,) = evaluation.read_rows(out, "")
    assert (row["case"], row["patient"]) == (name, "=cmd()")


def test_slices_of_a_volume_are_scored_in_3d(workdir, by_brightness, monkeypatch, capsys):
    def stacked(volume: str, wide: tuple[int, ...]) -> list[Slice]:
        slices = []
        for number, columns in enumerate(wide):
            image, truth = slice_and_truth(columns)
            mask = (truth > 0).astype(np.uint8)
            name = f"{volume}_{number}"
            slices.append(Slice(image, mask, None, name, volume, (2.0, 1.0), volume, 5.0))
        return slices

    slices = stacked("a", (8, 4)) + stacked("b", (8, 8, 8))
    monkeypatch.setattr(data, "evaluation_slices", lambda *_: slices)
    assert run(capsys, "--workdir", workdir, "--split", "test")[0] == 0
    out = workdir / "evaluation" / "test"
    assert names(out) == [*FILES, "volumes.csv"]
    with (out / "volumes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["a", "b"]
    assert float(rows[0]["standard.dsc"]) == pytest.approx(2 * 96 / (128 + 96))
    assert rows[0]["standard.unit"] == "mm"
    assert float(rows[0]["standard.hd95"]) == pytest.approx(4.0)  # four columns of 1 mm too many
    summary = json.loads((out / "metrics.json").read_text())
    assert summary["cases"] == 2
    expected = (2 * 96 / (128 + 96) + 1) / 2
    assert summary["standard"]["lesion"]["dsc"]["mean"] == pytest.approx(expected)
    assert summary["paper_compat"]["lesion"]["cases"] == 5


def test_slices_of_a_volume_must_come_together(workdir, by_brightness, monkeypatch, capsys):
    image, truth = slice_and_truth(4)
    mask = (truth > 0).astype(np.uint8)
    slices = [
        Slice(image, mask, None, str(number), name, (1.0, 1.0), name, 1.0)
        for number, name in enumerate("aba")
    ]
    monkeypatch.setattr(data, "evaluation_slices", lambda *_: slices)
    refuse(capsys, "slices of a are not consecutive", "--workdir", workdir)
    assert not (workdir / "evaluation" / "validation").exists()
