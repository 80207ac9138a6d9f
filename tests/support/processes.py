"""Commands run by several processes of several virtual devices, with the stand-in network.

As a program it is one of the processes: python -m tests.support.processes COMMAND ARGUMENT...
"""

import importlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

from tests.support import ROOT


class Process(NamedTuple):
    """How one of the processes ended: exit status, standard output and error."""

    status: int
    printed: str
    errors: str


def start(
    command: str,
    given: Sequence[str],
    *,
    processes: int,
    devices: int,
    hang: tuple[int, int] | None = None,
) -> list[subprocess.Popen[str]]:
    """Start a command in processes of some devices each; a single one is not connected.

    With `hang` the process of that number stops for good before it reads that batch, and all give
    up after three seconds without progress.
    """
    with closing(socket.socket()) as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    started = []
    for number in range(processes):
        where = ["--distributed", f"localhost:{port}", "--processes", str(processes)]
        flags = [*where, "--process", str(number)] if processes > 1 else []
        env_of = env | ({} if hang is None else {"HANG": f"{hang[1] if number == hang[0] else 0}"})
        words = [sys.executable, "-m", __name__, command, *given, *flags]
        pipe = subprocess.PIPE
        process = subprocess.Popen(words, cwd=ROOT, env=env_of, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
    return started


def ended(started: Sequence[subprocess.Popen[str]], seconds: float = 240) -> list[Process]:
    """Wait for processes, and kill those that take longer."""
    found = []
    try:
        for process in started:
            printed, errors = process.communicate(timeout=seconds)
            found.append(Process(process.returncode, printed, errors))
    finally:
        for process in started:
            process.kill()
    return found


def run(
    command: str, given: Sequence[str], *, processes: int = 1, devices: int = 1
) -> list[Process]:
    """Run a command in several processes to its end."""
    return ended(start(command, given, processes=processes, devices=devices))


def hang_before(batch: int) -> None:
    """Have this process sleep for good before it reads a batch; 0 for never."""
    from input_pipeline import loader
    from ssa_jax.training import watch

    watch.HANG_SECONDS, watch.POST_SECONDS = 3, 0.2
    following, read = loader.Batches.__next__, itertools.count(1)

    def next_or_never(self: loader.Batches) -> Any:
        if next(read) == batch:
            time.sleep(10**6)
        return following(self)

    loader.Batches.__next__ = next_or_never  # type: ignore[method-assign]


if __name__ == "__main__":
    from launch import cli
    from tests.support.small_training import stand_in

    module = importlib.import_module(f"launch.{sys.argv[1]}")
    if "HANG" in os.environ:
        hang_before(int(os.environ["HANG"]))
    with stand_in():
        cli.run(module.main, sys.argv[2:])
