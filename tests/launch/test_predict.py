"""The predict command with a predictor whose answer is known: files, areas, and bad input."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import covid_semiseg, ct_phantom
from launch import cli, predict
from ssa_jax.evaluation.inference import Output
from ssa_jax.experiment import batch, prediction
from ssa_jax.experiment import network as networks
from ssa_jax.experiment import workdir as workdirs
from ssa_jax.experiment.settings import Settings

SIDE = 64


def by_brightness(classes: int):
    """A predictor: class 1 where the intensity is above 0.3, class 2 above 0.8, probability 0.9."""

    def network(image: np.ndarray) -> Output:
        intensity = image[..., 0]
        chosen = (intensity > 0.3).astype(int) + (classes > 2) * (intensity > 0.8)
        prob = np.where(np.arange(classes) == chosen[..., None], 0.9, 0.1 / (classes - 1))
        return Output(prob.astype(np.float32), np.repeat(image[..., :1], 4, axis=-1))

    return network


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """Writes the workdir of a network whose place the known predictor takes."""
    monkeypatch.setattr(workdirs, "trained_variables", lambda *_: ({}, 0))

    def make(task="binary", lung_mask="none", configuration=covid_semiseg) -> Path:
        config = configuration.get_config()
        config.data.update({"task": task, "lung_mask": lung_mask, "image_size": SIDE})
        config.eval.batch_size = 2
        settings = Settings.from_config(config)
        network = by_brightness(len(settings.class_names) + 1)
        monkeypatch.setattr(networks, "make_predict", lambda *_, **__: lambda _: network)
        workdirs.save_settings(settings, tmp_path / "work")
        return tmp_path / "work"

    return make


def block(height: int = 40, width: int = SIDE) -> np.ndarray:
    """Black with a bright block of 10 x 20 pixels and a grey one of 4 x 10."""
    image = np.zeros((height, width), np.uint8)
    image[5:15, 10:30] = 200
    image[20:24, 40:50] = 100
    return image


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def run(capsys, *arguments: str | Path) -> tuple[int, str]:
    """Exit status and standard error of the command."""
    with pytest.raises(SystemExit) as ended:
        cli.run(predict.main, [str(argument) for argument in arguments])
    return int(ended.value.code or 0), capsys.readouterr().err


def refuse(capsys, text: str, *arguments: str | Path) -> None:
    """The command ends with one line that says `text`."""
    status, errors = run(capsys, *arguments)
    assert status == 2 and errors.startswith("error: ") and text in errors, errors
    assert errors.count("\n") == 1


def fail(capsys, text: str, *arguments: str | Path) -> None:
    """The command leaves an input out, says `text` of it, and ends with status 3."""
    status, errors = run(capsys, *arguments)
    said, head, listed = errors.splitlines()
    assert status == 3 and text in said and text in listed, errors
    assert said.startswith("failed: ") and head.startswith("error: 1 of "), errors


def visible(folder: Path) -> list[str]:
    """Names of the results in a folder of predictions, without the record and the journal."""
    assert (folder / prediction.RECORD).exists()
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    return sorted(names - {prediction.RECORD})


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_masks_and_areas_of_two_classes(tmp_path, workdir, capsys):
    image = save(tmp_path / "in" / "a.png", block())
    out = tmp_path / "out"
    assert run(capsys, "--workdir", workdir("multiclass"), "--out", out, image) == (0, "")
    with Image.open(out / "a.png") as mask:
        assert mask.mode == "L"
        np.testing.assert_array_equal(mask, np.digitize(block(), [50, 150]))
    (row,) = table(out / "areas.csv")
    assert (row["file"], row["height"], row["width"]) == (str(image), "40", "64")
    assert (row["ground-glass_pixels"], row["consolidation_pixels"]) == ("40", "200")
    assert float(row["ground-glass_share_of_slice"]) == 40 / 2560
    assert float(row["consolidation_share_of_slice"]) == 200 / 2560
    assert float(row["consolidation_mean_probability"]) == pytest.approx(0.9)
    assert row["lung_pixels"] == row["consolidation_share_of_lung"] == ""
    assert visible(out) == ["a.png", "a_overlay.png", "areas.csv"]


def test_share_of_the_lung_counts_lesion_inside_the_lung(tmp_path, workdir, capsys):
    image = save(tmp_path / "a.png", block())
    lung = np.zeros((40, SIDE), np.uint8)
    lung[:10] = 255  # 640 pixels, half of the bright block's 200 among them
    save(tmp_path / "lungs" / "a.png", lung)
    lungs = ["--lungs", tmp_path / "lungs", "--no-pictures"]
    work, out = workdir(lung_mask="file"), tmp_path / "out"
    assert run(capsys, "--workdir", work, "--out", out, *lungs, image) == (0, "")
    (row,) = table(out / "areas.csv")
    assert (row["lung_pixels"], row["lesion_pixels"]) == ("640", "240")
    assert float(row["lesion_share_of_lung"]) == 100 / 640
    assert visible(out) == ["a.png", "areas.csv"]


def test_a_folder_of_unequal_slices_in_its_order(tmp_path, workdir, capsys):
    shapes = {"tall": (130, 70), "small": (40, 50), "wide": (48, 90)}
    for name, shape in shapes.items():
        save(tmp_path / "in" / f"{name}.png", block(*shape))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    out = tmp_path / "out"
    arguments = ["--workdir", workdir(), "--out", out, "--no-pictures", tmp_path / "in"]
    assert run(capsys, *arguments) == (0, "")
    rows = table(out / "areas.csv")
    assert [Path(row["file"]).stem for row in rows] == ["small", "tall", "wide"]
    for name, shape in shapes.items():
        mask = np.asarray(Image.open(out / f"{name}.png"))
        assert mask.shape == shape
        wrong = mask != (block(*shape) > 50)
        assert wrong.sum() <= 100, name  # the edges of blocks of 240 pixels, resized
        assert mask[10, 20] == 1 and mask[30, 5] == 0


def test_a_name_with_signs_of_formulas_can_be_drawn(tmp_path, workdir, capsys):
    image = save(tmp_path / r"$\frac$.png", block())
    out = tmp_path / "out"
    assert run(capsys, "--workdir", workdir(), "--out", out, image) == (0, "")
    assert (out / r"$\frac$_overlay.png").exists()


def truncated_jpeg(folder: Path) -> Path:
    path = save(folder / "cut.jpg", np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    path.write_bytes(path.read_bytes()[:900])
    return path


def test_a_bad_picture_costs_itself_alone(tmp_path, workdir, capsys):
    good = save(tmp_path / "good" / "a.png", block())
    bad = {
        "cut.jpg: truncated or damaged": truncated_jpeg(tmp_path),
        "black.png: no contrast": save(tmp_path / "black.png", np.zeros((40, 40), np.uint8)),
    }
    options = ["--workdir", workdir(), "--no-pictures", "--out"]
    for text, path in bad.items():
        out = tmp_path / f"out_{path.stem}"
        fail(capsys, text, *options, out, path, good)
        assert visible(out) == ["a.png", "areas.csv", "errors.csv"]
        (row,) = table(out / "errors.csv")
        assert row["file"] == str(path) and text.split(": ")[1] in row["error"]
        assert [row["file"] for row in table(out / "areas.csv")] == [str(good)]
        save(path, block())
        if path.suffix == ".png":
            assert run(capsys, *options, out, path, good) == (0, "")
            assert visible(out) == ["a.png", "areas.csv", "black.png"]


def test_inputs_that_stop_everything_leave_nothing(tmp_path, workdir, capsys):
    good = save(tmp_path / "good" / "a.png", block())
    (tmp_path / "empty").mkdir()
    bad = {
        "no picture in this folder": tmp_path / "empty",
        "no such file or folder": tmp_path / "none.png",
        "would both become a.png": save(tmp_path / "other" / "a.jpg", block()),
        "would both become a_overlay.png": save(tmp_path / "a_overlay.png", block()),
    }
    out = tmp_path / "out"
    arguments = ["--workdir", workdir(), "--out", out, good]
    for text, path in bad.items():
        refuse(capsys, text, *arguments, path)
        assert not out.exists()


def test_networks_that_do_not_read_these_inputs(tmp_path, workdir, capsys):
    image = save(tmp_path / "a.png", block())
    arguments = ["--out", tmp_path / "out", image]
    work = workdir(lung_mask="threshold", configuration=ct_phantom)
    refuse(capsys, "reads Hounsfield units", "--workdir", work, *arguments)
    refuse(capsys, "expected the folder that", "--workdir", tmp_path, *arguments)
    assert not (tmp_path / "out").exists()


def test_lung_masks_that_do_not_fit(tmp_path, workdir, capsys):
    image = save(tmp_path / "a.png", block())
    arguments = ["--workdir", workdir(lung_mask="file"), "--out", tmp_path / "out", image]
    lungs = tmp_path / "lungs"
    given = [*arguments, "--lungs", lungs]
    fail(capsys, f"{lungs / 'a.png'}: not found, expected a lung mask for", *given)
    save(lungs / "a.png", np.ones((3, 4), np.uint8))
    fail(capsys, "has 3 x 4 pixels, expected the 40 x 64 of", *given)
    save(lungs / "a.png", np.full((40, SIDE), 7, np.uint8))
    fail(capsys, "mask holds labels 7", *given)
    assert visible(tmp_path / "out") == ["areas.csv", "errors.csv"]


def test_a_network_of_files_finds_the_lungs_itself(tmp_path, workdir, capsys):
    image = np.random.default_rng(0).integers(190, 210, (96, 96)).astype(np.uint8)
    image[30:60, 15:40] = image[30:60, 55:80] = image[30:60, 15:40] - 170
    path = save(tmp_path / "a.png", image)
    out = tmp_path / "out"
    work = workdir(lung_mask="file")
    assert run(capsys, "--workdir", work, "--out", out, "--no-pictures", path) == (0, "")
    (row,) = table(out / "areas.csv")
    assert int(row["lung_pixels"]) == pytest.approx(2 * 30 * 25, rel=0.15)
    status, errors = run(capsys, "--workdir", work, "--out", out, "--lungs", tmp_path, path)
    assert status == 2 and f"(lungs.folder is '{tmp_path}' here and None there, lungs.m" in errors


def test_the_folder_of_the_inputs_is_not_written_to(tmp_path, workdir, capsys):
    image = save(tmp_path / "in" / "a.png", block())
    before = image.read_bytes()
    refuse(capsys, "is not empty", "--workdir", workdir(), "--out", image.parent, image)
    assert image.read_bytes() == before and list(image.parent.iterdir()) == [image]


def test_a_disk_that_refuses_stops_everything(tmp_path, workdir, capsys, monkeypatch):
    image = save(tmp_path / "a.png", block())
    work = workdir()
    refuse(capsys, "a.png", "--workdir", work, "--out", image / "out", image)

    def full(*_):
        raise OSError(28, "No space left on device", "areas.csv")

    monkeypatch.setattr(batch, "write_table", full)
    refuse(capsys, "No space left", "--workdir", work, "--out", tmp_path / "out", image)
