"""Checkpoints on a full disk."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from ssa_jax.training.checkpoint import Checkpoints


def test_a_full_disk_is_found_before_anything_is_written(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    variables = {"params": {"kernel": np.ones(1_000_000, np.float32)}}  # 4 MB
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4_000_000))
    with pytest.raises(OSError, match="needs 4 MB, 4 MB are free") as raised:
        checkpoints.save_best(1, variables, {})
    assert raised.value.filename == str(tmp_path / "checkpoints" / "best")
    assert list((tmp_path / "checkpoints" / "best").iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    checkpoints.save_best(1, variables, {})
    checkpoints.close()
    assert [p.name for p in (tmp_path / "checkpoints" / "best").iterdir()] == ["1"]
