"""One process at a time in a workdir."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from input_pipeline.files import LOCK
from ssa_jax.experiment import lock
from ssa_jax.experiment.lock import SILENT_SECONDS, in_use
from tests.support import ROOT

HOLDING = (
    "import sys, time; from pathlib import Path; from ssa_jax.experiment.lock import in_use\n"
    "with in_use(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


def holding(workdir):
    """A process that holds the lock."""
    command = [sys.executable, "-c", HOLDING, str(workdir)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def write_lock(workdir, **facts):
    workdir.mkdir(parents=True, exist_ok=True)
    ours = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "processes": lock._process_space(),
        "since": "2026-01-02 03:04:05",
    }
    (workdir / LOCK).write_text(json.dumps(ours | facts))
    return workdir / LOCK


def test_a_folder_is_free_again_and_one_made_for_the_lock_is_gone(tmp_path):
    with in_use(tmp_path / "a" / "b"):
        assert (tmp_path / "a/b" / LOCK).exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(KeyError), in_use(tmp_path / "a"):
        raise KeyError
    assert list((tmp_path / "a").iterdir()) == []
    with in_use(tmp_path / "new"):
        (tmp_path / "new" / "result").touch()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["result"]


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path, capsys):
    process = holding(tmp_path)
    before = (tmp_path / LOCK).read_bytes()
    refusal = (
        rf"{tmp_path}: in use by process {process.pid} on host {re.escape(socket.gethostname())} "
        rf"since 20\d\d-.*; wait for it, or remove {tmp_path / LOCK} if that process is gone"
    )
    with pytest.raises(OSError, match=refusal), in_use(tmp_path):
        pass
    assert (tmp_path / LOCK).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with in_use(tmp_path):  # its host knows that it has ended
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert "left by a process that has ended, taken over" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("elsewhere", [{"host": "other"}, {"processes": "pid:[1]"}])
def test_the_lock_of_another_host_or_container_is_taken_over_after_ten_minutes(tmp_path, elsewhere):
    path = write_lock(tmp_path, process=2**22 + 1, **elsewhere)
    almost = time.time() - SILENT_SECONDS + 60
    os.utime(path, (almost, almost))
    with pytest.raises(OSError, match="in use by process 4194305 on host"), in_use(tmp_path):
        pass
    os.utime(path, (almost - 120, almost - 120))
    with in_use(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_it_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with in_use(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        for _ in range(500):
            if (tmp_path / LOCK).stat().st_mtime > 0:
                break
            time.sleep(0.01)
        assert abs((tmp_path / LOCK).stat().st_mtime - time.time()) < 60


@pytest.mark.parametrize("text", ["", "{", "[]", "nothing"])
def test_a_damaged_lock_holds_until_it_is_removed_or_old(tmp_path, text):
    path = tmp_path / LOCK
    path.write_text(text)
    with (
        pytest.raises(OSError, match=rf"by process \? on host \?.*remove {path}"),
        in_use(tmp_path),
    ):
        pass
    os.utime(path, (0, 0))
    with in_use(tmp_path):
        pass


def test_the_lock_of_a_faster_process_is_given_back(tmp_path, monkeypatch):
    """Another process takes the dead lock over between our reading and our renaming it."""
    path = write_lock(tmp_path, process=2**22 + 1)
    faster = json.dumps(json.loads(path.read_text()) | {"process": os.getpid(), "key": "b"})
    replace = os.replace

    def late(source, target):
        if source == path:
            path.write_text(faster)
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    with pytest.raises(OSError, match=f"in use by process {os.getpid()} on"), in_use(tmp_path):
        pass
    assert path.read_text() == faster
    assert [p.name for p in tmp_path.iterdir()] == [LOCK]


def test_parts_of_a_folder_exclude_what_they_overlap(tmp_path):
    """Shards of one division run together; the whole folder and other divisions are apart."""

    def shard(part, beside):
        return in_use(tmp_path, part, beside=beside)

    with shard(".1-of-3", ".*-of-3"):
        with shard(".2-of-3", ".*-of-3"):
            assert len(list(tmp_path.iterdir())) == 2
        for part, beside in (
            (".1-of-3", ".*-of-3"),  # the same
            ("", ""),  # all of it
            (".2-of-3", ""),  # one that is to start anew
            (".2-of-2", ".*-of-2"),  # another division
            (".2-of-13", ".*-of-13"),
        ):
            refusal = rf"{tmp_path}: in use .*remove .*1-of-3 if that"
            with pytest.raises(OSError, match=refusal), shard(part, beside):
                pass
            assert [path.name for path in tmp_path.iterdir()] == [f"{LOCK}.1-of-3"]
    with in_use(tmp_path), pytest.raises(OSError, match="in use"), shard(".1-of-3", ".*-of-3"):
        pass
    assert list(tmp_path.iterdir()) == []
    write_lock(tmp_path, process=2**22 + 1)  # has ended
    with shard(".1-of-3", ".*-of-3"):
        assert [path.name for path in tmp_path.iterdir()] == [f"{LOCK}.1-of-3"]


def test_a_lock_that_another_process_holds_by_now_is_not_removed(tmp_path):
    with in_use(tmp_path):
        write_lock(tmp_path, host="other")
    assert json.loads((tmp_path / LOCK).read_text())["host"] == "other"
