"""The cache of compiled programs: where it is, who writes it, and that it can be turned off."""

import os
import subprocess
import sys
from pathlib import Path

import jax

from ssa_jax.experiment import compiled
from tests.support import ROOT

COMMAND = """
import sys
import jax
from launch import cli

def command(arguments):
    cli.make_parser("command", None).parse_args(arguments)
    print(jax.jit(lambda x: x + 1)(1))

cli.run(command, sys.argv[1:])
"""


def run(cache: Path, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command that compiles a program, with a cache folder of its own."""
    inherited = {
        name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name
    }
    own = {"XDG_CACHE_HOME": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *flags],
        cwd=ROOT,
        env=inherited | own | variables,
        capture_output=True,
        text=True,
        check=True,
    )


def kept(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*-cache"))


def used(folder: Path) -> dict[str, bytes]:
    """When each program was read last, which JAX writes down to drop the oldest."""
    return {path.name: path.read_bytes() for path in folder.rglob("*-atime")}


def test_a_command_keeps_what_it_compiles_and_the_next_one_finds_it(tmp_path):
    assert run(tmp_path).stdout == "2\n"
    first = kept(tmp_path)
    assert first and {path.parent.parent for path in first} == {tmp_path / "ssa_jax"}
    assert {path.parent.stat().st_mode & 0o777 for path in first} == {0o700}
    before = used(tmp_path)
    assert run(tmp_path).stdout == "2\n"
    assert kept(tmp_path) == first  # none was compiled anew
    assert before and all(used(tmp_path)[name] != time for name, time in before.items())


def test_turned_off_set_elsewhere_or_not_to_be_written(tmp_path):
    assert run(tmp_path / "off", "--no-cache").stdout == "2\n"
    assert not kept(tmp_path / "off")
    own = str(tmp_path / "own")
    assert run(tmp_path / "elsewhere", JAX_COMPILATION_CACHE_DIR=own).stdout == "2\n"
    assert kept(tmp_path / "own") and not (tmp_path / "elsewhere").exists()
    (tmp_path / "file").touch()
    ended = run(tmp_path / "file")
    assert (ended.stdout, ended.stderr) == ("2\n", "")


def test_a_folder_of_its_own_for_each_kind_of_processor(monkeypatch):
    folders = set()
    for kind in ("avx2", "avx512"):
        monkeypatch.setattr(compiled, "_processor", lambda kind=kind: kind)
        folders.add(compiled.cache_folder())
    assert len(folders) == 2
    assert jax.config.values["jax_compilation_cache_dir"] == os.environ["JAX_COMPILATION_CACHE_DIR"]
