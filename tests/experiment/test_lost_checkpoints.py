"""Checkpoints that are gone as a whole, though the workdir's records say that they were there."""

import shutil
from pathlib import Path
from unittest import mock

import pytest

from input_pipeline.files import write_json
from input_pipeline.verified import read_signed, signed
from launch import cross_validate, evaluate, predict, self_train, train
from ssa_jax.experiment import provenance, workdir
from ssa_jax.training.checkpoint import Checkpoints
from ssa_jax.training.metric_log import shows_checkpoint
from tests.corruptions import last_state
from tests.support.small_training import (
    EPOCHS,
    STEPS,
    arguments,
    run,
    stopped_at,
    tree,
    write_source,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_network")]
TOTAL = EPOCHS * STEPS


@pytest.fixture(scope="module")
def sound(small_network, tmp_path_factory) -> Path:
    """A source, its records, a training stopped in its first epoch, and one that is over."""
    folder = tmp_path_factory.mktemp("sound")
    source = write_source(folder / "source")
    with stopped_at(1):
        assert run(train.main, arguments(source, folder / "begun")).status == 130
    assert run(train.main, arguments(source, folder / "over")).status == 0
    return folder


@pytest.fixture
def here(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "here"))


def refused(main, flags: list[str], folder: Path) -> str:
    before = tree(folder)
    status, _, errors = run(main, flags)
    assert status == 2 and errors.startswith("error: ") and errors.count("\n") == 1, errors
    assert tree(folder) == before
    return errors


def forget_saved(folder: Path) -> None:
    """Make the note that of an older version."""
    note = read_signed(folder / provenance.FILE, "")
    assert note.pop(provenance.SAVED) is True
    write_json(folder / provenance.FILE, signed(note))


def uses(here: Path, name: str) -> dict:
    """Every command that restores a network of this workdir."""
    workdir, records = str(here / name), str(here / "records")
    picture = str(next((here / "source").rglob("Imgs/0.png")))
    scored = ["--workdir", workdir, "--quiet", "--split", "test", "--data-dir", records]
    wanted = ["--workdir", workdir, "--out", str(here / "out"), picture]
    begins = {"train.init_from": workdir}
    return {
        "train": (train.main, arguments(here / "source", here / name)),
        "evaluate best": (evaluate.main, scored),
        "evaluate last": (evaluate.main, [*scored, "--which", "last"]),
        "predict": (predict.main, wanted),
        "predict last": (predict.main, [*wanted, "--which", "last"]),
        "init_from": (train.main, arguments(here / "source", here / "new", **begins)),
    }


@pytest.mark.parametrize("old", [False, True])
def test_all_gone_is_refused_by_every_command(here, old):
    folder = here / "over"
    if old:
        forget_saved(folder)
    shutil.rmtree(folder / "checkpoints")
    tells = "metrics.csv" if old else "training.json"
    wanted = "restore the folder from a copy, or train anew in another --workdir"
    for name, (main, flags) in uses(here, "over").items():
        place = folder / "checkpoints" / ("last" if name == "train" else "")
        said = refused(main, flags, here)
        assert said == (
            f"error: {place}: no checkpoint, though {tells} says that the network was saved; "
            f"{wanted}\n"
        )
    (folder / "checkpoints" / "last").mkdir(parents=True)  # an empty folder is no checkpoint
    assert "no checkpoint, though" in refused(*uses(here, "over")["train"], here)


def test_one_of_the_two_gone(here):
    folder = here / "over"
    shutil.rmtree(folder / "checkpoints" / "last")
    calls = uses(here, "over")
    assert "checkpoints/last: no checkpoint, though training.json" in refused(*calls["train"], here)
    for name in ("evaluate last", "predict last"):
        assert "checkpoints/last: no checkpoint; use --which best\n" in refused(*calls[name], here)
    assert run(*calls["evaluate best"]).status == 0


def test_the_best_is_chosen_anew_where_it_is_gone(here):
    folder = here / "over"
    shutil.rmtree(folder / "checkpoints" / "best")
    calls = uses(here, "over")
    for name in ("evaluate best", "predict"):
        assert "checkpoints/best: no checkpoint; use --which last\n" in refused(*calls[name], here)
    flags = arguments(here / "source", folder, **{"train.epochs": EPOCHS + 1})
    with mock.patch("ssa_jax.experiment.training.mean_dsc", lambda *_: 0.001):  # a poor one
        status, _, errors = run(train.main, flags)
    assert status == 0
    assert f"{folder}/checkpoints/best: no checkpoint, though there was one; the best" in errors
    (kept,) = (folder / "checkpoints" / "best").iterdir()
    assert kept.name == str(TOTAL + STEPS)


def test_a_damaged_note_is_refused_before_anything_is_written(here):
    path = here / "over" / provenance.FILE
    path.write_bytes(path.read_bytes().replace(b"covid", b"cobid"))
    calls = uses(here, "over")
    del calls["init_from"]  # begins from the weights, and does not say what they were trained on
    for main, flags in calls.values():
        assert f"{path}: damaged or changed: the hash" in refused(main, flags, here)


def test_a_training_that_saved_nothing_begins_anew(here):
    """Killed before its first checkpoint: the same command is right to start at step 0."""
    folder = here / "begun"
    shutil.rmtree(folder / "checkpoints")
    assert "though training.json" in refused(*uses(here, "begun")["train"], here)
    forget_saved(folder)  # as if it had been killed
    assert run(*uses(here, "begun")["train"]).status == 0
    assert last_state(folder) == last_state(here / "over")


def test_what_the_log_shows(tmp_path):
    path, head = tmp_path / "metrics.csv", "step,name,value\n"
    for lines, expected in (
        ("", False),
        ("2,train/loss,0.5\n4,train/loss,0.5\n", False),  # not validated yet
        ("2,train/loss,0.5\n2,validation/dsc,nan\n2,epoch,1.0\n", False),  # killed right then
        ("2,validation/dsc,0.1\n2,epoch,1.0\n4,train/loss,0.5\n", True),
        ("2,train/loss,0.5\n4,validation/dsc,0.1\n6,train/loss,0.5\n", True),
    ):
        path.write_text(head + lines)
        assert shows_checkpoint(tmp_path) is expected, lines
    path.unlink()
    assert not shows_checkpoint(tmp_path)


def test_an_imported_network_that_is_gone(tmp_path):
    provenance.keep_import(tmp_path, Path("weights.pth"))
    with pytest.raises(FileNotFoundError, match=r"though training.json says .*train anew in"):
        workdir.require_not_lost(tmp_path)
    assert not Checkpoints(tmp_path)._steps("best")


def test_rounds_and_folds(here):
    """Where a round or fold is done its network is needed no more, but by the next labels."""
    for main, name, inner in (
        (self_train.main, "self_train_semiseg", "round_01"),
        (cross_validate.main, "covid_semiseg", "fold_1"),
    ):
        folder = here / inner
        fields = {"data.validation_slices": 0} if inner == "fold_1" else {}
        flags = arguments(here / "source", folder, name, **fields)
        assert run(main, flags).status == 0
        for path in folder.rglob("metrics.json"):
            path.unlink()
        (folder / inner / "round.json").unlink(missing_ok=True)
        shutil.rmtree(folder / inner / "checkpoints")
        said = refused(main, flags, folder)
        assert f"{folder / inner / 'checkpoints/last'}: no checkpoint, though training.json" in said
