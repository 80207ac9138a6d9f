"""What a training tells of its speed, and where it does not: metrics.csv is the same in any run."""

import multiprocessing

import pytest

from launch import train
from ssa_jax.training.metric_log import read_metrics
from tests.support.small_training import arguments, run, stand_in, write_source

pytestmark = pytest.mark.slow


def test_speed_is_printed_and_drawn_and_a_profile_written(tmp_path):
    workdir = tmp_path / "W"
    given = arguments(write_source(tmp_path / "source"), workdir)
    given.remove("--quiet")
    with stand_in():
        ended = run(train.main, [*given, "--profile", "2"])
    assert ended.status == 0, ended.errors
    assert f"{workdir}: profile in profile/" in ended.errors
    first, *_, last = (line for line in ended.errors.splitlines() if line.startswith(str(workdir)))
    assert "6 steps; compiling the step" in first
    assert " images/s in batches of 8, " in last and " TFLOP/s on 8 x cpu; " in last
    (events,) = (workdir / "tensorboard").iterdir()
    for name in ("images_per_second", "share_waiting", "memory_gb"):
        assert events.read_bytes().count(f"speed/{name}".encode()) == 3  # an epoch each
    assert not any("speed" in name for name in read_metrics(workdir / "metrics.csv"))
    assert list((workdir / "profile").rglob("*.xplane.pb"))


def test_worker_processes_train_to_the_same_bits(tmp_path):
    source = write_source(tmp_path / "source")
    with stand_in():
        for name, workers in (("threads", 0), ("workers", 2)):
            ended = run(train.main, arguments(source, tmp_path / name, **{"data.workers": workers}))
            assert ended.status == 0, ended.errors
    assert not multiprocessing.active_children()
    logs = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("threads", "workers")]
    assert logs[0] == logs[1] and logs[0].count(b"train/loss") == 3
