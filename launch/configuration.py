"""The settings of a command: `--config FILE[:PRESET]` with `--config.FIELD=VALUE`."""

import argparse
import ast
import runpy
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

import configs
from launch.cli import local_path, start_processes
from ssa_jax.experiment.settings import RENAMED, Settings
from ssa_jax.training import distributed

PATH_FIELDS = ("data.source_dir", "data.data_dir", "train.init_from")


def parse_with_settings(
    parser: argparse.ArgumentParser, arguments: list[str]
) -> tuple[argparse.Namespace, Settings]:
    """Read a command line that also holds `--config FILE[:PRESET]` and `--config.FIELD=VALUE`.

    Args:
        parser: of the command's own flags; `--config` is added here.
        arguments: the command line without the program's name.

    Returns:
        The command's own flags and the settings, with `data.data_dir` made absolute so that a
        workdir that keeps it can be used from another folder.

    Raises:
        ValueError: a field that does not exist or has the wrong type, or a bad configuration file.
        FileNotFoundError: no such configuration file.
        SystemExit: a flag that does not exist or is missing (argparse's own message, status 2).
    """
    options, rest = parse_with_config(parser, arguments)
    return options, read_once(lambda: read_settings(options.config, rest))


def read_once(read: Callable[[], Settings]) -> Settings:
    """Read settings, in the main process for all where several are connected.

    Args:
        read: reads them.

    Raises:
        ValueError, OSError: as `read`; in the other processes `distributed.DecidedElsewhere`.
    """
    if not distributed.connected():
        return read()
    return Settings.from_dict(distributed.decided(lambda: read().to_dict()))


def parse_with_config(
    parser: argparse.ArgumentParser, arguments: list[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Read a command line that also holds `--config FILE[:PRESET]` and `--config.FIELD=VALUE`.

    Args:
        parser: of the command's own flags; `--config` is added here. With `add_process_flags` the
            processes are connected.
        arguments: the command line without the program's name.

    Returns:
        The command's own flags with `config`, and the fields that change, for `read_settings`.

    Raises:
        SystemExit: a flag that does not exist or is missing (argparse's own message, status 2).
    """
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:PRESET]",
        help="configuration file, for instance configs/covid_semiseg.py:cpu (ours also by name, "
        "covid_semiseg:cpu); --config.FIELD=VALUE changes a field, for instance "
        "--config.train.epochs=20 (configs/base.py names them all)",
    )
    options, rest = parser.parse_known_args(arguments)
    for argument in rest:
        if not argument.startswith("--config.") or "=" not in argument:
            parser.error(f"{argument!r} is no flag; fields change by --config.FIELD=VALUE")
    if "distributed" in options:
        start_processes(options)
    return options, rest


def read_settings(file: str, overrides: list[str]) -> Settings:
    """Read a configuration file, with `--config.FIELD=VALUE` applied to it.

    Args:
        file: path, or name of one of ours, perhaps with `:PRESET`.
        overrides: flags.

    Raises:
        ValueError, FileNotFoundError: as `parse_with_settings`.
    """
    for old, new in RENAMED.items():
        overrides = [text.replace(f"--config.{old}=", f"--config.{new}=") for text in overrides]
    arguments = ["--config", _find_config(file), *overrides]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", lock_config=True, flag_values=values, sys_argv=arguments
    )
    try:
        values(["", *arguments])
    except flags.IllegalFlagValueError as error:  # of get_config it quotes the whole traceback
        reason = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
        raise ValueError(reason) from error
    except (KeyError, AttributeError) as error:
        reason = str(error.args[0])
        if reason[:1] == reason[-1:] and reason[:1] in ("'", '"'):  # a message within a message
            reason = ast.literal_eval(reason)
        raise ValueError(
            f"--config: no such field ({reason}); configs/base.py names them all"
        ) from error
    except (flags.Error, TypeError) as error:
        raise ValueError(f"--config: {error}") from error
    settings = Settings.from_config(holder.value)
    for name in PATH_FIELDS:
        try:
            local_path(attrgetter(name)(settings))
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--config.{name}: {error}") from error
    folder = Path(settings.data.data_dir).expanduser().absolute()
    return settings.replace({"data.data_dir": str(folder)})


def variants_of(file: str) -> dict[str, dict[str, Any]]:
    """Read the variants that a configuration file names in its function `get_variants`.

    Args:
        file: path, or name of one of ours, perhaps with `:PRESET`, which the function is given.

    Returns:
        The changed fields of each variant, by its name; empty if there is no such function.

    Raises:
        FileNotFoundError: no such configuration file.
    """
    path, _, preset = _find_config(file).partition(":")
    function = runpy.run_path(path).get("get_variants")
    if function is None:
        return {}
    variants: dict[str, dict[str, Any]] = function(preset) if preset else function()
    return variants


def _find_config(file: str) -> str:
    """Return a configuration's path with its preset; ours are found from any folder."""
    name, colon, preset = file.partition(":")
    path = Path(name)
    if not path.is_file():
        ours = Path(configs.__file__).parent
        path = ours / Path(name).with_suffix(".py").name
        if Path(name).parent.name not in ("", "configs") or not path.is_file():
            known = ", ".join(sorted(p.stem for p in ours.glob("[!_]*.py")))
            raise FileNotFoundError(f"{name}: no such configuration file; ours are {known}")
    return f"{path}{colon}{preset}"
