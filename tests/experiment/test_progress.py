"""Bars of progress, and lines where there is no terminal."""

import sys
import threading
import time

import pytest

from ssa_jax.experiment import progress as module
from ssa_jax.experiment.progress import progress


def test_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(3, quiet=True) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""
    with progress(3, initial=1) as bar:
        bar.update(2)
    assert "3/3" in capsys.readouterr().err


def test_a_line_now_and_then_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress(3, initial=1) as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""  # nothing of what takes no time
    times = iter([100.0, 110.0, 131.5, 140.0, 170.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    with progress(60, initial=2, what="round 1") as bar:
        for step, text in ((3, ""), (9, "DSC 0.5"), (12, ""), (60, "")):
            bar.update(step - bar.n)
            if text:
                bar.set_postfix_str(text)
    assert bar.n == 60
    assert capsys.readouterr().err.splitlines() == [
        "round 1: 9 of 60 steps after 32 s, about 3 min left",
        "round 1: 60 of 60 steps after 70 s, DSC 0.5",
    ]
    with progress(2, quiet=True) as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_lines_before_the_first_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.05)
    before = threading.active_count()
    with progress(60, initial=2) as bar:
        time.sleep(0.5)
        monkeypatch.setattr(module, "SECONDS", 1e6)
        bar.update(1)
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "2 of 60 steps after 0 s" and {*others} <= {first, "2 of 60 steps after 1 s"}
    with progress(60):  # which fails before its first step
        pass
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
