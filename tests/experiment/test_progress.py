"""Bars of progress."""

import sys

import pytest

from ssa_jax.experiment.progress import progress


def test_progress_is_silent_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress(3, initial=1) as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(3, quiet=True) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""
    with progress(3, initial=1) as bar:
        bar.update(2)
    assert "3/3" in capsys.readouterr().err
