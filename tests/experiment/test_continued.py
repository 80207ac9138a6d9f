"""A training whose user changes the length, the data, the place or the learning rate."""

import csv
import json
import math
import os
import shutil
import socket
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from input_pipeline import loader
from launch import ablate_self_train, cross_validate, evaluate, prepare, self_train, train
from ssa_jax.experiment import data, lock, training
from ssa_jax.experiment import workdir as workdirs
from tests.corruptions import corrupt, last_state
from tests.support.small_training import (
    EPOCHS,
    LABELLED,
    PARTS,
    STEPS,
    arguments,
    draw,
    run,
    save,
    stopped_at,
    tree,
    write_source,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_network")]
TOTAL = EPOCHS * STEPS


@pytest.fixture(scope="module")
def sound(small_network, tmp_path_factory) -> Path:
    """A folder with a source, its records, and two trainings: `over` and `cut` short."""
    folder = tmp_path_factory.mktemp("sound")
    source = write_source(folder / "source")
    with stopped_at(TOTAL - 1):
        assert run(train.main, arguments(source, folder / "cut")).status == 130
    assert run(train.main, arguments(source, folder / "over")).status == 0
    return folder


@pytest.fixture
def here(sound, tmp_path) -> Path:
    """A copy of them, with the times of the source's files."""
    return Path(shutil.copytree(sound, tmp_path / "here"))


def given(here: Path, workdir: str, **fields) -> list[str]:
    return arguments(here / "source", here / workdir, **fields)


def refused(main, flags: list[str], workdir: Path) -> str:
    """The line of a refusal, which leaves the workdir as it was, if only not there."""
    before = tree(workdir)
    status, printed, errors = run(main, flags)
    assert (status, "Trained" in printed) == (2, False), errors
    *others, error = errors.splitlines()
    assert all(line.endswith(": building the records") for line in others), errors
    assert error.startswith("error: ") and tree(workdir) == before, errors
    return f"{error}\n"


def learning_rates(workdir: Path) -> dict[int, float]:
    with (workdir / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == "learning_rate"]
    return {int(row["step"]): float(row["value"]) for row in rows}


def test_the_places_of_a_copy_may_differ(here, sound):
    assert run(train.main, given(here, "cut"))[:1] == (0,)
    assert last_state(here / "cut") == last_state(sound / "over")
    config = json.loads((here / "cut/config.json").read_text())
    assert config["data"]["data_dir"] == str(here / "records")
    assert not list(here.rglob(".lock*"))


@pytest.mark.parametrize("step", [STEPS, TOTAL])
def test_interrupted_in_a_validation_it_ends_as_if_it_were_not(here, sound, step):
    with stopped_at(step):
        status, _, errors = run(train.main, given(here, "stopped"))
    assert status == 130 and f"Stopped in the validation after step {step}; the same" in errors
    log = here / "stopped/metrics.csv"
    assert log.read_text().count("validation") == step // STEPS - 1
    assert run(train.main, given(here, "stopped")).status == 0
    assert last_state(here / "stopped") == last_state(sound / "over")
    assert log.read_bytes() == (sound / "over/metrics.csv").read_bytes()


def test_slices_augmented_on_the_device_are_the_same_when_it_goes_on(here, sound):
    flags = [given(here, name, **{"data.augment_on_device": True}) for name in ("whole", "parts")]
    with mock.patch.object(loader, "augment", side_effect=AssertionError("on the host")):
        assert run(train.main, flags[0]).status == 0
        with stopped_at(TOTAL - 1):
            assert run(train.main, flags[1]).status == 130
        assert run(train.main, flags[1]).status == 0
    assert last_state(here / "parts") == last_state(here / "whole") != last_state(sound / "over")


def test_a_training_that_is_over_goes_on_with_more_epochs(here):
    before = learning_rates(here / "over")
    status, printed, errors = run(train.main, given(here, "over", **{"train.epochs": EPOCHS + 2}))
    assert (status, printed) == (0, f"Trained to step {TOTAL + 2 * STEPS}: {here / 'over'}\n")
    assert f"{here / 'over'}: train.epochs is 5 now and was 3\n" in errors
    after = learning_rates(here / "over")
    assert {step: after[step] for step in before} == before
    peak = json.loads((here / "over/config.json").read_text())["optim"]["learning_rate"]
    for step in (TOTAL + STEPS, TOTAL + 2 * STEPS):  # half a cosine over all 5 epochs
        expected = peak * (1 + math.cos(math.pi * step / (5 * STEPS))) / 2
        assert after[step] == pytest.approx(expected, abs=1e-9)
    assert before[TOTAL] == pytest.approx(0, abs=1e-9)
    text = refused(train.main, given(here, "over", **{"train.epochs": 4}), here / "over")
    assert "10 steps are trained, train.epochs=4 are 8; expected 5 epochs or more" in text


def test_fields_that_may_not_change_are_named_with_both_values(here):
    fields = {"seed": 7, "optim.learning_rate": 0.5, "train.epochs": 9}
    text = refused(train.main, given(here, "over", **fields), here / "over")
    assert "optim.learning_rate is 0.5 here and" in text and "seed is 7 here and 0 there" in text
    assert "train.epochs is" not in text


def change(source: Path) -> None:
    """A slice more, one less, and another label for a third."""
    image, truth = draw(50)
    for part, array in (("Imgs", image), ("GT", truth)):
        save(source / PARTS["train"] / part / "new.png", array)
        (source / PARTS["train"] / part / "3.png").unlink()
    save(source / PARTS["train"] / "GT" / "5.png", truth)


def test_changed_data_are_named_and_accepted_by_a_flag(here):
    change(here / "source")
    text = refused(train.main, given(here, "over"), here / "over")
    said = "1 slice (new) of 'train' added, 1 slice (3) of 'train' gone, 1 slice (5) of 'train' "
    assert f"data.json: the data set is another than this training began with: {said}" in text
    assert "add --accept-data-changes to go on with the slices as they are now, or name" in text
    before = json.loads((here / "over/splits.json").read_text())
    flags = [*given(here, "over", **{"train.epochs": EPOCHS + 1}), "--accept-data-changes"]
    status, _, errors = run(train.main, flags)
    assert status == 0 and said in errors
    after = json.loads((here / "over/splits.json").read_text())
    held = [name for name in before["validation"] if name != "3"]
    assert after["validation"] == held
    assert sorted(after["train"]) == sorted({*before["train"], "new"} - {"3"})
    assert run(train.main, flags[:-1]).status == 0  # they are the training's slices now


@pytest.mark.parametrize("inner", ["over", "rounds", "folds"])
def test_a_refused_change_of_the_source_changes_nothing_on_disk(here, inner):
    """The records of the data set stay too, until a command accepts what changed."""
    main, name = {
        "over": (train.main, "covid_semiseg"),
        "rounds": (self_train.main, "self_train_semiseg"),
        "folds": (cross_validate.main, "covid_semiseg"),
    }[inner]
    fields = {"data.validation_slices": 0} if inner == "folds" else {}
    flags = arguments(here / "source", here / inner, name, **fields)
    if inner != "over":
        assert run(main, flags).status == 0
    change(here / "source")
    assert "the data set is another than this training began with" in refused(main, flags, here)
    scored = ["--workdir", str(here / "over"), "--quiet", "--split", "test"]
    scored += ["--data-dir", str(here / "records"), "--out", str(here / "scores")]
    assert run(evaluate.main, scored).errors == ""  # the slices are still the training's


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"train.epochs": EPOCHS - 1}, "6 steps are trained, train.epochs=2 are"),
        ({"seed": 3}, "seed is 3 here and 0 there"),
        ({"data.validation_slices": LABELLED}, "data.validation_slices is 12 here"),
    ],
)
def test_what_is_refused_besides_comes_before_the_records_too(here, fields, text):
    change(here / "source")
    flags = [*given(here, "over", **fields), "--accept-data-changes"]
    assert text in refused(train.main, flags, here)


def test_records_are_built_anew_once_the_change_is_accepted(here):
    change(here / "source")
    flags = given(here, "over")
    before = tree(here / "records")
    refused(train.main, flags, here)
    assert run(train.main, [*flags, "--accept-data-changes"]).status == 0
    assert tree(here / "records") != before
    assert run(train.main, flags).status == 0


def test_a_plan_opens_the_stated_split_once(here):
    with mock.patch.object(data.catalog, "validation_split", return_value="") as asked:
        (here / "over/splits.json").unlink()
        (here / "over/checkpoints").rename(here / "gone")
        settings = workdirs.load_settings(here / "over")
        settings = settings.replace({"data.data_dir": str(here / "records")})
        plan = data.plan(settings, here / "over")
    assert asked.call_count == 1 and len(plan.validation) == 2


def test_scores_of_changed_data_come_with_a_note(here):
    change(here / "source")
    where = ["--source", str(here / "source"), "--data-dir", str(here / "records")]
    assert run(prepare.main, ["covid_semiseg", *where, "--task", "binary", "--quiet"]).status == 0
    flags = ["--workdir", str(here / "over"), "--quiet", "--split", "test"]
    flags += ["--data-dir", str(here / "records"), "--which", "last"]
    status, _, errors = run(evaluate.main, flags)
    assert status == 0
    assert "1 slice (5) of 'train' changed; the scores are of the slices as they are now" in errors


def test_data_that_moved_are_accepted_and_others_there_are_not(here):
    (here / "records").rename(here / "moved")
    fields = {"data.data_dir": here / "moved", "data.source_dir": ""}
    status, _, errors = run(train.main, given(here, "over", **fields))
    assert status == 0
    assert f"data.data_dir is '{here / 'moved'}' now and was '" in errors
    shutil.rmtree(here / "moved")
    change(here / "source")
    fields = {"data.data_dir": here / "other"}
    assert "(new) of 'train' added" in refused(
        train.main, given(here, "over", **fields), here / "over"
    )


def diverging_at(step: int):
    """The batches of a training, one of them with an image that is not finite."""
    batches = training._batches

    class Spoilt:
        def __init__(self, inner):
            self.inner, self.taken = inner, 0

        def __next__(self):
            self.taken += 1
            batch = next(self.inner)
            if self.taken == step:
                batch = batch | {"image": np.full_like(batch["image"], np.nan)}
            return batch

        def __getattr__(self, name):
            return getattr(self.inner, name)

    return mock.patch.object(training, "_batches", lambda *args: Spoilt(batches(*args)))


def test_a_diverged_training_goes_on_as_it_is_advised(here):
    workdir = here / "new"
    with diverging_at(4):
        status, _, errors = run(train.main, given(here, "new"))
    assert status == 2 and errors.count("\n") == 1
    assert "step 4: the loss or its gradient is not finite" in errors
    assert "lower optim.learning_rate" in errors and "it goes on from step 2" in errors
    assert last_state(workdir).startswith("2 ")
    (flag,) = [word for word in errors.split() if word.startswith("--config.optim.learning_rate=")]
    rate = float(flag.rstrip(",").partition("=")[2])
    status, printed, errors = run(
        train.main, [*given(here, "new"), f"--config.optim.learning_rate={rate}"]
    )
    assert (status, printed) == (0, f"Trained to step {TOTAL}: {workdir}\n")
    assert "optim.learning_rate is" in errors
    assert learning_rates(workdir)[4] == pytest.approx(
        rate * (1 + math.cos(math.pi * 4 / TOTAL)) / 2, abs=1e-9
    )
    assert not (workdir / "diverged.json").exists()
    again = {"optim.learning_rate": rate / 2}
    assert "learning_rate is" in refused(train.main, given(here, "new", **again), workdir)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"optim.warmup_epochs": 9.0}, "the warm-up takes"),
        ({"data.validation_slices": LABELLED}, f"cannot hold out {LABELLED} of {LABELLED}"),
        ({"train.init_from": "absent"}, "absent"),
        ({"data.lung_mask": "guess"}, "lung_mask"),
    ],
)
@pytest.mark.parametrize(
    "main", [train.main, self_train.main, ablate_self_train.main, cross_validate.main]
)
def test_a_refused_command_leaves_no_new_workdir(here, main, fields, text):
    if main is cross_validate.main and "data.validation_slices" in fields:
        fields, text = {"data.validation_split": "test"}, "data.validation_split is 'test'"
    semi = main in (self_train.main, ablate_self_train.main)
    name = "self_train_semiseg" if semi else "covid_semiseg"
    flags = arguments(here / "source", here / "deep" / "new", name, **fields)
    assert text in refused(main, flags, here / "deep")


def test_files_that_are_gone_or_damaged_are_refused_and_nothing_changes(here):
    for name, kept in (("config.json", "cut"), ("splits.json", "cut"), ("metrics.csv", "over")):
        path = here / kept / name
        content = path.read_bytes()
        path.write_bytes(content.replace(b"0", b"1"))
        assert f"{path}: damaged or changed" in refused(train.main, given(here, kept), here / kept)
        path.unlink()
        if name != "metrics.csv":
            assert f"{path}: not found, though" in refused(
                train.main, given(here, kept), here / kept
            )
        path.write_bytes(content)
    path = here / "over" / "metrics.csv"
    path.unlink()
    status, _, errors = run(train.main, given(here, "over"))
    assert (status, errors.splitlines()[0]) == (
        0,
        f"{path}: not found; the log begins anew after step {TOTAL}",
    )


def test_a_workdir_in_use_is_refused_by_every_command_that_trains(here):
    for folder in ("over", "rounds"):
        (here / folder).mkdir(exist_ok=True)
        holder = {"host": socket.gethostname(), "process": os.getpid(), "since": "today"}
        holder["processes"] = lock._process_space()
        (here / folder / ".lock").write_text(json.dumps(holder))
    said = f"in use by process {os.getpid()} on host {socket.gethostname()} since today; wait"
    assert said in refused(train.main, given(here, "over"), here / "over")
    flags = arguments(here / "source", here / "rounds", "self_train_semiseg")
    for main in (self_train.main, cross_validate.main, ablate_self_train.main):
        assert said in refused(main, flags, here / "rounds")
    flags = ["--workdir", str(here / "over"), "--quiet", "--split", "test"]
    assert run(evaluate.main, [*flags, "--data-dir", str(here / "records")]).status == 0


@pytest.mark.long
def test_a_dozen_corruptions():
    """`python -m tests.corruptions --count 200` is the long form."""
    told: list[str] = []
    table = corrupt(12, 3, told.append)
    outcomes = [line.rpartition(": ")[2] for line in told]
    assert len(outcomes) == 12 and sum(map(dict.__len__, table.values())) > 0
    assert set(outcomes) <= {"detected", "harmless"}, told
    assert "detected" in outcomes
