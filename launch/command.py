"""How a command starts and ends: its configuration, and what it says of errors.

What a user can mend is one line on standard error and exit status 2.
"""

import argparse
import ast
import ctypes
import os
import platform
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import absl.logging
import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from ssa_jax.train import Interrupted, TrainingDiverged

USER_ERROR = 2
INTERRUPTED = 130
M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD = -8, -4, -1  # of glibc's malloc.h
DEBUG_VARIABLE = "SSA_JAX_DEBUG"  # set to anything: errors come with their traceback


def run(main: Callable[[list[str]], None], arguments: list[str]) -> NoReturn:
    """Run a command and exit; SIGTERM interrupts it as Ctrl-C does, freed memory is kept."""
    keep_memory()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        main(arguments)
    except (ValueError, OSError, TrainingDiverged) as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        print(f"error: {' '.join(_text(error).split())}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # JAX, interrupted while it compiles, crashes at Python's shutdown
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(0)


def keep_memory() -> None:
    """Have glibc keep freed memory for the next step instead of handing it back to the kernel.

    XLA on the CPU allocates a step's buffers anew at every step, and touching fresh pages takes a
    quarter of it (docs/performance.md). glibc keeps blocks of more than 64 MB in the main thread's
    heap alone, so that computations are also dispatched there (with another libc, that is all this
    does). To be called before the first computation: all threads then share four heaps, enough not
    to wait for each other.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for parameter, value in ((M_ARENA_MAX, 4), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
        libc.mallopt(parameter, value)


def positive_int(text: str) -> int:
    """A flag's whole number of 1 or more; a message of argparse's where it is not one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number, 1 or more")
    return int(text)


def parse_with_config(
    parser: argparse.ArgumentParser, arguments: list[str]
) -> tuple[argparse.Namespace, ConfigDict]:
    """Read a command line that also holds `--config FILE[:PRESET]` and `--config.FIELD=VALUE`.

    Args:
      parser: of the command's own flags; `--config` is added here. It must not allow abbreviations.
      arguments: the command line without the program's name.

    Returns:
      The command's own flags and the configuration, locked, with `data.data_dir` made absolute so
      that a workdir that keeps it can be used from another folder.

    Raises:
      ValueError: a field that does not exist or has the wrong type, or a bad configuration file.
      FileNotFoundError: no such configuration file.
      SystemExit: a flag that does not exist or is missing (argparse's own message, status 2).
    """
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:PRESET]",
        help="configuration file, for instance configs/covid_semiseg.py:cpu; "
        "--config.FIELD=VALUE changes a field, for instance --config.train.epochs=20 "
        "(configs/base.py names them all)",
    )
    options, rest = parser.parse_known_args(arguments)
    for argument in rest:
        if not argument.startswith("--config.") or "=" not in argument:
            parser.error(f"{argument!r} is no flag; fields change by --config.FIELD=VALUE")
    config = _read_config(options.config, rest)
    with config.unlocked():
        config.data.data_dir = str(Path(config.data.data_dir).expanduser().absolute())
    return options, config


def _read_config(file: str, overrides: list[str]) -> ConfigDict:
    """The configuration in a file, with `--config.FIELD=VALUE` applied to it."""
    path = Path(file.partition(":")[0])
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such configuration file; configs/ holds ours")
    arguments = ["--config", file, *overrides]
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
    return holder.value


def _text(error: Exception) -> str:
    """An error's message; an OSError's own says 'what: file'."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
