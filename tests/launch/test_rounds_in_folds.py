"""Rounds in the folds of a cross-validation: mixed pools or an online teacher, stopped or not."""

import json
from pathlib import Path

import pytest

from input_pipeline.pseudo_labels import PseudoLabels, read_manifest
from input_pipeline.splits import load_split
from launch import cross_validate, self_train, train
from ssa_jax.semi_supervised.trust import is_doubtful
from tests.support.small_training import (
    LABELLED,
    Ended,
    arguments,
    run,
    stand_in,
    stopped_at,
    tree,
    write_source,
)

pytestmark = pytest.mark.slow

COMMON = {"self_train.choose": "last", "self_train.slices_per_round": 4}
MIXED = COMMON | {
    "self_train.eta": 0.6,
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
ONLINE = COMMON | {
    "train.batch_size": 16,
    "train.consistency": True,
    "optim.average_decay": 0.9,
    "mixing.cutmix": 0.5,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("semiseg") / "source")


def folds(source: Path, workdir: Path, **fields) -> Ended:
    given = arguments(source, workdir, "self_train_semiseg", **fields)
    given = [text for text in given if not text.startswith("--config.data.validation_slices")]
    return run(cross_validate.main, [*given, "--folds", "2", "--rounds"])


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(MIXED, id="two pools"),
        pytest.param(ONLINE, id="online teacher", marks=pytest.mark.long),
    ],
)
def test_folds_of_rounds_end_with_the_same_bits(source, fields, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    with stand_in():
        ended = folds(source, whole, **fields)
        assert ended.status == 0, ended.errors
        check_folds(whole, ended.printed)
        with stopped_at(9):  # within the second round of the first fold
            assert folds(source, stopped, **fields).status != 0
        assert (stopped / "fold_1/round_02/config.json").exists()
        again = folds(source, stopped, **fields)
    assert again.status == 0, again.errors
    assert again.printed.replace(str(stopped), str(whole)) == ended.printed
    assert results(stopped) == results(whole)


def results(workdir: Path) -> dict[str, bytes]:
    """The rows, labels and scores of all rounds: they come from the weights."""
    files = {k: v for k, v in tree(workdir).items() if "checkpoints" not in k}
    names = ("round.json", "manifest.json", "cases.csv", "rounds.csv")
    kept = {k: v for k, v in files.items() if k.endswith(names) or "array_record" in k}
    assert len(kept) >= 12
    return kept


def check_folds(workdir: Path, printed: str) -> None:
    """Every labelled slice is held out once, by all rounds of its fold; the last one is scored."""
    held: list[str] = []
    for fold in (workdir / "fold_1", workdir / "fold_2"):
        parts = load_split(fold / "splits.json")
        held += parts[1]
        for number in (1, 2):
            assert load_split(fold / f"round_{number:02d}/splits.json") == parts
        scores = json.loads((fold / "evaluation/validation/metrics.json").read_text())
        assert scores["workdir"] == str(fold / "round_02")
        last = json.loads((fold / "round_02/round.json").read_text())
        check_labels(fold / "round_01/pseudo", last)
    assert len(held) == len(set(held)) == LABELLED
    assert f"interval over {LABELLED} cases" in printed


def check_labels(folder: Path, row: dict) -> None:
    """The row counts the slices that were left out, and the temperature is stored."""
    labels, manifest = PseudoLabels(folder), read_manifest(folder)
    left_out = 0
    if manifest["low_confidence"] == "ignore":
        left_out = sum(is_doubtful(item.mask, item.weight) for item in labels)
        assert 0.25 <= manifest["temperature"] <= 8 and manifest["temperature"] != 1
    assert (row["labelled"], row["left_out"]) == (LABELLED // 2, left_out)
    assert row["slices"] == LABELLED // 2 + len(labels) - left_out


def test_an_online_teacher_trains_without_rounds_and_resumes(source, tmp_path):
    fields = {name: value for name, value in ONLINE.items() if not name.startswith("self_train")}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    with stand_in():
        ended = run(train.main, arguments(source, whole, **fields))
        assert ended.status == 0, ended.errors
        with stopped_at(3):
            assert run(train.main, arguments(source, stopped, **fields)).status != 0
        assert run(train.main, arguments(source, stopped, **fields)).status == 0
    log = (whole / "metrics.csv").read_bytes()
    assert (stopped / "metrics.csv").read_bytes() == log
    origin = json.loads((whole / "training.json").read_text())
    assert origin["slices"] == LABELLED - 2 + 4


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"self_train.choose": "first"}, "self_train.choose is 'first'; expected one of"),
        ({"self_train.labelled_share": 1.0}, "self_train.labelled_share is 1.0; expected 0"),
        ({"train.consistency": True, "optim.average_decay": 0.0}, "optim.average_decay is 0.0"),
        ({"train.consistency": True, "train.batch_size": 1}, "train.batch_size is 1; expected"),
        (ONLINE | {"self_train.labelled_share": 0.5}, "expected 0 with train.consistency"),
        (
            {"self_train.pseudo_weight": 0.5},
            "pseudo_weight is 0.5; expected its default 1.0",
        ),
        ({"self_train.strong_intensity": 2.0}, "expected its default 1.0 without self"),
        ({"mixing.cutmix": 2.0}, "mixing.cutmix is 2.0; expected 0 to 1"),
        ({"model.nested_classes": True}, "model.nested_classes is True; expected False for one"),
        ({"eval.density_slope": 9.0}, "eval.density_slope is 9.0; expected 0 for one class"),
        ({"eval.least_share": 0.1}, "eval.least_share is 0.1; expected 0 for one class"),
        ({"eval.least_share": 0.6}, "eval.least_share is 0.6; expected 0 to 0.5"),
        ({"eval.density_middle": -500.0}, "eval.density_middle is -500.0; expected 0 to 1"),
    ],
)
def test_bad_fields(source, tmp_path, fields, text):
    ended = folds(source, tmp_path / "W", **fields)
    assert ended.status == 2
    assert text in ended.errors and ended.errors.count("\n") == 1
    assert not (tmp_path / "W").exists()


def test_a_temperature_is_not_fitted_on_test_slices(source, tmp_path):
    given = {"self_train.temperature": 0.0, "data.validation_split": "test"}
    ended = run(self_train.main, arguments(source, tmp_path / "W", "self_train_semiseg", **given))
    assert ended.status == 2 and "which fits it on the validation slices" in ended.errors
