"""Commands run by several processes of several virtual devices, with the stand-in network.

As a program it is one of the processes: python -m tests.support.processes COMMAND ARGUMENT...
"""

import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

from tests.support import ROOT


class Process(NamedTuple):
    """How one of the processes ended: exit status, standard output and error."""

    status: int
    printed: str
    errors: str


def start(
    command: str, given: Sequence[str], *, processes: int, devices: int
) -> list[subprocess.Popen[str]]:
    """Start a command in processes of some devices each; a single one is not connected."""
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
        words = [sys.executable, "-m", __name__, command, *given, *flags]
        pipe = subprocess.PIPE
        process = subprocess.Popen(words, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True)
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


if __name__ == "__main__":
    from launch import cli
    from tests.support.small_training import stand_in

    module = importlib.import_module(f"launch.{sys.argv[1]}")
    with stand_in():
        cli.run(module.main, sys.argv[2:])
