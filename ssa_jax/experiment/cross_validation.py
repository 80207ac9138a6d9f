"""Cross-validation: a network for each fold, scored on the patients it was not trained on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from input_pipeline import splits
from input_pipeline.files import write_json, write_table
from ssa_jax.evaluation.metrics import CaseRow
from ssa_jax.evaluation.summary import summarize
from ssa_jax.experiment import data
from ssa_jax.experiment.evaluation import evaluate, read_rows
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.training import train


def cross_validate(
    settings: Settings,
    workdir: Path,
    *,
    folds: int,
    scheme: str,
    quiet: bool,
    echo: Callable[[str], Any],
) -> dict[str, Any]:
    """Train and score every fold that is not done, each with its last checkpoint.

    Args:
        settings: of every fold.
        workdir: folder for all folds; the patients of each are stored in its `folds.json`.
        folds: number of parts that the patients are divided into.
        scheme: see `splits.make_folds`.
        quiet: show no progress.
        echo: prints a line about each fold.

    Returns:
        The summary of all folds, as in `metrics.json`.

    Raises:
        ValueError: settings with a validation split of their own, too few patients for the folds,
            or a workdir with other folds.
        OSError: a file cannot be read or written.
    """
    if settings.data.validation_split:
        raise ValueError(
            f"data.validation_split is {settings.data.validation_split!r}; expected '', as the "
            "folds are made from 'train'"
        )
    data.build_records(settings)
    ids = [(item.id, item.patient) for item in data.open_split(settings, data.TRAIN)]
    patients, seed = [patient for _, patient in ids], settings.data.split_seed
    patient_folds = splits.make_folds(patients, folds=folds, scheme=scheme, seed=seed)
    _keep_folds(workdir / "folds.json", scheme, patient_folds)
    rows: list[CaseRow] = []
    for number, parts in enumerate(patient_folds, start=1):
        fold = workdir / f"fold_{number}"
        chosen = [[name for name, patient in ids if patient in part] for part in parts]
        path = fold / data.SPLITS_FILE
        if not path.exists():
            splits.save_split(path, *chosen)
        if splits.load_split(path) != tuple(chosen):
            raise ValueError(f"{path}: another split than this fold's; name another --workdir")
        out = fold / "evaluation" / data.VALIDATION
        if not (out / "metrics.json").exists():
            train(settings, fold, quiet=quiet)
            evaluate(
                settings, fold, data.VALIDATION, which="last", out=out, pictures=0, quiet=quiet
            )
        echo(f"fold {number} of {folds}: {out}")
        rows += read_rows(out, f"fold_{number}/")
    summary = summarize(rows) | {"scheme": scheme, "folds": folds}
    write_table(workdir / "cases.csv", rows)
    write_json(workdir / "metrics.json", summary)
    return summary


def _keep_folds(path: Path, scheme: str, patient_folds: list[tuple[list[str], list[str]]]) -> None:
    """Write the folds, or check that the file holds the same ones."""
    folds = [{"train": train_, "validation": validation} for train_, validation in patient_folds]
    ours = {"scheme": scheme, "folds": folds}
    if not path.exists():
        write_json(path, ours)
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error}); name another --workdir") from None
    if theirs != ours:
        raise ValueError(
            f"{path}: other folds than these (scheme, number, data.split_seed or patients differ); "
            "name another --workdir"
        )
