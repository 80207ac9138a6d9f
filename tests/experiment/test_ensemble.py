"""Ensembles: the mean of several networks' probabilities, one origin, and what is refused."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ssa_jax
from configs import covid_semiseg
from input_pipeline.datasets import catalog
from input_pipeline.files import write_json
from input_pipeline.verified import read_signed, signed
from launch import cli, evaluate, predict
from ssa_jax.evaluation.inference import Output
from ssa_jax.experiment import network as networks
from ssa_jax.experiment import provenance
from ssa_jax.experiment import workdir as workdirs
from ssa_jax.experiment.settings import Settings
from tests.support.small_training import run, write_source

STEP = 70


def settings_of(folder: Path, **fields) -> Settings:
    """Settings of the data set whose records are in `folder`."""
    short = {
        "data.data_dir": str(folder / "records"),
        "data.image_size": 32,
        "data.lung_mask": "none",
        "data.validation_slices": 2,
    }
    return Settings.from_config(covid_semiseg.get_config()).replace(short | fields)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A folder with the records of a few slices, and one of them as a picture."""
    folder = tmp_path_factory.mktemp("semiseg")
    slices = write_source(folder / "source")
    catalog.build("covid_semiseg", source_dir=slices, data_dir=folder / "records", task="binary")
    Image.fromarray(np.arange(40 * 30).reshape(40, 30).astype(np.uint8)).save(
        folder / "picture.png"
    )
    return folder


@pytest.fixture
def trained(monkeypatch, tmp_path, source):
    """Makes a workdir whose network calls every pixel lesion with one probability."""
    probabilities = {}

    def restored(settings, folder, which):
        return {"params": {"lesion": np.float32(probabilities[folder])}}, STEP

    def make_predict(model, *, flip):
        def with_variables(variables):
            lesion = variables["params"]["lesion"]

            def answer(image):
                prob = np.full((*image.shape[:3], 2), [1 - lesion, lesion], np.float32)
                return Output(prob, np.full((*image.shape[:3], 4), lesion, np.float32))

            return answer

        return with_variables

    monkeypatch.setattr(workdirs, "trained_variables", restored)
    monkeypatch.setattr(networks, "make_predict", make_predict)

    def make(name: str, lesion: float, **fields) -> Path:
        folder = tmp_path / name
        settings = settings_of(source, **fields)
        workdirs.save_settings(settings, folder)
        provenance.keep_training(folder, settings, slices=10)
        probabilities[folder] = lesion
        return folder

    return make


def test_the_mean_of_the_probabilities_counts(trained, source, tmp_path):
    a, b, picture = trained("A", 0.2), trained("B", 0.9), source / "picture.png"
    both = ssa_jax.load([a, b])
    assert repr(both).startswith(f"<Network of lesion: {a}, {b}, covid_semiseg (2 networks), 10 sl")
    np.testing.assert_allclose(both.segment(picture).prob[..., 1], 0.55, rtol=1e-6)
    np.testing.assert_allclose(ssa_jax.load([a]).segment(picture).prob[..., 1], 0.2, rtol=1e-6)
    assert not ssa_jax.load(a).segment(picture).labels.any()
    flags = ["--workdir", str(a), "--workdir", str(b), "--out", str(tmp_path / "masks")]
    assert run(predict.main, [*flags, str(picture)]).status == 0
    with Image.open(tmp_path / "masks/picture.png") as mask:
        assert (np.asarray(mask) == 1).all()
    with (tmp_path / "masks/areas.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["network"] == str(both.provenance)
    assert row["network"].startswith("covid_semiseg (2 networks), 10 slices each, ")
    record = read_signed(tmp_path / "masks/prediction.json", "")["network"]
    assert record["members"] == sorted(ssa_jax.load(one).provenance.weights for one in (a, b))
    ended = run(predict.main, ["--workdir", str(b), *flags[4:], str(picture)])
    assert ended.status == cli.USER_ERROR and "network.data is 'covid_semiseg' here" in ended.errors


def test_its_origin_depends_on_all_networks_and_not_on_their_order(trained):
    a, b, c = trained("A", 0.2), trained("B", 0.9), trained("C", 0.3)
    weights = [ssa_jax.load(names).provenance.weights for names in ([a, b], [b, a], [a, c], [a])]
    assert weights[0] == weights[1] and len(set(weights)) == 3


def test_a_cross_validation_stands_for_its_folds(trained, source, tmp_path):
    for number, lesion in enumerate((0.1, 0.5, 0.9), start=1):
        trained(f"C/fold_{number}", lesion)
    write_json(tmp_path / "C/folds.json", signed({"scheme": "usual", "folds": [{}, {}, {}]}))
    of_folds = ssa_jax.load(tmp_path / "C").segment(source / "picture.png")
    np.testing.assert_allclose(of_folds.prob[..., 1], 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data.image_size": 64}, "B: its images are prepared by .*; expected the same in all"),
        (
            {"eval.least_share": 0.1},
            r"B: its rare classes have a share below 0\.1, those of .*A 0\.0; exp",
        ),
        ({"data.task": "multiclass"}, "B: its classes are .*'ground-glass'.*those of .*A .'lesion"),
    ],
)
def test_networks_that_read_or_answer_otherwise_are_refused(trained, fields, message):
    a, b = trained("A", 0.2), trained("B", 0.9, **fields)
    with pytest.raises(ValueError, match=message):
        ssa_jax.load([a, b])


def test_a_network_named_twice_is_refused(trained):
    a = trained("A", 0.2)
    with pytest.raises(ValueError, match="A: named twice; expected each network once"):
        ssa_jax.load([a, a])


def test_no_network_and_an_export_are_refused(trained, tmp_path):
    with pytest.raises(ValueError, match="no workdir is named"):
        ssa_jax.load([])
    both = ssa_jax.load([trained("A", 0.2), trained("B", 0.9)])
    with pytest.raises(ValueError, match="an ensemble has no weights; export each network"):
        both.export(tmp_path / "E")


def test_it_is_scored_on_what_all_networks_held_out(trained, tmp_path):
    a, b, other = trained("A", 0.2), trained("B", 0.9), trained("C", 0.9, **{"data.split_seed": 1})
    flags = ["--workdir", str(a), "--workdir", str(b), "--quiet", "--which", "last"]
    ended = run(evaluate.main, [*flags, "--out", str(tmp_path / "E")])
    assert ended.status == 0, ended.errors
    summary = read_signed(tmp_path / "E/metrics.json", "")
    assert summary["workdir"] == f"{a}, {b}"
    scores = summary["standard"]["lesion"]
    assert scores["cases"] == 2 and 0 < scores["dsc"]["mean"] < 1  # all is called lesion
    ended = run(evaluate.main, flags)
    assert ended.status == cli.USER_ERROR and "--out is needed" in ended.errors
    flags = ["--workdir", str(a), "--workdir", str(other), "--quiet", "--out", str(tmp_path / "F")]
    ended = run(evaluate.main, flags)
    assert ended.status == cli.USER_ERROR and "'validation' holds other slices" in ended.errors
    assert run(evaluate.main, [*flags, "--split", "test"]).status == 0
