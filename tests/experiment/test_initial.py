"""A network that is pretrained first: once, with the bits of an uninterrupted run."""

from pathlib import Path

import jax
import numpy as np
import pytest

from configs import base, phantom_pretraining
from input_pipeline.datasets.ct_phantom_domains import patients
from launch import cross_validate, train
from ssa_jax.experiment import workdir as workdirs
from ssa_jax.experiment.initial import pretraining_folder, pretraining_of
from ssa_jax.experiment.settings import Settings
from tests.support.small_training import arguments, run, stand_in, stopped_at, tree, write_source

pytestmark = pytest.mark.slow

FIELDS = {"train.pretrain": "phantom_pretraining", "optim.learning_rate": 0.0}


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """Slices to train on; there are ten to pretrain on, for two steps."""
    small = phantom_pretraining.get_config()
    small.train.batch_size, small.train.epochs, small.train.validate_every = 8, 2, 2
    small.data.validation_slices = 2
    small.optim.warmup_epochs = 0.0
    monkeypatch.setattr(phantom_pretraining, "get_config", lambda: small)
    few = [(patients.LABELLED, 1)] * 10
    monkeypatch.setattr(patients, "PRETRAINING_SPLIT", {patients.PRETRAINING: few})
    return write_source(tmp_path / "semiseg" / "source")


def params(folder: Path) -> list[np.ndarray]:
    with stand_in():
        found, _ = workdirs.trained_variables(workdirs.load_settings(folder), folder, "last")
        return jax.tree.leaves(found["params"])


def test_a_training_starts_from_the_pretrained_network(source, tmp_path):
    records = source.parent / "records"
    with stand_in():
        ended = run(train.main, arguments(source, tmp_path / "W", **FIELDS))
        assert ended.status == 0, ended.errors
        (folder,) = (records / "pretrained").iterdir()
        of_pretraining = [line for line in ended.errors.splitlines() if "building" not in line]
        assert of_pretraining == [f"{folder}: pretraining"]
        done = tree(folder)
        drawn = FIELDS | {"train.pretrain": ""}
        assert run(train.main, arguments(source, tmp_path / "U", **drawn)).status == 0
        again = run(train.main, arguments(source, tmp_path / "V", **FIELDS))
        assert (again.status, again.errors) == (0, "")  # it is done
    assert tree(folder) == done
    # Nothing is learned after it, so that its weights are those of the end, up to the rounding of
    # the moving average.
    drawn = params(tmp_path / "U")
    for ours, pretrained, fresh in zip(params(tmp_path / "W"), params(folder), drawn, strict=True):
        np.testing.assert_allclose(ours, pretrained, rtol=1e-5, atol=1e-9)
        assert not np.allclose(ours, fresh, rtol=1e-4, atol=1e-6)
    settings = workdirs.load_settings(folder)
    assert (settings.data.image_size, settings.train.epochs) == (32, 2)


def test_stopped_while_it_pretrains_it_ends_with_the_same_bits(source, tmp_path):
    fields = FIELDS | {"optim.learning_rate": 0.01}
    with stand_in():
        assert run(train.main, arguments(source, tmp_path / "whole", **fields)).status == 0
        records = source.parent / "records"
        (records / "pretrained").rename(tmp_path / "aside")
        with stopped_at(1):
            assert run(train.main, arguments(source, tmp_path / "W", **fields)).status != 0
        assert not (tmp_path / "W/checkpoints").exists()
        given = arguments(source, tmp_path / "W", **fields)
        given.remove("--quiet")
        ended = run(train.main, given)
        assert ended.status == 0, ended.errors
    assert ": going on from step 1 of 2; compiling the step\n" in ended.errors
    assert f"{tmp_path / 'W'}: 6 steps; compiling the step\n" in ended.errors
    log = (tmp_path / "whole/metrics.csv").read_bytes()
    assert (tmp_path / "W/metrics.csv").read_bytes() == log


def test_folds_share_it(source, tmp_path):
    given = arguments(source, tmp_path / "W", **FIELDS)
    given = [text for text in given if not text.startswith("--config.data.validation_slices")]
    with stand_in():
        ended = run(cross_validate.main, [*given, "--folds", "2"])
    assert ended.status == 0 and ended.errors.count(": pretraining") == 1
    assert len(list((source.parent / "records/pretrained").iterdir())) == 1


def test_it_takes_network_size_and_loss_from_the_training():
    settings = Settings.from_config(base.get_config()).replace(
        {
            "train.pretrain": "phantom_pretraining",
            "data.task": "multiclass",
            "data.image_size": 256,
            "model.kernel_size": 5,
            "loss.cross_entropy": 0.7,
        }
    )
    made = pretraining_of(settings)
    assert (made.data.task, made.data.image_size, made.data.name) == (
        "multiclass",
        256,
        "ct_phantom_pretraining",
    )
    assert (made.model, made.loss, made.seed) == (settings.model, settings.loss, settings.seed)
    assert made.train.epochs == phantom_pretraining.get_config().train.epochs


def test_it_reads_the_files_of_the_training_wherever_they_are():
    """Its unlabelled slices are those of the same data set; its folder does not go by the place."""
    settings = Settings.from_config(base.get_config()).replace(
        {"train.pretrain": "synthetic_pretraining", "data.source_dir": "PLACE"}
    )
    made = pretraining_of(settings)
    assert (made.data.name, made.data.source_dir) == ("covid_semiseg_synthetic", "PLACE")
    elsewhere = pretraining_of(settings.replace({"data.source_dir": "OTHER"}))
    assert pretraining_folder(made) == pretraining_folder(elsewhere)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"train.pretrain": "phantoms"}, "train.pretrain is 'phantoms'; expected one of base, cov"),
        (FIELDS | {"train.init_from": "W"}, "and train.init_from 'W'; expected one of them"),
    ],
)
def test_bad_sources(source, tmp_path, fields, text):
    ended = run(train.main, arguments(source, tmp_path / "W", **fields))
    assert ended.status == 2 and text in ended.errors
    assert not (tmp_path / "W").exists()
