"""Cross-validate: `python -m launch.cross_validate --config C --workdir W [--scheme ma]`.

Deals the patients of 'train' out to folds (kept in W/folds.json), trains a network per fold in
W/fold_1, W/fold_2, ... and scores it on the patients it has not seen, with the last checkpoint, so
that no fold chooses its own best. Interrupted, the same command goes on where it was. At the end
W/metrics.json and the table printed hold all folds: mean and interval over patients.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from input_pipeline import splits
from launch import command, setup
from launch.evaluate import evaluate, read_rows
from launch.train import train
from launch.writer import write_json, write_table
from ssa_jax.metrics import CaseRow
from ssa_jax.summary import format_table, summarize


def main(arguments: list[str]) -> None:
    """Read the flags, train and score every fold, and print the table."""
    parser = argparse.ArgumentParser(
        "launch.cross_validate", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder for all folds")
    parser.add_argument("--folds", type=int, default=5, help="number of folds [5]")
    parser.add_argument(
        "--scheme",
        choices=splits.SCHEMES,
        default="usual",
        help="usual trains on all parts but one, ma on one part [usual]",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options, config = command.parse_with_config(parser, arguments)
    summary = cross_validate(
        config, options.workdir, folds=options.folds, scheme=options.scheme, quiet=options.quiet
    )
    print(format_table(summary))
    print(f"\n{options.workdir / 'metrics.json'}, {options.workdir / 'cases.csv'}")


def cross_validate(
    config: ConfigDict, workdir: Path, *, folds: int, scheme: str, quiet: bool
) -> dict[str, Any]:
    """Train and score every fold that is not done.

    Returns:
      The summary of all folds, which `metrics.json` holds.

    Raises:
      ValueError: a configuration with a validation split of its own, folds that the patients do
        not suffice for, or a workdir with other folds.
    """
    if config.data.validation_split:
        raise ValueError(
            f"data.validation_split is {config.data.validation_split!r}; folds are dealt out of "
            "'train', so set it to ''"
        )
    setup.build_records(config)
    slices = setup.open_split(config, "train")
    ids = [(item.id, item.patient) for item in slices]
    dealt = splits.make_folds(
        [patient for _, patient in ids], folds=folds, scheme=scheme, seed=config.data.split_seed
    )
    _keep_folds(workdir / "folds.json", scheme, dealt)
    rows: list[CaseRow] = []
    for number, parts in enumerate(dealt, start=1):
        fold = workdir / f"fold_{number}"
        chosen = [[name for name, patient in ids if patient in part] for part in parts]
        if not (fold / "splits.json").exists():
            splits.save_split(fold / "splits.json", *chosen)
        if splits.load_split(fold / "splits.json") != tuple(chosen):
            raise ValueError(f"{fold / 'splits.json'}: another split; name another --workdir")
        out = fold / "evaluation" / setup.VALIDATION
        if not (out / "metrics.json").exists():
            train(config, fold, quiet=quiet)
            evaluate(config, fold, setup.VALIDATION, which="last", out=out, pictures=0, quiet=quiet)
        print(f"fold {number} of {folds}: {out}", flush=True)
        rows += read_rows(out, f"fold_{number}/")
    summary = summarize(rows) | {"scheme": scheme, "folds": folds}
    write_table(workdir / "cases.csv", rows)
    write_json(workdir / "metrics.json", summary)
    return summary


def _keep_folds(path: Path, scheme: str, dealt: list[tuple[list[str], list[str]]]) -> None:
    """Write the folds, or check that they are the ones already there."""
    folds = [{"train": train_, "validation": validation} for train_, validation in dealt]
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


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
