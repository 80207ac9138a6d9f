"""How a command starts and ends: the program `ssa-jax`, shared flags, and what is said of errors.

What a user can mend is one line on standard error and exit status 2; where some of many inputs
failed, the others are done and the status is 3.
"""

import argparse
import ctypes
import importlib
import io
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

PROGRAM = "ssa-jax"
COMMANDS = {  # by name: module, and what it does
    "demo": ("launch.demo", "from nothing to a trained network on embedded phantoms"),
    "train": ("launch.train", "train a network"),
    "evaluate": ("launch.evaluate", "score a trained network on a split"),
    "predict": ("launch.predict", "segment scans (NIfTI, DICOM) or pictures"),
    "export": ("launch.export", "a trained network as ONNX or StableHLO, for other programs"),
    "score": ("launch.score", "score label maps of any program"),
    "lung_masks": ("launch.lung_masks", "find the lungs in scans"),
    "prepare": ("launch.prepare", "build a data set from its published files or your own"),
    "sweep": ("launch.sweep", "train and compare variants of a configuration"),
    "compare": ("launch.compare", "compare evaluated networks in the same cases"),
    "cross_validate": ("launch.cross_validate", "train and score a network for each fold"),
    "self_train": ("launch.self_train", "rounds of pseudo-labels on unlabelled slices"),
    "ablate_self_train": ("launch.ablate_self_train", "the parts of self_train compared"),
    "import_torch": ("launch.import_torch", "start from PyTorch weights"),
    "compile": ("launch.compile", "what a training would need and take on TPUs and GPUs"),
    "benchmark": ("launch.benchmark.__main__", "measure speed"),
}
USER_ERROR = 2
SOME_FAILED = 3  # of many inputs, the others are done; or faults that a command was to look for
INTERRUPTED = 130
M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD = -8, -4, -1  # of glibc's malloc.h
DEBUG_VARIABLE = "SSA_JAX_DEBUG"  # set to anything: errors come with their traceback


def main() -> NoReturn:
    """Run `ssa-jax COMMAND ...`: the command's module with the rest of the command line."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        PROGRAM,
        description="SSA-Net in JAX: segments COVID-19 lesions in chest CT. Not a medical device.",
        epilog=f"commands:\n{listed}\n\n`{PROGRAM} COMMAND --help` explains each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND")
    chosen = parser.parse_args(sys.argv[1:2])
    module = importlib.import_module(COMMANDS[chosen.command][0])
    run(module.main, sys.argv[2:])


def run(command: Callable[[list[str]], None], arguments: list[str]) -> NoReturn:
    """Run a command and exit; SIGTERM interrupts it as Ctrl-C does, freed memory is kept.

    Characters of a file's name that the terminal cannot show are printed as escapes.

    Args:
        command: the `main` of its module.
        arguments: the command line without the program's name.
    """
    import absl.logging

    from ssa_jax.experiment.batch import InputsFailed
    from ssa_jax.training import distributed
    from ssa_jax.training.stopping import Interrupted

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    prepare_jax()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        command(arguments)
    except InputsFailed as error:
        print(f"error: {_text(error)}", file=sys.stderr)
        sys.exit(SOME_FAILED)
    except Interrupted as error:
        if distributed.is_main_process():
            print(error, file=sys.stderr)
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # JAX, interrupted while it compiles, crashes at Python's shutdown
    except Exception as error:
        _fail(error)
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(0)


def _fail(error: Exception) -> NoReturn:
    """Say what went wrong and exit: a line if the user can mend it, else the traceback.

    One of several processes exits without waiting for the others, which may wait for it. Where one
    of them has died, JAX ends this one while it waits, with a message that names the dead.
    """
    from ssa_jax.training import distributed
    from ssa_jax.training.loop import TrainingDiverged

    connected = distributed.connected()
    of_user = isinstance(error, (ValueError, OSError, TrainingDiverged))
    if not (of_user or connected):
        raise error
    if os.environ.get(DEBUG_VARIABLE) or not of_user:
        traceback.print_exception(error)
    elif not isinstance(error, distributed.DecidedElsewhere):
        print(f"error: {' '.join(_text(error).split())}", file=sys.stderr)
    if connected and (not of_user or distributed.of_runtime(error)):
        distributed.wait_for_the_dead()
    status = USER_ERROR if of_user else 1
    if not connected:
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def prepare_jax() -> None:
    """Prepare a process that computes; to be called before its first computation."""
    from absl import flags

    from ssa_jax.experiment.compiled import keep_compiled

    flags.FLAGS.mark_as_parsed()  # grain's own, which it asks for when it starts workers
    tune_cpu_allocator()
    keep_compiled()


def tune_cpu_allocator() -> None:
    """Have glibc keep freed memory for the next step instead of returning it to the kernel.

    XLA on the CPU allocates a step's buffers anew at every step, and touching fresh pages takes a
    quarter of it (docs/performance.md). glibc keeps blocks of more than 64 MB in the main thread's
    heap alone, so that computations are also dispatched there (with another libc, that is all this
    does). To be called before the first computation: all threads then share four heaps, enough not
    to wait for each other.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for parameter, value in ((M_ARENA_MAX, 4), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
        libc.mallopt(parameter, value)


def make_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Make the parser of a command.

    Args:
        name: of the command.
        description: its module's docstring, printed as it stands.
    """
    installed = Path(sys.argv[0]).name == PROGRAM
    parser = argparse.ArgumentParser(
        f"{PROGRAM} {name}" if installed else f"launch.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--no-cache",
        action=_CompileAnew,
        nargs=0,
        default=argparse.SUPPRESS,
        help="compile anew, and keep nothing in ~/.cache/ssa_jax",
    )
    return parser


class _CompileAnew(argparse.Action):
    """A flag that turns the cache of compiled programs off as soon as it is read."""

    def __call__(self, *_: Any) -> None:
        from ssa_jax.experiment.compiled import compile_anew

        compile_anew()


def local_path(text: str) -> Path:
    """Read a path; that of an object store is refused, which would become a folder named 'gs:'.

    Raises:
        ArgumentTypeError: it is none of a disk; argparse prints the message.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text}: object stores are not read or written; mount it, or name a path of a disk"
        )
    return Path(text)


def positive_int(text: str) -> int:
    """Read a flag's whole number of 1 or more.

    Raises:
        ArgumentTypeError: it is none; argparse prints the message.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number, 1 or more")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    """Read the flag --shard I/N.

    Raises:
        ArgumentTypeError: it is none; argparse prints the message.
    """
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r}; expected I/N with I from 1 to N, such as 2/8")
    return int(part), int(parts)


def add_workdirs_flag(parser: argparse.ArgumentParser) -> None:
    """Add --workdir for one trained network or several.

    Args:
        parser: to add it to.
    """
    parser.add_argument(
        "--workdir",
        dest="workdirs",
        action="append",
        type=local_path,
        required=True,
        metavar="WORKDIR",
        help="folder of a trained network, or of cross_validate for the networks of its folds; may "
        "be given several times: the mean of the networks' probabilities counts",
    )


def add_dtype_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the type in which a trained network computes.

    Args:
        parser: of the command.
    """
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="type of the computation [as it was trained]; bfloat16 is for GPUs and TPUs",
    )


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of several processes that do one run together.

    Args:
        parser: of the command.
    """
    parser.add_argument(
        "--distributed",
        default="auto",
        metavar="auto|off|HOST:PORT",
        help="whether processes on several hosts do this together: as JAX finds out on TPU pods, "
        "Kubernetes, Slurm and under Open MPI, not, or the address of process 0 [auto]",
    )
    parser.add_argument("--processes", type=positive_int, help="their number, with HOST:PORT")
    parser.add_argument("--process", type=int, help="number of this one, from 0, with HOST:PORT")


def start_processes(options: argparse.Namespace) -> None:
    """Connect this process with the others of the run, and say once what was found.

    All but the main process then write no whole files and print errors alone.

    Args:
        options: of a command with `add_process_flags`.

    Raises:
        ValueError: flags that do not go together.
    """
    from ssa_jax.training import distributed

    if not distributed.start(options.distributed, options.processes, options.process):
        return
    if distributed.is_main_process():
        print(distributed.described(), file=sys.stderr, flush=True)
        return
    from input_pipeline.files import leave_writing_to_others

    leave_writing_to_others()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for the rest of the process


def add_reading_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that state what scans are: `--intensity`, `--series` and `--axes`.

    Args:
        parser: of the command.
    """
    from input_pipeline.inference_slices import WINDOWED

    parser.add_argument(
        "--intensity",
        choices=("hu", WINDOWED),
        help="what NIfTI files hold: Hounsfield units, or 0..255 of the window -1250..250 HU",
    )
    parser.add_argument(
        "--series",
        help="of a DICOM folder that holds several: number, description or UID; 3:2 is acquisition "
        "2 of series 3",
    )
    parser.add_argument(
        "--axes", help="where the axes of NIfTI files without orientation point to, as in LPS"
    )


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a run of many inputs, `--overwrite` and `--shard`.

    Args:
        parser: of the command.
    """
    parser.add_argument(
        "--overwrite", action="store_true", help="start anew, instead of doing what is missing"
    )
    parser.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="do the I-th of N parts of the inputs, for N jobs side by side on one --out; the same "
        "command without it then writes one table of all",
    )


def _version() -> str:
    """Return the installed version, or say that there is none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ssa_jax")
    except PackageNotFoundError:
        return "not installed (run from a checkout)"


def _text(error: Exception) -> str:
    """Return an error's message; an OSError's own says 'what: file'."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


if __name__ == "__main__":
    main()
