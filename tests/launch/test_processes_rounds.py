"""Several processes that score, label and cross-validate together: the results of one."""

import csv
import shutil
from pathlib import Path

import pytest

from launch.cli import INTERRUPTED
from tests.support import processes
from tests.support.small_training import arguments, tree, write_source

pytestmark = pytest.mark.slow

FIELDS = {"train.batch_size": 8, "self_train.choose": "last"}
RECORDS = "fold_1/round_01/pseudo"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("semiseg") / "source")


def given(source: Path, workdir: Path) -> list[str]:
    flags = arguments(source, workdir, "self_train_semiseg", **FIELDS)
    folds = [text for text in flags if not text.startswith("--config.data.validation_slices")]
    return [*folds, "--folds", "2", "--rounds"]


@pytest.fixture(scope="module")
def alone(source, tmp_path_factory) -> Path:
    """The cross-validation of rounds by one process with eight devices."""
    workdir = tmp_path_factory.mktemp("alone") / "W"
    (one,) = processes.run("cross_validate", given(source, workdir), devices=8)
    assert one.status == 0, one.errors
    return workdir


def test_evaluations_are_equal_to_the_last_digit(alone, tmp_path):
    """Six validation slices: three by each of two processes, of which the main one draws four."""
    found = []
    for count, devices in ((1, 1), (1, 8), (2, 4)):
        out = tmp_path / f"{count} x {devices}"
        flags = ["--workdir", str(alone / "fold_1/round_02"), "--which", "last"]
        flags += ["--out", str(out), "--pictures", "4", "--quiet"]
        ended = processes.run("evaluate", flags, processes=count, devices=devices)
        assert [one.status for one in ended] == [0] * count, ended
        assert ["lesion" in one.printed for one in ended] == [True, False][:count]
        found.append({name: data for name, data in tree(out).items() if not name.endswith("png")})
        assert len(list((out / "pictures").iterdir())) == 4
    assert found[0] == found[1] == found[2]
    assert found[0]["cases.csv"].count(b"\n") > 6


@pytest.mark.long
def test_an_evaluation_by_two_processes_stops_when_one_gets_sigterm(alone, tmp_path):
    flags = ["--workdir", str(alone / "fold_1/round_02"), "--which", "last", "--quiet"]
    flags += ["--out", str(tmp_path / "out")]
    started = processes.start("evaluate", flags, processes=2, devices=1, stop_scoring=True)
    both = processes.ended(started)
    assert [one.status for one in both] == [INTERRUPTED] * 2, both
    assert "Stopped; the same command goes on" in both[0].errors
    assert not (tmp_path / "out").exists()


def test_two_processes_cross_validate_rounds_as_one(source, alone, tmp_path):
    """They go on after the first round of the first fold, whose network labels for both."""
    workdir = tmp_path / "W"
    shutil.copytree(alone, workdir)
    for name in (RECORDS, "fold_1/round_02", "fold_1/evaluation", "fold_1/summary.json", "fold_2"):
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("metrics.json", "cases.csv"):
        (workdir / name).unlink()
    both = processes.run("cross_validate", given(source, workdir), processes=2, devices=4)
    assert [one.status for one in both] == [0, 0], both
    assert ["fold 2 of 2" in one.printed for one in both] == [True, False]
    labels = [tree(folder / RECORDS) for folder in (alone, workdir)]
    assert labels[0] == labels[1] and len(labels[0]) > 3
    ours, theirs = (rows_of(folder / "cases.csv") for folder in (alone, workdir))
    assert len(ours) == 12
    for one, other in zip(ours, theirs, strict=True):
        assert list(one) == list(other) and one["case"] == other["case"]
        # Of networks whose weights differ by rounding.
        assert number(other["standard.dsc"]) == pytest.approx(number(one["standard.dsc"]), abs=0.02)
    assert {k for k in tree(workdir) if not unnamed(k)} == {
        k for k in tree(alone) if not unnamed(k)
    }


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def number(text: str) -> float:
    return float(text or "nan")


def unnamed(name: str) -> bool:
    """Whether a file's name differs between runs."""
    return "tensorboard/" in name or "/d/" in name or "ocdbt.process" in name
