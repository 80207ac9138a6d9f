"""Cross-validation: a network for each fold, scored on the patients it was not trained on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from input_pipeline import splits
from input_pipeline.files import write_json
from input_pipeline.slices import abouts
from input_pipeline.tables import write_table
from input_pipeline.verified import keep_record
from ssa_jax.evaluation.metrics import CaseRow
from ssa_jax.evaluation.summary import summarize
from ssa_jax.experiment import data, data_changes, factory
from ssa_jax.experiment import workdir as workdirs
from ssa_jax.experiment.evaluation import evaluate, read_rows
from ssa_jax.experiment.lock import in_use
from ssa_jax.experiment.rounds import check as check_rounds
from ssa_jax.experiment.rounds import self_train
from ssa_jax.experiment.rounds_reporting import ReportWriter
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.training import check_start, train_in
from ssa_jax.training.distributed import barrier, decided
from ssa_jax.training.loop import TrainingDiverged

MEND = "name another --workdir"


def cross_validate(
    settings: Settings,
    workdir: Path,
    *,
    folds: int,
    scheme: str,
    rounds: bool = False,
    quiet: bool,
    echo: Callable[[str], Any],
) -> dict[str, Any]:
    """Train and score every fold that is not done, each with its last checkpoint.

    Args:
        settings: of every fold.
        workdir: folder for all folds; the patients of each are stored in its `folds.json`.
        folds: number of parts that the patients are divided into.
        scheme: see `splits.make_folds`.
        rounds: whether a fold is a run of rounds of pseudo-labels, see `rounds.self_train`; its
            last round is scored, so that no fold chooses its own best.
        quiet: show no progress.
        echo: prints a line about each fold.

    Returns:
        The summary of all folds, as in `metrics.json`.

    Raises:
        ValueError: settings with a validation split of their own, too few patients for the folds,
            or a workdir with other folds, settings or data, or damaged.
        OSError: a file cannot be read or written, or another process uses the workdir.
        TrainingDiverged: the loss of a fold is not finite.
    """
    with in_use(workdir):
        chosen = open_folds(settings, workdir, folds=folds, scheme=scheme, rounds=rounds)
        for number, parts in enumerate(chosen, start=1):
            out = run_fold(settings, workdir / f"fold_{number}", parts, rounds=rounds, quiet=quiet)
            echo(f"fold {number} of {folds}: {out}")
        return summarize_folds(workdir, folds=folds, scheme=scheme)


def summarize_folds(workdir: Path, *, folds: int, scheme: str) -> dict[str, Any]:
    """Write the table and the summary of all folds, which are done, and return the summary.

    Args:
        workdir: folder for all folds.
        folds: number of parts.
        scheme: of the folds.

    Raises:
        ValueError, OSError: as `cross_validate`.
    """
    rows: list[CaseRow] = []
    for number in range(1, folds + 1):
        rows += read_rows(scores_of_fold(workdir / f"fold_{number}"), f"fold_{number}/")
    summary = summarize(rows) | {"scheme": scheme, "folds": folds}
    write_table(workdir / "cases.csv", rows)
    write_json(workdir / "metrics.json", summary)
    return summary


def open_folds(
    settings: Settings, workdir: Path, *, folds: int, scheme: str, rounds: bool
) -> list[list[list[str]]]:
    """Check the settings, build the records, and choose and store the slices of each fold.

    Args:
        settings: see `cross_validate`, like all others.
        workdir: folder for all folds.
        folds: number of parts.
        scheme: of the folds.
        rounds: whether a fold is a run of rounds.

    Returns:
        For each fold the ids of the slices to train on and of those held out.

    Raises:
        ValueError, OSError: as `cross_validate`.
    """
    (check_rounds if rounds else factory.check)(settings)
    if settings.data.validation_split:
        raise ValueError(
            f"data.validation_split is {settings.data.validation_split!r}; expected '', as the "
            "folds are made from 'train'"
        )
    choose = partial(_choose_folds, workdir=workdir, folds=folds, scheme=scheme)
    data.build_records(settings, choose)
    chosen, record = choose(settings)
    _keep(record, workdir)
    return chosen


def run_fold(
    settings: Settings, fold: Path, parts: list[list[str]], *, rounds: bool, quiet: bool
) -> Path:
    """Train and score a fold unless that is done.

    Args:
        settings: see `cross_validate`.
        fold: its workdir.
        parts: ids of the slices to train on and of those held out, see `open_folds`.
        rounds: whether it is a run of rounds.
        quiet: show no progress.

    Returns:
        The folder of its scores.

    Raises:
        ValueError, OSError, TrainingDiverged: as `cross_validate`.
    """
    path = fold / data.SPLITS_FILE
    if not decided(path.exists):
        splits.save_split(path, *parts)
        barrier("split stored")
    if splits.load_split(path) != tuple(parts):
        raise ValueError(f"{path}: another split than this fold's; {MEND}")
    out = scores_of_fold(fold)
    if not decided(partial(is_scored, fold)):
        try:
            network = train_network(settings, fold, rounds=rounds, quiet=quiet)
        except TrainingDiverged as error:
            where = f"{error} in another --workdir, as all folds train alike"
            raise TrainingDiverged(where, error.step) from error
        scored = {network: settings}
        evaluate(scored, data.VALIDATION, which="last", out=out, pictures=0, quiet=quiet)
    return out


def scores_of_fold(fold: Path) -> Path:
    """Return the folder of a fold's scores, which is complete or absent.

    Args:
        fold: its workdir.
    """
    return fold / "evaluation" / data.VALIDATION


def is_scored(fold: Path) -> bool:
    """Return whether a fold has its scores.

    Args:
        fold: its workdir.
    """
    return (scores_of_fold(fold) / "metrics.json").exists()


def _choose_folds(
    settings: Settings, workdir: Path, folds: int, scheme: str
) -> tuple[list[list[list[str]]], dict[str, Any]]:
    """Return the ids of the slices of each fold and the record of its patients; write nothing."""
    ids = [(item.id, item.patient) for item in abouts(data.open_split(settings, data.TRAIN))]
    patients, seed = [patient for _, patient in ids], settings.data.split_seed
    patient_folds = splits.make_folds(patients, folds=folds, scheme=scheme, seed=seed)
    for number in range(1, folds + 1):  # those that are done are of the same settings and data
        fold = workdir / f"fold_{number}"
        workdirs.changed_settings(settings, fold)
        if (fold / data_changes.DATA_FILE).exists():
            data.compare(settings, fold, [data.TRAIN], way_out=MEND)
    chosen = [
        [[name for name, patient in ids if patient in part] for part in parts]
        for parts in patient_folds
    ]
    for train_ids, _ in chosen:
        check_start(settings, len(train_ids))
    parts_of = [{"train": train, "validation": held} for train, held in patient_folds]
    record = {"scheme": scheme, "folds": parts_of}
    if (workdir / workdirs.FOLDS_FILE).exists():
        _keep(record, workdir)
    return chosen, record


def _keep(record: dict[str, Any], workdir: Path) -> None:
    """Write the patients of the folds, or check that the workdir holds the same."""
    keep_record(workdir / workdirs.FOLDS_FILE, record, what="folds", mend=MEND)


def train_network(settings: Settings, folder: Path, *, rounds: bool, quiet: bool) -> Path:
    """Train a network, or run rounds, and return the workdir of the network to score.

    Args:
        settings: of the training.
        folder: its workdir.
        rounds: whether it is a run of rounds, of which the last one's network counts.
        quiet: show no progress.

    Raises:
        ValueError, OSError, TrainingDiverged: as `training.train_in` and `rounds.self_train`.
    """
    if not rounds:
        train_in(settings, folder, quiet=quiet)
        return folder
    summary = self_train(settings, folder, observer=ReportWriter(echo=_silent), quiet=quiet)
    return workdirs.round_folder(folder, summary["rounds"])


def _silent(_: str) -> None:
    """Print nothing."""
