"""The package: its declarations agree, its import is light, its commands and API are there."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ssa_jax
from launch import cli, configuration
from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def listed(name):
    """Requirements of a file, without comments."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    lines = [line.partition("#")[0].strip() for line in lines]
    return [line for line in lines if line and not line.startswith("-r ")]


def test_requirements_files_and_package_say_the_same():
    assert listed("requirements.txt") == PROJECT["dependencies"] + EXTRAS["dicom"]
    assert EXTRAS["dev"][0] == "ssa_jax[dicom,export]"
    assert listed("requirements-dev.txt") == EXTRAS["export"] + EXTRAS["dev"][1:]


def test_the_import_is_light_and_starts_no_backend():
    program = (
        "import sys, ssa_jax; dir(ssa_jax)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} "
        "& {'jax', 'flax', 'numpy', 'orbax', 'tensorflow_datasets', 'nibabel'}))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ssa_jax.__all__)
def test_every_public_name_is_there(name):
    assert getattr(ssa_jax, name).__doc__
    assert name in dir(ssa_jax)


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'ssa_jax' has no attribute 'segment'"):
        _ = ssa_jax.segment


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ssa-jax", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert f"usage: ssa-jax {name}" in capsys.readouterr().out


def test_every_file_of_a_command_is_a_command():
    files = {path.stem for path in (ROOT / "launch").glob("*.py")}
    shared = {"__init__", "cli", "configuration"}
    assert (files - shared) | {"benchmark"} == set(cli.COMMANDS)


def test_the_list_of_commands_and_unknown_ones(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ssa-jax", "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(re.search(rf"^  {name} +\S", printed, re.M) for name in cli.COMMANDS)
    monkeypatch.setattr(sys, "argv", ["ssa-jax", "segment"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "invalid choice: 'segment'" in capsys.readouterr().err


def test_our_configurations_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_name = configuration.read_settings("covid_semiseg:cpu", [])
    assert by_name == configuration.read_settings("configs/covid_semiseg.py:cpu", [])
    assert by_name == configuration.read_settings(str(ROOT / "configs/covid_semiseg.py:cpu"), [])
    assert by_name.data.data_dir == str(tmp_path / "tfds_data")
    with pytest.raises(FileNotFoundError, match=r"absent: no such configuration file; ours are "):
        configuration.read_settings("absent", [])
    with pytest.raises(FileNotFoundError, match=r"elsewhere/covid_semiseg\.py: no such"):
        configuration.read_settings("elsewhere/covid_semiseg.py", [])


def test_object_stores_are_refused():
    for field in ("data.source_dir", "data.data_dir", "train.init_from"):
        with pytest.raises(ValueError, match=f"--config.{field}: gs://b/r: object stores are not"):
            configuration.read_settings("ct_phantom", [f"--config.{field}=gs://b/r"])
    parser = cli.make_parser("train", None)
    parser.add_argument("--workdir", type=cli.local_path)
    assert parser.parse_args(["--workdir", "W/a"]).workdir == Path("W/a")
    with pytest.raises(SystemExit):
        parser.parse_args(["--workdir", "gs://b/r"])


def test_an_old_name_of_a_field_is_a_flag_still():
    settings = configuration.read_settings("self_train_phantom", ["--config.self_train.move=7"])
    assert settings.self_train.slices_per_round == 7
