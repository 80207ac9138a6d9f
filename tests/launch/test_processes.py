"""Several processes that train one network: the same numbers, one writer, one end."""

import json
import re
import signal
import time
from pathlib import Path

import pytest

from ssa_jax.training.metric_log import read_metrics
from tests.support import processes
from tests.support.small_training import arguments, tree, write_source

pytestmark = pytest.mark.slow

FIELDS = {"train.batch_size": 8, "data.validation_slices": 4}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The slices, and the records that the first run builds."""
    return write_source(tmp_path_factory.mktemp("semiseg") / "source")


def given(source: Path, workdir: Path, **fields) -> list[str]:
    return arguments(source, workdir, **(FIELDS | fields))


@pytest.fixture(scope="module")
def alone(source, tmp_path_factory) -> Path:
    """The workdir of one process with eight devices."""
    workdir = tmp_path_factory.mktemp("alone") / "W"
    (one,) = processes.run("train", given(source, workdir), devices=8)
    assert one.status == 0, one.errors
    return workdir


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_two_processes_train_as_one(source, alone, tmp_path, mapping):
    workdir = tmp_path / "W"
    fields = given(source, workdir, **{"train.mapping": mapping})
    both = processes.run("train", fields, processes=2, devices=4)
    assert [one.status for one in both] == [0, 0], both
    assert "2 processes, 8 devices: 8 x cpu" in both[0].errors
    assert "Trained" not in both[1].printed
    expected, found = (read_metrics(folder / "metrics.csv") for folder in (alone, workdir))
    assert list(found) == list(expected)
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points]
        values = [value for _, value in points]
        assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-5), name
    # The files are those of one process, none is written twice.
    names = {name for name in tree(alone) if "tensorboard/" not in name and "/d/" not in name}
    assert {name for name in tree(workdir) if "tensorboard/" not in name} >= names
    assert len(list((workdir / "tensorboard").iterdir())) == 1


def test_sigterm_to_one_process_stops_all_after_one_step_and_they_resume(source, tmp_path):
    workdir, whole = tmp_path / "W", tmp_path / "whole"
    long = {"train.epochs": 60, "train.validate_every": 60}
    started = processes.start("train", given(source, workdir, **long), processes=2, devices=1)
    wait_for_log(workdir, started)
    started[1].send_signal(signal.SIGTERM)
    stopped = processes.ended(started)
    assert [one.status for one in stopped] == [130, 130], stopped
    step = int(re.search(r"Stopped at step (\d+)", stopped[0].errors)[1])
    assert [path.name for path in (workdir / "checkpoints/last").iterdir()] == [str(step)]
    again = processes.run("train", given(source, workdir, **long), processes=2, devices=1)
    assert [one.status for one in again] == [0, 0], again
    other = processes.run("train", given(source, whole, **long), processes=2, devices=1)
    assert [one.status for one in other] == [0, 0], other
    assert (workdir / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


@pytest.mark.long
def test_sigterm_to_one_process_in_a_validation_stops_all_and_they_resume(source, tmp_path):
    workdir, whole = tmp_path / "W", tmp_path / "whole"
    fields = given(source, workdir, **{"train.epochs": 2})
    stopped = processes.ended(
        processes.start("train", fields, processes=2, devices=1, stop_scoring=True)
    )
    assert [one.status for one in stopped] == [130, 130], stopped
    assert "Stopped in the validation after step" in stopped[0].errors
    for folder in (workdir, whole):
        fields = given(source, folder, **{"train.epochs": 2})
        ran = processes.run("train", fields, processes=2, devices=1)
        assert [one.status for one in ran] == [0, 0], ran
    assert (workdir / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_a_process_that_is_killed_ends_the_other(source, tmp_path):
    workdir = tmp_path / "W"
    started = processes.start(
        "train", given(source, workdir, **{"train.epochs": 9000}), processes=2, devices=1
    )
    wait_for_log(workdir, started)
    started[1].kill()
    first, _ = processes.ended(started, seconds=120)
    assert first.status != 0
    assert "unhealthy" in first.errors and "\n1\n" in first.errors  # JAX names the process


def test_a_process_that_hangs_ends_all_and_is_named(source, tmp_path):
    fields = given(source, tmp_path / "W", **{"train.epochs": 9000})
    both = processes.ended(
        processes.start("train", fields, processes=2, devices=1, hang=(1, 7)), seconds=120
    )
    assert [one.status for one in both] == [1, 1], both
    message = (
        "error: no progress for 3 s: process 1 reads slices for step 7 while others wait for it "
        "(computes step 7); all end"
    )
    assert message in both[0].errors
    assert "in hang" in both[1].errors  # where it is


@pytest.mark.long
def test_a_training_goes_on_with_other_devices(source, tmp_path):
    """Begun by two processes of four devices, ended with one.

    The second start gets its signal before its first step.
    """
    workdir, whole = tmp_path / "W", tmp_path / "whole"
    fields = {"train.epochs": 6, "train.validate_every": 6}
    for count, devices, stop in ((2, 4, 2), (2, 4, 1), (1, 1, 0)):
        given_ = given(source, workdir, **fields)
        ran = processes.run("train", given_, processes=count, devices=devices, stop=stop)
        assert [one.status for one in ran] == [130 if stop else 0] * count, ran
    (one,) = processes.run("train", given(source, whole, **fields))
    assert one.status == 0, one.errors
    expected, found = (read_metrics(folder / "metrics.csv") for folder in (whole, workdir))
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points]
        values = [value for _, value in points]
        assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-4), name


def wait_for_log(workdir: Path, started: list) -> None:
    log = workdir / "metrics.csv"
    while not log.exists() or log.read_text().count("\n") < 6:
        assert started[0].poll() is None, started[0].communicate()
        time.sleep(0.05)


def test_what_the_main_process_refuses_ends_all_and_is_printed_once(source, alone):
    (alone / ".lock").write_text(json.dumps({"host": "elsewhere", "process": 1}))
    try:
        both = processes.run("train", given(source, alone), processes=2, devices=1)
    finally:
        (alone / ".lock").unlink()
    assert [one.status for one in both] == [2, 2]
    assert "in use by process 1 on host elsewhere" in both[0].errors
    assert "error:" not in both[1].errors


def test_a_workdir_that_is_not_there_is_said_once(tmp_path):
    both = processes.run("evaluate", ["--workdir", str(tmp_path / "W")], processes=2, devices=1)
    assert [one.status for one in both] == [2, 2]
    assert ["error:" in one.errors for one in both] == [True, False]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--distributed", "off", "--processes", "2"], "--distributed off; expected the address"),
        (["--distributed", "localhost:1"], "expected auto, off, or HOST:PORT with"),
        (["--distributed", "host", "--processes", "2", "--process", "0"], "expected auto, off"),
        (
            ["--distributed", "localhost:1", "--processes", "2", "--process", "2"],
            "--process 2; expected 0 to 1",
        ),
    ],
)
def test_flags_that_do_not_go_together(source, tmp_path, flags, text):
    from launch import train
    from tests.support.small_training import run

    ended = run(train.main, [*given(source, tmp_path / "W"), *flags])
    assert ended.status == 2 and text in ended.errors
