"""Variants of a configuration, trained and scored alike and compared with the first of them.

With folds, all variants do the first fold before any does the second, so that a sweep that is
stopped early leaves pairs of equal cases.
"""

from collections.abc import Callable, Iterator, Mapping
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

Variants = Mapping[str, Settings]  # by name, the reference first


def sweep(
    variants: Variants,
    workdir: Path,
    *,
    folds: int,
    rounds: bool,
    quiet: bool,
    echo: Callable[[str], Any],
    shard: tuple[int, int] = (1, 1),
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
    with in_use(workdir, name, beside=beside):
        workdirs.keep_compiled(workdir)
        run = partial(_in_folds, folds=folds) if folds else _once
        for what, out, new in run(mine, workdir, rounds=rounds, quiet=quiet):
            if parts == 1 and new:
                compared = _compare(variants, workdir, folds)
            echo(f"{what}: {out}")
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


def _in_folds(
    variants: Variants, workdir: Path, *, folds: int, rounds: bool, quiet: bool
) -> Iterator[tuple[str, Path, bool]]:
    """Run each fold of all variants before the next; yield what, scores, and if they are new."""
    parts = {
        name: open_folds(
            settings, folder_of(workdir, name), folds=folds, scheme="usual", rounds=rounds
        )
        for name, settings in variants.items()
    }
    for number in range(1, folds + 1):
        for name, settings in variants.items():
            folder = folder_of(workdir, name)
            with in_use(folder):
                fold = folder / f"fold_{number}"
                new = not is_scored(fold)
                out = run_fold(settings, fold, parts[name][number - 1], rounds=rounds, quiet=quiet)
                if number == folds:
                    summarize_folds(folder, folds=folds, scheme="usual")
            yield f"{name}, fold {number} of {folds}", out, new


def _once(
    variants: Variants, workdir: Path, *, rounds: bool, quiet: bool
) -> Iterator[tuple[str, Path, bool]]:
    """Train each variant, and score it on the validation slices, unless that is done."""
    for name, settings in variants.items():
        folder = folder_of(workdir, name)
        out = scores_of_fold(folder)
        workdirs.changed_settings(settings, folder)
        new = not is_scored(folder)
        if new:
            network = train_network(settings, folder, rounds=rounds, quiet=quiet)
            evaluate(
                settings, network, data.VALIDATION, which="last", out=out, pictures=0, quiet=quiet
            )
        yield name, out, new


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
