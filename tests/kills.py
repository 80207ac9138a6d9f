"""Kill trainings and rounds at random moments, and compare what they end with.

    python -m tests.kills OUT --kills 100 --terms 20

Each run is started, gets a signal at a random moment, at one of its processes or at all, and is
started again until it ends undisturbed; then its results must be, to the bit, those of a run that
nothing disturbed. A run that has not ended seven minutes after its signal counts as hanging. The
network is the tests' stand-in, on two devices. `--processes 2` has two processes do each run.
"""

import argparse
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from ssa_jax.training.checkpoint import Checkpoints
from ssa_jax.training.state import weights_sha256
from tests.support import processes
from tests.support.small_training import arguments, tree, write_source

HANGS = 400.0  # seconds after a signal: processes wait five minutes for others to connect
UNDISTURBED = 1800.0  # seconds of a run
DEVICES = 2
RESULTS = ("metrics.csv", "round.json", "rounds.csv", "splits.json", "manifest.json", "cases.csv")
CONFIGS = {"train": "covid_semiseg", "self_train": "self_train_semiseg"}
FIELDS: dict[str, dict[str, Any]] = {
    "train": {"train.epochs": 30},
    "self_train": {"train.epochs": 6, "self_train.choose": "last", "self_train.max_rounds": 3},
}


def start(command: str, source: Path, workdir: Path, count: int) -> list[subprocess.Popen[str]]:
    """Start a run in so many processes."""
    fields: dict[str, Any] = {"train.batch_size": 8, "data.validation_slices": 4} | FIELDS[command]
    given = arguments(source, workdir, CONFIGS[command], **fields)
    return processes.start(command, given, processes=count, devices=DEVICES // count)


def results(workdir: Path) -> dict[str, bytes]:
    """Tables, labels, and the hash of every last state with its step."""
    found = {
        name: data
        for name, data in tree(workdir).items()
        if name.endswith(RESULTS) or "array_record" in name
    }
    for folder in sorted(path.parent for path in workdir.rglob("checkpoints")):
        step = Checkpoints(folder).last_step
        state = ocp.StandardCheckpointer().restore(folder / f"checkpoints/last/{step}/state")
        found[f"{folder.relative_to(workdir)}/{step}"] = weights_sha256(state).encode()
    return found


def end(started: list[subprocess.Popen[str]], seconds: float) -> list[processes.Process]:
    """Wait until all processes have ended; raise if one takes longer."""
    try:
        return processes.ended(started, seconds)
    except subprocess.TimeoutExpired as error:
        raise SystemExit(f"hangs: a process has not ended after {seconds:.0f} s") from error


def disturb(
    started: list[subprocess.Popen[str]], rng: np.random.Generator, kill: bool, longest: float
) -> tuple[bool, float]:
    """Send a signal to a run at a random moment after its start.

    Returns:
        Whether that cut it short, and for how many seconds it had run by then.
    """
    begun, moment = time.monotonic(), rng.uniform(1.0, longest)
    while time.monotonic() - begun < moment and any(p.poll() is None for p in started):
        time.sleep(0.05)
    hit = started if rng.random() < 0.5 else [started[rng.integers(len(started))]]
    for process in hit:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
    ran = time.monotonic() - begun
    return any(one.status != 0 for one in end(started, HANGS)), ran


def options() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--terms", type=int, default=20)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--commands", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    return parser.parse_args()


def main() -> None:
    """Send all signals, half of each kind to each command, and compare every run that ends."""
    chosen = options()
    source = write_source(chosen.out / "source")
    for command in chosen.commands:
        begun = time.monotonic()
        whole = chosen.out / f"{command}-undisturbed"
        if any(
            one.status for one in end(start(command, source, whole, chosen.processes), UNDISTURBED)
        ):
            raise SystemExit(f"{command}: failed undisturbed")
        longest, expected = time.monotonic() - begun, results(whole)
        parts = len(chosen.commands)
        signals = [True] * (chosen.kills // parts) + [False] * (chosen.terms // parts)
        rng = np.random.default_rng(0)
        rng.shuffle(signals)
        cut = finished = 0
        workdir = chosen.out / f"{command}-{finished}"
        for number, kill in enumerate([*signals, None], start=1):
            if kill is None:
                ended = end(start(command, source, workdir, chosen.processes), UNDISTURBED)
                short = any(one.status for one in ended)
            else:
                started = start(command, source, workdir, chosen.processes)
                short, ran = disturb(started, rng, kill, longest)
                longest = longest if short else min(longest, ran)  # compiled by now
            cut += short
            if not short:
                if results(workdir) != expected:
                    raise SystemExit(f"{workdir}: other results than {whole}")
                finished += 1
                workdir = chosen.out / f"{command}-{finished}"
            elif kill is None:
                raise SystemExit(f"{workdir}: does not end: {ended[0].errors}")
            print(f"{command}: {number} starts, {cut} cut short, {finished} ended", flush=True)


if __name__ == "__main__":
    main()
