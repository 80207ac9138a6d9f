"""Damage files of workdirs and data sets, run the commands on them and compare with sound ones.

`python -m tests.corruptions --count 200` prints, for each kind of file and damage, how often it was
detected (one line and exit status 2, or a note and a sound result), was harmless (a sound result
without a word), gave a wrong result silently, or a traceback; the last two must be 0.
"""

import argparse
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from launch import evaluate, self_train, train
from ssa_jax.training.state import weights_sha256
from tests.support.small_training import EPOCHS, STEPS, arguments, run, stand_in, stopped_at
from tests.support.small_training import write_source as write_slices

OUTCOMES = ("detected", "harmless", "silently wrong", "traceback")
FILES = {  # by name: a pattern below the folder of all
    "checkpoints": "W/**/checkpoints/**/*",
    "config": "W/**/config.json",
    "splits": "W/**/splits.json",
    "data hashes": "W/**/data.json",
    "metrics.csv": "W/**/metrics.csv",
    "training notes": "W/**/training.json",
    "records": "records/**/*",
    "pseudo-labels": "W/**/pseudo/*",
    "rounds": "W/**/round.json",
}
HARMLESS_NOTES = ("warning: round", "taken over")


class World(NamedTuple):
    """A sound state on disk, what is run on it and what must come out.

    Attributes:
        folder: of source, records and workdir W.
        commands: run the commands in a copy; return what they said and the exit statuses.
        results: what is compared, of a copy in which they ran.
    """

    folder: Path
    commands: Callable[[Path], tuple[list[int], str]]
    results: Callable[[Path], dict[str, object]]


def last_state(workdir: Path) -> str:
    """Hash of every array of the last checkpoint, by our function, and its step."""
    folder = workdir / "checkpoints" / "last"
    step = max(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    state = ocp.StandardCheckpointer().restore(folder.absolute() / str(step) / "state")
    return f"{step} {weights_sha256(state)}"


def resumed(folder: Path) -> tuple[list[int], str]:
    """Go on with a training that was interrupted, then score its last network."""
    return _all(
        (train.main, arguments(folder / "source", folder / "W")),
        (evaluate.main, [*_scored(folder), "--which", "last"]),
    )


def finished(folder: Path) -> tuple[list[int], str]:
    """Score both networks of a training that is over, then ask for it once more."""
    return _all(
        (evaluate.main, [*_scored(folder), "--which", "best", "--out", str(folder / "best")]),
        (evaluate.main, [*_scored(folder), "--which", "last"]),
        (train.main, arguments(folder / "source", folder / "W")),
    )


def rounds(folder: Path) -> tuple[list[int], str]:
    """Train the second round on the pseudo-labels of the first, and score the best one."""
    given = arguments(folder / "source", folder / "W", "self_train_semiseg")
    return _all((self_train.main, given))


def _scored(folder: Path) -> list[str]:
    return ["--workdir", str(folder / "W"), "--quiet"]


def _all(*commands: tuple[Callable[[list[str]], None], list[str]]) -> tuple[list[int], str]:
    ended = [run(*command) for command in commands]
    return [one.status for one in ended], "".join(one.errors for one in ended)


def of_training(folder: Path) -> dict[str, object]:
    """What a training leaves: state, curve and scores."""
    tables = sorted([*folder.glob("best/*.csv"), *folder.glob("W/evaluation/*/*.csv")])
    found: dict[str, object] = {str(p.relative_to(folder)): p.read_bytes() for p in tables}
    return found | {"state": last_state(folder / "W"), "log": _bytes(folder / "W/metrics.csv")}


def of_rounds(folder: Path) -> dict[str, object]:
    """What rounds leave: tables, and the state of the last round."""
    names = ("rounds.csv", "summary.json", "test/cases.csv", "round_02/metrics.csv")
    found: dict[str, object] = {name: _bytes(folder / "W" / name) for name in names}
    return found | {"state": last_state(folder / "W/round_02")}


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@contextmanager
def worlds() -> Iterator[dict[str, World]]:
    """Make the sound states: a training cut short, one that is over, and rounds cut short.

    Everything is run in one folder, `here`, whose copies the worlds are: paths stay the same.
    """
    with tempfile.TemporaryDirectory() as name, stand_in():
        base = Path(name)
        here = base / "here"
        source = write_slices(here / "source")
        made = {}
        with stopped_at(EPOCHS * STEPS - 1):
            assert run(train.main, arguments(source, here / "W")).status == 130
        made["resumed"] = World(_kept(here, base / "resumed"), resumed, of_training)
        assert run(train.main, arguments(source, here / "W")).status == 0
        made["finished"] = World(_kept(here, base / "finished"), finished, of_training)
        shutil.rmtree(here / "W")
        assert rounds(here)[0] == [0]
        for part in ("round_02", "test", "summary.json", "rounds.csv", "report.html", "curves.png"):
            path = here / "W" / part
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        made["rounds"] = World(_kept(here, base / "rounds"), rounds, of_rounds)
        yield made


def _kept(here: Path, copy: Path) -> Path:
    shutil.copytree(here, copy)
    return copy


def fresh(world: World) -> Path:
    """Put a copy of a world in the folder where it was made."""
    here = world.folder.parent / "here"
    shutil.rmtree(here)
    shutil.copytree(world.folder, here)
    return here


def damage(path: Path, kind: str, other: Path, rng: np.random.Generator) -> None:
    """Damage a file.

    Args:
        path: the file.
        kind: 'bit flip', 'truncation', 'deletion' or 'swap'.
        other: the file to swap it with.
        rng: chooses the place.
    """
    content = bytearray(path.read_bytes())
    if kind == "bit flip":
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
    elif kind == "truncation":
        path.write_bytes(content[: rng.integers(len(content))])
    elif kind == "deletion":
        path.unlink()
    else:
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)


def outcome(world: World, here: Path, expected: dict[str, object]) -> str:
    """Run the commands on a damaged copy and say which of `OUTCOMES` it was."""
    try:
        statuses, errors = world.commands(here)
        told = [line for line in errors.splitlines() if not line.startswith(HARMLESS_NOTES)]
        refused = 2 in statuses
        if "Traceback" in errors or (refused and not any(x.startswith("error: ") for x in told)):
            print(errors, file=sys.stderr)
            return "traceback"
        if refused:
            return "detected"
        if world.results(here) == expected:
            return "detected" if told else "harmless"
        return "detected" if told else "silently wrong"
    except Exception:
        traceback.print_exc(limit=-3)
        return "traceback"


def corrupt(
    count: int, seed: int, say: Callable[[str], object]
) -> dict[tuple[str, str], Counter[str]]:
    """Damage a file `count` times, the kinds in turn.

    Args:
        count: number of corruptions.
        seed: of the choice of files and places.
        say: is told of each one.

    Returns:
        The numbers of each outcome, by kind of file and of damage.
    """
    rng = np.random.default_rng(seed)
    table: dict[tuple[str, str], Counter[str]] = {}
    with worlds() as made:
        sound = {}
        for name, world in made.items():
            statuses, errors = world.commands(here := fresh(world))
            assert not any(statuses), errors
            sound[name] = world.results(here)
        kinds = ("bit flip", "bit flip", "truncation", "deletion", "swap")
        cases = [(f, k, name) for k in kinds for f in FILES for name in made]
        done = 0
        while done < count:
            for number in rng.permutation(len(cases)):
                files, kind, name = cases[number]
                here = fresh(made[name])
                found = [p for p in sorted(here.glob(FILES[files])) if p.is_file()]
                found = [p for p in found if p.stat().st_size]
                if done == count or len(found) < 1 + (kind == "swap"):
                    continue
                path, other = _pick(found, kind, rng)
                damage(path, kind, other, rng)
                result = outcome(made[name], here, sound[name])
                table.setdefault((files, kind), Counter())[result] += 1
                done += 1
                say(f"{done} {name}: {kind} of {path.relative_to(here)}: {result}")
    return table


def _pick(found: list[Path], kind: str, rng: np.random.Generator) -> tuple[Path, Path]:
    """Choose a file, and another of other content for a swap."""
    path = found[rng.integers(len(found))]
    others = [p for p in found if p.read_bytes() != path.read_bytes()]
    return path, others[rng.integers(len(others))] if others else path


def main() -> None:
    """Read the flags, damage files and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print each corruption")
    options = parser.parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    say = (lambda text: print(text, flush=True)) if options.verbose else lambda _: None
    table = corrupt(options.count, options.seed, say)
    print(f"{'file':15} {'damage':11} " + " ".join(f"{name:>14}" for name in OUTCOMES))
    total: Counter[str] = Counter()
    for (files, kind), counts in sorted(table.items()):
        total += counts
        print(f"{files:15} {kind:11} " + " ".join(f"{counts[name]:14}" for name in OUTCOMES))
    print(f"{'all':27} " + " ".join(f"{total[name]:14}" for name in OUTCOMES))
    sys.exit(bool(total["silently wrong"] or total["traceback"]))


if __name__ == "__main__":
    main()
