"""Whole files: complete or absent, named when the disk refuses, and no leftovers of the killed."""

import errno
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from input_pipeline import files
from input_pipeline.files import (
    atomic_directory,
    atomic_file,
    require_empty,
    require_own,
    safe_name,
    temporary_name,
    write_bytes,
    write_json,
    write_text,
)


@pytest.fixture
def ended() -> int:
    """The number of a process of this host that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def left_by(process: int, path: Path, host: str = "") -> Path:
    """The temporary name for `path` of another process."""
    own = temporary_name(path)
    host = host or socket.gethostname()
    before, random, after = own.name.rpartition("-")
    name = before.replace(f"{socket.gethostname()}-{os.getpid()}", f"{host}-{process}")
    return own.with_name(name + random + after)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match="No space left") as error, atomic_file(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.filename == str(path)


def test_an_error_without_a_number_keeps_its_words(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match=r"a\.txt: the encoder failed"), atomic_file(path):
        raise OSError("the encoder failed")


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(OSError, match="run"):
        write_json(tmp_path / "run" / "a.json", {})


def test_json_round_trip_and_no_nan(tmp_path: Path) -> None:
    value = {"dsc": {"mean": 0.1, "low": None}, "name": "lésion"}
    write_json(tmp_path / "deep" / "a.json", value)
    assert json.loads((tmp_path / "deep" / "a.json").read_text(encoding="utf-8")) == value
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", math.nan)
    assert not (tmp_path / "b.json").exists()


def test_text_and_bytes_round_trip(tmp_path: Path) -> None:
    text, data = "lésion\n±1 µm\n", bytes(range(256))
    write_text(tmp_path / "deep" / "a.txt", text)
    write_bytes(tmp_path / "deeper" / "b.bin", data)
    assert (tmp_path / "deep" / "a.txt").read_bytes() == text.encode()
    assert (tmp_path / "deeper" / "b.bin").read_bytes() == data
    write_text(tmp_path / "deep" / "a.txt", "")
    assert (tmp_path / "deep" / "a.txt").read_bytes() == b""
    names = sorted(path.name for path in tmp_path.rglob("*"))
    assert names == ["a.txt", "b.bin", "deep", "deeper"]


@pytest.mark.parametrize("name", ["a.png", "scan.nii.gz", "folder"])
def test_two_temporary_names_for_one_path_differ(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    first, second = temporary_name(path), temporary_name(path)
    assert first != second
    for temporary in (first, second):
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.suffix == (path.suffix or ".unfinished")


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_stays(
    tmp_path: Path, ended: int
) -> None:
    folder = tmp_path / "out"
    killed, alive, elsewhere = (
        left_by(process, folder / "results", host)
        for process, host in ((ended, ""), (os.getpid(), ""), (ended, "another-host"))
    )
    # A host whose name begins with ours, and whose rest could be taken for a process.
    longer = left_by(os.getpid(), folder / "results", f"{socket.gethostname()}-{ended}")
    for left in (killed, alive, elsewhere, longer):
        left.mkdir(parents=True)
        (left / "half").write_text("")
    with atomic_directory(folder) as temporary:
        assert temporary.parent == folder
        (temporary / "new").write_text("whole")
    names = {"new", alive.name, elsewhere.name, longer.name}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "new").read_text() == "whole"


def test_a_directory_that_fails_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        with atomic_directory(folder, owned=("a", "b")) as temporary:
            (temporary / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").write_text("old")
    with pytest.raises(RuntimeError):
        fail(tmp_path / "old")
    assert [p.name for p in (tmp_path / "old").iterdir()] == ["a"]
    assert (tmp_path / "old" / "a").read_text() == "old"


def test_a_directory_replaces_what_it_owns_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("old")
    with atomic_directory(tmp_path, owned=("a", "b")) as temporary:
        (temporary / "a").write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "c": "old"}


def test_only_an_empty_folder_may_be_written(tmp_path: Path, ended: int) -> None:
    require_empty(tmp_path / "absent", "--out")
    require_empty(tmp_path, "--out")
    left_by(ended, tmp_path / "results").mkdir()
    require_empty(tmp_path, "--out")
    (tmp_path / "mask.png").write_bytes(b"")
    with pytest.raises(FileExistsError, match=r"is not empty.*--out") as error:
        require_empty(tmp_path, "--out")
    assert str(error.value).startswith(f"{tmp_path}: ")
    with pytest.raises(NotADirectoryError, match=r"mask\.png"):
        require_empty(tmp_path / "mask.png", "--out")
    assert not files.is_filled(tmp_path / "absent")


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/etc/x", "..", ".", "", ".hidden", "a/b", "a\\b", "..\\x", "C:x", "x\0y", "x\n"),
        *("\ud800", "é" * 200),
    ],
)
def test_no_id_leaves_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    write_bytes(folder / f"{safe_name(name)}.png", b"x")
    (written,) = folder.iterdir()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [written]
    assert not written.name.startswith(".")
    assert safe_name(safe_name(name)) == safe_name(name)


def test_names_that_are_safe_stay_and_others_stay_apart() -> None:
    for name in ("case_01", "Müller 1", "p1.2", "M\udcfcller", "-x"):
        assert safe_name(name) == name
    others = ["a/b", "a\\b", "a:b", "a_b", "é" * 200, "é" * 201]
    assert len({safe_name(name) for name in others}) == len(others)


def test_only_files_of_earlier_results_are_replaced(tmp_path):
    names = ("metrics.json", "cases.csv")
    require_own(tmp_path / "absent", names, what="evaluation")
    (tmp_path / "other.txt").write_text("")
    require_own(tmp_path, names, what="evaluation")
    (tmp_path / "cases.csv").write_text("")
    with pytest.raises(
        FileExistsError, match=r"cases\.csv: is in the way, and no evaluation wrote"
    ):
        require_own(tmp_path, names, what="evaluation")
    (tmp_path / "metrics.json").write_text("")
    require_own(tmp_path, names, what="evaluation")
