"""Variants of a configuration, trained and scored alike and compared with the first of them.

With folds, all variants do the first fold before any does the second, so that a sweep that is
stopped early leaves pairs of equal cases.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from input_pipeline.files import safe_name
from ssa_jax.experiment import data
from ssa_jax.experiment import workdir as workdirs
from ssa_jax.experiment.comparison import compare_tables
from ssa_jax.experiment.cross_validation import (
    is_scored,
    open_folds,
    run_fold,
    scores_of_fold,
    summarize_folds,
    train_network,
)
from ssa_jax.experiment.evaluation import evaluate
from ssa_jax.experiment.lock import in_use
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.side_by_side import made

Variants = Mapping[str, Settings]  # by name, the reference first


@dataclasses.dataclass(frozen=True)
class Training:
    """A training of a sweep.

    Attributes:
        settings: of it.
        folder: its workdir.
        parts: ids of the slices to train on and of those held out, with folds.
    """

    settings: Settings
    folder: Path
    parts: Sequence[list[str]] = ()


def sweep(
    variants: Variants,
    workdir: Path,
    *,
    folds: int,
    rounds: bool,
    quiet: bool,
    echo: Callable[[str], Any],
    shard: tuple[int, int] = (1, 1),
    jobs: int = 1,
    prepare: Callable[[], Any] = int,
) -> dict[str, Any] | None:
    """Train and score every variant that is not done, and compare it with the first.

    Args:
        variants: two or more.
        workdir: folder for all; W/VARIANT is one of `cross_validate`, or without folds of `train`
            or `self_train`.
        folds: number of folds of 'train' that each variant is trained and scored on; 0 trains it
            once and scores it on the validation slices.
        rounds: whether a training is a run of rounds, of which the last is scored.
        quiet: show no progress.
        echo: prints a line about each training; the comparison so far is written before it.
        shard: number of this part of the variants, from 1, and of all parts.
        jobs: trainings side by side, each in a process of its own and without progress; they share
            the accelerators, or divide the CPU's cores.
        prepare: called in each of several processes before it computes.

    Returns:
        The comparison, as in W/comparison/comparison.json, see `comparison.compare_networks`; None
        of a part of the variants, which compares nothing.

    Raises:
        ValueError: fewer than two variants, or as `cross_validate`.
        OSError: a file cannot be read or written, or another process uses the workdir.
        TrainingDiverged: the loss of a training is not finite.
    """
    if len(variants) < 2:
        raise ValueError(f"{len(variants)} variant is given, expected two or more to compare")
    part, parts = shard
    mine = dict(list(variants.items())[part - 1 :: parts])
    name, beside = (f"-{part}-of-{parts}", f"-*-of-{parts}") if parts > 1 else ("", "")
    compared = None
    with in_use(workdir, name, beside=beside), ExitStack() as locks:
        for variant in mine if folds else ():  # without folds a training locks its own
            locks.enter_context(in_use(folder_of(workdir, variant)))
        todo = _trainings(mine, workdir, folds, rounds)
        run = partial(_train_and_score, rounds=rounds, quiet=quiet or jobs > 1)
        calls = {key: partial(run, training) for key, training in todo.items()}
        for (variant, fold), (out, new) in made(calls, jobs, prepare=prepare):
            if fold:
                _summarize_if_done(folder_of(workdir, variant), folds)
            if parts == 1 and new:
                compared = _compare(variants, workdir, folds)
            echo(f"{variant}, fold {fold} of {folds}: {out}" if fold else f"{variant}: {out}")
        if parts == 1 and compared is None:
            compared = _compare(variants, workdir, folds)
    return compared


def folder_of(workdir: Path, name: str) -> Path:
    """Return the workdir of a variant, within that of the sweep whatever its values are.

    Args:
        workdir: of the sweep.
        name: of the variant.
    """
    return workdir / safe_name(name)


def _trainings(
    variants: Variants, workdir: Path, folds: int, rounds: bool
) -> dict[tuple[str, int], Training]:
    """Return the trainings by variant and fold, 0 without folds, in their order."""
    folders = {name: folder_of(workdir, name) for name in variants}
    if not folds:
        return {(name, 0): Training(variants[name], folder) for name, folder in folders.items()}
    parts = {
        name: open_folds(variants[name], folder, folds=folds, scheme="usual", rounds=rounds)
        for name, folder in folders.items()
    }
    return {
        (name, fold): Training(variants[name], folder / f"fold_{fold}", parts[name][fold - 1])
        for fold in range(1, folds + 1)
        for name, folder in folders.items()
    }


def _train_and_score(training: Training, *, rounds: bool, quiet: bool) -> tuple[Path, bool]:
    """Train and score unless that is done; return the folder of the scores and if they are new."""
    settings, folder = training.settings, training.folder
    new = not is_scored(folder)
    if training.parts:
        parts = list(training.parts)
        return run_fold(settings, folder, parts, rounds=rounds, quiet=quiet), new
    out = scores_of_fold(folder)
    workdirs.changed_settings(settings, folder)
    if new:
        network = train_network(settings, folder, rounds=rounds, quiet=quiet)
        scored = {network: settings}
        evaluate(scored, data.VALIDATION, which="last", out=out, pictures=0, quiet=quiet)
    return out, new


def _summarize_if_done(folder: Path, folds: int) -> None:
    """Sum up the folds of a variant once all of them are scored."""
    if all(is_scored(folder / f"fold_{number}") for number in range(1, folds + 1)):
        summarize_folds(folder, folds=folds, scheme="usual")


def _compare(variants: Variants, workdir: Path, folds: int) -> dict[str, Any] | None:
    """Compare what is done so far with the first variant, in the cases that all of it has."""
    tables: dict[str, list[Path]] = {}
    for name in variants:
        folder = folder_of(workdir, name)
        parts = [folder / f"fold_{number}" for number in range(1, folds + 1)] if folds else [folder]
        done = [scores_of_fold(part) for part in parts if is_scored(part)]
        if done:
            tables[name] = done
    if len(tables) < 2:
        return None
    return compare_tables(tables, metric="dsc", common=True, out=workdir / "comparison")
