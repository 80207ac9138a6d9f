"""Calls in worker processes: their results, and how an error or an interrupt ends them."""

import signal
import time
from functools import partial
from pathlib import Path

import pytest

from ssa_jax.experiment.side_by_side import made

pytestmark = pytest.mark.slow


def nothing() -> None:
    pass


def wait_for_sigterm(folder: Path) -> None:
    """Wait until SIGTERM, and write a file then, as a training saves its state."""
    stopped: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    (folder / "waits").touch()
    while not stopped:
        time.sleep(0.01)
    time.sleep(1)  # of several SIGTERMs the first is heard
    (folder / "saved").touch()
    signal.signal(signal.SIGTERM, before)


def fail_once_another_waits(folder: Path) -> None:
    while not (folder / "waits").exists():
        time.sleep(0.01)
    raise ValueError("failed")


def test_one_job_makes_them_in_turns_in_this_process():
    seen: list[int] = []
    calls = {number: partial(seen.append, number) for number in range(3)}
    for key, result in made(calls, 1, prepare=nothing):
        assert (seen, result) == (list(range(key + 1)), None)


def test_results_by_key():
    calls = {name: partial(len, name) for name in ("a", "bb", "ccc")}
    assert dict(made(calls, 2, prepare=nothing)) == {"a": 1, "bb": 2, "ccc": 3}


def test_an_error_ends_the_others_cleanly(tmp_path):
    calls = {
        "waits": partial(wait_for_sigterm, tmp_path),
        "fails": partial(fail_once_another_waits, tmp_path),
    }
    with pytest.raises(ValueError, match="failed"):
        list(made(calls, 2, prepare=nothing))
    assert (tmp_path / "saved").exists()


def test_who_stops_listening_ends_the_others_cleanly(tmp_path):
    calls = {"waits": partial(wait_for_sigterm, tmp_path), "done": partial(len, "done")}
    results = made(calls, 2, prepare=nothing)
    assert next(results) == ("done", 4)
    while not (tmp_path / "waits").exists():
        time.sleep(0.01)
    results.close()  # as Ctrl-C does
    assert (tmp_path / "saved").exists()
