"""Rounds in the folds of a cross-validation, with labelled and pseudo-labelled slices mixed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.pseudo_labels import PseudoLabels, read_manifest
from input_pipeline.splits import load_split
from ssa_jax.semi_supervised.trust import is_doubtful
from tests.launch.test_self_train import arguments, environment, results, source  # noqa: F401
from tests.support import ROOT

pytestmark = pytest.mark.slow

MIXED = {
    "train.batch_size": 4,
    "loss.class_weight_over": "none",  # the same program in all rounds and folds
    "train.epochs": 2,
    "self_train.choose": "last",
    "self_train.max_rounds": 2,
    "self_train.slices_per_round": 10,
    "self_train.eta": 0.36,
    "self_train.low_confidence": "ignore",
    "self_train.leave_out_doubtful": True,
    "self_train.labelled_share": 0.5,
    "self_train.pseudo_weight": 0.5,
    "self_train.pseudo_ramp_epochs": 1.0,
    "self_train.strong_intensity": 2.0,
    "self_train.temperature": 0.0,
    "self_train.same_steps": True,
    "mixing.cutmix": 0.5,
    "mixing.copy_paste": 0.5,
    "mixing.amplitude": 0.5,
}
ONLINE = {
    "train.batch_size": 4,
    "loss.class_weight_over": "none",  # the same program in all rounds and folds
    "train.epochs": 2,
    "train.consistency": True,
    "optim.average_decay": 0.9,
    "self_train.choose": "last",
    "self_train.max_rounds": 1,
    "self_train.eta": 0.36,
    "mixing.cutmix": 0.5,
}


def start(source: Path, workdir: Path, cache: Path, fields: dict) -> subprocess.Popen:  # noqa: F811
    given = arguments(source, workdir, **fields)
    given = [text for text in given if not text.startswith("--config.data.validation_slices")]
    return subprocess.Popen(
        [sys.executable, "-m", "launch.cross_validate", *given, "--folds", "2", "--rounds"],
        cwd=ROOT,
        env=environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return printed


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize("fields", [MIXED, ONLINE], ids=["rounds", "online teacher"])
def test_folds_of_rounds_killed_or_not(source, fields, tmp_path):  # noqa: F811
    cache, whole, killed = (tmp_path / name for name in ("cache", "whole", "killed"))
    began = time.perf_counter()
    printed = finish(start(source, whole, cache, fields))
    took = time.perf_counter() - began
    check_folds(whole, printed, fields["self_train.max_rounds"])
    rng = np.random.default_rng(int(os.environ.get("SSA_JAX_KILLS", "2")))
    process = start(source, killed, cache, fields)
    time.sleep(rng.uniform(0.2, 0.7) * took)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=600)
    assert finish(start(source, killed, cache, fields)) == printed.replace(str(whole), str(killed))
    for fold in ("fold_1", "fold_2"):
        assert results(killed / fold) == results(whole / fold)


def check_folds(workdir: Path, printed: str, rounds: int) -> None:
    """Every labelled slice is held out once, by all rounds of its fold; the last one is scored."""
    held: list[str] = []
    for fold in (workdir / "fold_1", workdir / "fold_2"):
        parts = load_split(fold / "splits.json")
        held += parts[1]
        for number in range(1, rounds + 1):
            assert load_split(fold / f"round_{number:02d}/splits.json") == parts
        scores = json.loads((fold / "evaluation/validation/metrics.json").read_text())
        assert scores["workdir"] == str(fold / f"round_{rounds:02d}")
        last = json.loads((fold / f"round_{rounds:02d}/round.json").read_text())
        if rounds > 1:
            check_labels(fold / "round_01/pseudo", last)
    assert len(held) == len(set(held)) == 6
    assert "interval over 6 patients" in printed


def check_labels(folder: Path, row: dict) -> None:
    """The row counts the slices that were left out, and the temperature is stored."""
    labels = PseudoLabels(folder)
    doubtful = sum(is_doubtful(item.mask, item.weight) for item in labels)
    assert (row["labelled"], row["left_out"]) == (3, doubtful)
    assert row["slices"] == 3 + len(labels) - doubtful
    assert 0.25 <= read_manifest(folder)["temperature"] <= 8
