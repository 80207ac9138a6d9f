"""Checkpoints: on a full disk, damaged, and of older versions."""

import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssa_jax.training.checkpoint import HASHES, Checkpoints
from ssa_jax.training.state import init_state, weights_sha256

OPTIMIZER = optax.adam(1e-3)


def variables(seed=0):
    rng = np.random.default_rng(seed)
    kernel, bias = rng.standard_normal((3, 3, 2, 40), np.float32), np.zeros(40, np.float32)
    return {
        "params": {"conv": {"kernel": kernel, "bias": bias}},
        "batch_stats": {"mean": np.full(40, seed, np.float32)},
    }


def state_at(step, *, average=True):
    made = init_state(variables(step), OPTIMIZER, average=average)
    return jax.tree.map(np.asarray, made.replace(step=jnp.int32(step)))


@pytest.fixture
def saved(tmp_path):
    """States of the steps 4, 8 and 12, the best network at step 8."""
    checkpoints = Checkpoints(tmp_path)
    for step in (4, 8, 12):
        checkpoints.save_last(state_at(step), {"batches": {"place": step}, "best": -np.inf})
    checkpoints.save_best(8, variables(8), {"validation_dsc": 0.5})
    return tmp_path


def flip_a_byte_of_an_array(folder):
    """In the largest file, which holds the compressed arrays."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


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
    assert [p.name for p in (tmp_path / "checkpoints" / "best").iterdir()] == ["1"]


def test_the_last_two_states_and_the_best_network_are_kept(saved):
    folder = saved / "checkpoints"
    assert sorted(p.name for p in (folder / "last").iterdir()) == ["12", "8"]
    assert sorted(p.name for p in folder.iterdir()) == ["best", "last"]
    checkpoints = Checkpoints(saved)
    state, progress = checkpoints.restore_last(state_at(0))
    jax.tree.map(np.testing.assert_array_equal, state, state_at(12))
    assert (progress, checkpoints.notes) == ({"batches": {"place": 12}, "best": -np.inf}, [])


def test_a_damaged_state_is_passed_over_and_replaced(saved):
    flip_a_byte_of_an_array(saved / "checkpoints/last/12")
    checkpoints = Checkpoints(saved)
    state, progress = checkpoints.restore_last(state_at(0))
    jax.tree.map(np.testing.assert_array_equal, state, state_at(8))
    assert progress["batches"] == {"place": 8}
    (note,) = checkpoints.notes
    assert note.startswith(f"{saved}/checkpoints/last/12: the checkpoint is damaged (state/")
    assert note.endswith("; going on from checkpoint 8")
    checkpoints.save_last(state_at(10), {"batches": {"place": 10}})
    assert sorted(p.name for p in (saved / "checkpoints/last").iterdir()) == ["10", "8"]
    assert Checkpoints(saved).restore_last(state_at(0))[1]["batches"] == {"place": 10}


def test_saved_again_at_the_step_of_the_damaged_one(saved):
    flip_a_byte_of_an_array(saved / "checkpoints/last/12")
    checkpoints = Checkpoints(saved)
    checkpoints.restore_last(state_at(0))
    checkpoints.save_last(state_at(12), {})
    again = Checkpoints(saved)
    jax.tree.map(np.testing.assert_array_equal, again.restore_last(state_at(0))[0], state_at(12))
    assert again.notes == []


def test_with_every_state_damaged_the_last_is_named_and_nothing_changes(saved):
    for step in (8, 12):
        flip_a_byte_of_an_array(saved / f"checkpoints/last/{step}")
    before = sorted(saved.rglob("*"))
    with pytest.raises(ValueError, match=r"last/12: the checkpoint is damaged .*\); restore it"):
        Checkpoints(saved).restore_last(state_at(0))
    assert sorted(saved.rglob("*")) == before


@pytest.mark.parametrize("which", ["best", "last"])
def test_every_file_of_a_checkpoint_counts(saved, which):
    """A changed, shortened, missing or exchanged file is an error of one line with the way out."""
    like = variables()
    folder = saved / "checkpoints" / which / {"best": "8", "last": "12"}[which]
    way_out = {"best": "; use --which last", "last": "; restore it from a copy"}[which]
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    assert len(files) > 6
    for number, path in enumerate(files):
        content, other = path.read_bytes(), files[number - 1]
        exchanged = other.read_bytes()
        for damaged in (content[:-1], None, exchanged):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            if damaged is None and path.name == HASHES:
                continue  # read as one of an older version
            if damaged == content:
                continue
            with pytest.raises(ValueError, match=rf"{which}/\d+: the checkpoint is damaged") as e:
                Checkpoints(saved).restore_variables(which, like)
            assert way_out in str(e.value) and "\n" not in str(e.value)
        path.write_bytes(content)
    found, _ = Checkpoints(saved).restore_variables(which, like)
    assert weights_sha256(found) == weights_sha256(variables({"best": 8, "last": 12}[which]))


def test_a_checkpoint_under_another_step_is_refused(saved):
    shutil.move(saved / "checkpoints/last/8", saved / "checkpoints/last/16")
    checkpoints = Checkpoints(saved)
    assert int(checkpoints.restore_last(state_at(0))[0].step) == 12
    assert "16: the checkpoint is damaged (it was written as checkpoint 8)" in checkpoints.notes[0]


def test_one_of_an_older_version_is_read(saved):
    (saved / "checkpoints/last/12" / HASHES).unlink()
    (saved / "checkpoints/best/8" / HASHES).unlink()
    checkpoints = Checkpoints(saved)
    jax.tree.map(
        np.testing.assert_array_equal, checkpoints.restore_last(state_at(0))[0], state_at(12)
    )
    assert checkpoints.restore_variables("best", variables())[1] == 8


def test_another_network_is_not_called_damaged(saved):
    other = {name: {"x": np.zeros(3, np.float32)} for name in ("params", "batch_stats")}
    wider = variables() | {"batch_stats": {"mean": np.zeros(41, np.float32)}}
    for like in (other, wider):
        for which in ("best", "last"):
            with pytest.raises(ValueError, match=r"\d: the checkpoint does not fit the network"):
                Checkpoints(saved).restore_variables(which, like)
    with pytest.raises(ValueError, match="last/12: the checkpoint does not fit the network"):
        Checkpoints(saved).restore_last(init_state(wider, OPTIMIZER, average=True))


def test_a_damaged_best_network_is_saved_again_by_a_training_that_repeats_its_step(saved):
    folder = saved / "checkpoints/best/8"
    flip_a_byte_of_an_array(folder)
    Checkpoints(saved).save_best(8, variables(8), {})
    assert Checkpoints(saved).restore_variables("best", variables())[1] == 8
    before = (folder / HASHES).stat().st_mtime_ns
    Checkpoints(saved).save_best(8, variables(8), {})  # there already
    assert (folder / HASHES).stat().st_mtime_ns == before


def test_files_that_the_system_adds_do_no_harm(saved):
    (saved / "checkpoints/last/12/.DS_Store").write_bytes(b"x")
    (saved / "checkpoints/last/notes").write_bytes(b"x")
    assert Checkpoints(saved).restore_variables("last", variables())[1] == 12
