"""Commands run by several processes of several virtual devices, with the stand-in network.

As a program it is one of the processes: python -m tests.support.processes COMMAND ARGUMENT...
"""

import importlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
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
    stop: int = 0,
    stop_scoring: bool = False,
) -> list[subprocess.Popen[str]]:
    """Start a command in processes of some devices each; a single one is not connected.

    With `hang` the process of that number stops for good before it reads that batch, and all give
    up after three seconds without progress. With `stop` the last one gets SIGTERM when it reads
    that batch of this start; with `stop_scoring` when it scores its first slice, of a validation or
    an evaluation, and all take five seconds for each.
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
        env_of["STOP"] = f"{stop if number == processes - 1 else 0}"
        if stop_scoring:
            env_of["STOP_SCORING"] = f"{int(number == processes - 1)}"
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
    command: str, given: Sequence[str], *, processes: int = 1, devices: int = 1, stop: int = 0
) -> list[Process]:
    """Run a command in several processes to its end."""
    return ended(start(command, given, processes=processes, devices=devices, stop=stop))


def before_batch(number: int, happens: Callable[[], Any]) -> None:
    """Have something happen before this process reads a batch, the first of which is 1."""
    from input_pipeline import loader

    following, read = loader.Batches.__next__, itertools.count(1)

    def next_batch(self: loader.Batches) -> Any:
        if next(read) == number:
            happens()
        return following(self)

    loader.Batches.__next__ = next_batch  # type: ignore[method-assign]


def before_scores(happens: Callable[[], Any]) -> None:
    """Have something happen before the first score of a slice, and each take five seconds."""
    from ssa_jax.evaluation import scoring
    from ssa_jax.experiment import evaluation

    scored = itertools.count(1)

    def slowly(score: Callable[..., Any], *given: Any) -> Any:
        if next(scored) == 1:
            happens()
        time.sleep(5)
        return score(*given)

    scoring.dice_score = partial(slowly, scoring.dice_score)
    evaluation.score = partial(slowly, evaluation.score)


def hang() -> None:
    """Sleep for good."""
    time.sleep(10**6)


if __name__ == "__main__":
    from launch import cli
    from ssa_jax.training import distributed
    from tests.support.small_training import stand_in

    module = importlib.import_module(f"launch.{sys.argv[1]}")
    distributed.HEARTBEAT_SECONDS = 15
    if "HANG" in os.environ:
        from ssa_jax.training import watch

        watch.HANG_SECONDS, watch.POST_SECONDS = 3, 0.2
        before_batch(int(os.environ["HANG"]), hang)
    terminate = partial(os.kill, os.getpid(), signal.SIGTERM)
    before_batch(int(os.environ["STOP"]), terminate)
    if "STOP_SCORING" in os.environ:
        before_scores(terminate if int(os.environ["STOP_SCORING"]) else lambda: None)
    with stand_in():
        cli.run(module.main, sys.argv[2:])
