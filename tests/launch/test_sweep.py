"""Variants of a configuration: named, trained in turns, compared, stopped and extended."""

import json
from pathlib import Path
from unittest import mock

import pytest

from launch import cli, sweep
from ssa_jax.experiment.sweep import folder_of
from tests.support.small_training import (
    arguments,
    run,
    stand_in,
    stand_in_in_workers,
    stopped_at,
    tree,
    write_source,
)

pytestmark = pytest.mark.slow

GRID = ("--grid", "seed=0,1")
RATES = ("--grid", "optim.learning_rate=0.01,0.0")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("semiseg") / "source")


def given(source: Path, workdir: Path, *more: str, folds: int = 2, **fields) -> list[str]:
    found = arguments(source, workdir, **fields)
    if folds:
        found = [text for text in found if not text.startswith("--config.data.validation_slices")]
        found += ["--folds", str(folds)]
    return [*found, *more]


def test_a_grid_names_every_combination():
    made = sweep.combinations(["seed=0,1", "model.kernel_size=5,9"])
    assert list(made) == [
        "seed=0 kernel_size=5",
        "seed=0 kernel_size=9",
        "seed=1 kernel_size=5",
        "seed=1 kernel_size=9",
    ]
    assert made["seed=1 kernel_size=5"] == ["--config.seed=1", "--config.model.kernel_size=5"]
    both = sweep.combinations(["loss.dice=0,1", "other.dice=2"])
    assert list(both) == ["loss.dice=0 other.dice=2", "loss.dice=1 other.dice=2"]


def test_a_variant_has_one_folder_within_that_of_the_sweep(tmp_path):
    for name in ("data_dir=../a/b", "/a", "seed=0 kernel_size=5"):
        assert folder_of(tmp_path, name).parent == tmp_path
    assert folder_of(tmp_path, "seed=0 kernel_size=5").name == "seed=0 kernel_size=5"


@pytest.mark.parametrize("grid", [["seed"], ["seed=0,0"], ["seed=0,"], ["seed=0", "seed=1"]])
def test_bad_grids(grid):
    with pytest.raises(ValueError, match="expected each field once"):
        sweep.combinations(grid)


def test_variants_of_a_configuration_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "def get_variants(preset='all'):\n"
        "    return {'as it is': {}, preset: {'train.epochs': 2, 'data.task': 'binary'}}\n"
    )
    flags = ["--config.train.epochs=2", "--config.data.task=binary"]
    assert sweep.named("mine.py") == {"as it is": [], "all": flags}
    assert list(sweep.named("mine.py:cpu")) == ["as it is", "cpu"]
    with pytest.raises(ValueError, match="names no variants in get_variants; add --grid"):
        sweep.named("covid_semiseg:cpu")


def test_folds_are_done_in_turns_and_resumed_to_the_same_bits(source, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    with stand_in():
        ended = run(sweep.main, given(source, whole, *RATES))
        assert ended.status == 0, ended.errors
        with stopped_at(5):  # in the second variant's first fold
            assert run(sweep.main, given(source, stopped, *RATES)).status != 0
        assert not list(stopped.glob("*/fold_2/metrics.csv"))
        again = run(sweep.main, given(source, stopped, *RATES))
        assert again.printed.replace(str(stopped), str(whole)) == ended.printed
        done = tree(whole)
        repeated = run(sweep.main, given(source, whole, *RATES))
        assert (repeated.printed, tree(whole)) == (ended.printed, done)  # nothing is done again
    lines = [line.partition(":")[0] for line in ended.printed.splitlines()[:4]]
    assert lines == [
        f"learning_rate={rate}, fold {fold} of 2" for fold in (1, 2) for rate in ("0.01", "0.0")
    ]
    compared = json.loads((whole / "comparison/comparison.json").read_text())
    assert (compared["reference"], compared["cases"]) == ("learning_rate=0.01", 12)
    rows = compared["classes"]["lesion"]
    for name in ("learning_rate=0.01", "learning_rate=0.0"):
        summary = json.loads((whole / name / "metrics.json").read_text())
        mean = summary["standard"]["lesion"]["dsc"]["mean"]
        assert rows[name]["score"]["mean"] == pytest.approx(mean, abs=1e-12)
    assert rows["learning_rate=0.0"]["score"] != rows["learning_rate=0.01"]["score"]


def test_shards_without_folds_then_all_and_one_variant_more(source, tmp_path):
    with stand_in():
        for part in ("2/2", "1/2"):
            shard = run(sweep.main, given(source, tmp_path / "W", *GRID, "--shard", part, folds=0))
            assert shard.status == 0, shard.errors
            assert shard.printed.startswith(f"seed={int(part[0]) - 1}: ")
            assert shard.printed.count("\n") == 1
        ended = run(sweep.main, given(source, tmp_path / "W", *GRID, folds=0))
        assert ended.status == 0, ended.errors
        more = run(sweep.main, given(source, tmp_path / "W", "--grid", "seed=0,1,2", folds=0))
    assert more.printed.splitlines()[:2] == ended.printed.splitlines()[:2]
    compared = json.loads((tmp_path / "W/comparison/comparison.json").read_text())
    assert list(compared["networks"]) == ["seed=0", "seed=1", "seed=2"]
    assert compared["cases"] == 2


@pytest.mark.long
def test_jobs_side_by_side_have_the_same_scores(source, tmp_path):
    turns, jobs = (given(source, tmp_path / name, *RATES) for name in ("turns", "jobs"))
    with stand_in(), mock.patch.object(cli, "prepare_jax", stand_in_in_workers):
        assert run(sweep.main, turns).status == 0
        ended = run(sweep.main, [*jobs, "--jobs", "2"])
        assert ended.status == 0, ended.errors
        done = tree(tmp_path / "jobs")
        again = run(sweep.main, jobs)
    assert tree(tmp_path / "jobs") == done
    assert sorted(again.printed.splitlines()) == sorted(ended.printed.splitlines())
    for table in ("learning_rate=0.01/cases.csv", "learning_rate=0.0/cases.csv"):
        assert (tmp_path / "jobs" / table).read_text() == (tmp_path / "turns" / table).read_text()


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--grid", "seed=0"), "1 variant is given, expected two or more"),
        (("--grid", "optim.momentum=0,1"), "--config: no such field"),
        (("--grid", "train.epochs=1,few"), "--config"),
    ],
)
def test_bad_variants(source, tmp_path, more, text):
    ended = run(sweep.main, given(source, tmp_path / "W", *more))
    assert ended.status == 2
    assert text in ended.errors and ended.errors.count("\n") == 1
    assert not (tmp_path / "W").exists()
