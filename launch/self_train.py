"""Rounds of pseudo-labels: `python -m launch.self_train --config C --workdir W` (section 3.2.2).

Round 1 trains on the labelled slices. After each round its network labels unlabelled slices through
the trust module (eq. 9): those that `self_train.move` newly draws and those that joined before, for
nothing else is trained on. The next round trains a new network on all of them, with class weights
from their pixels (eq. 8). It stops when the validation DSC no longer improves and scores the best
round on the test split, once.

W/round_01, round_02, ... are ordinary workdirs (launch.evaluate and launch.predict take them; the
last checkpoint counts, so that a round does not pick its own best) that also hold `pseudo/`, the
labels for the next round, and `round.json`. W holds rounds.csv, curves.png, report.html and test/.
Interrupted or killed, the same command goes on and ends with the same bits.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from input_pipeline import datasets
from launch import command, setup
from launch.evaluate import evaluate
from launch.report import write_report
from launch.rounds import PICTURES, Data, Rounds, trust_of
from launch.train import check
from launch.writer import write_json
from ssa_jax.self_training import run_rounds
from ssa_jax.summary import format_table

TEST = "test"


def main(arguments: list[str]) -> None:
    """Read the flags and run the rounds."""
    parser = argparse.ArgumentParser("launch.self_train", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", type=Path, required=True, help="folder for all rounds")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options, config = command.parse_with_config(parser, arguments)
    summary = self_train(config, options.workdir, quiet=options.quiet)
    best = setup.round_folder(options.workdir, summary["best_round"])
    print(f"\nBest round: {summary['best_round']} of {summary['rounds']}.")
    print(f"Its network: --workdir {best} --which last, for launch.predict and launch.evaluate.")
    if summary[TEST] is not None:
        print(f"{TEST} split, network of round {summary['best_round']}:")
        print(format_table(summary[TEST]))
    print(f"\n{options.workdir / 'report.html'}, {options.workdir / 'rounds.csv'}")


def self_train(config: ConfigDict, workdir: Path, *, quiet: bool) -> dict[str, Any]:
    """Run every round that is not done; score the best one on the test split.

    Returns:
      'rounds' (how many), 'best_round', 'test' (the summary of `launch.evaluate`, None where the
      data set has no labelled test split).

    Raises:
      ValueError: a bad configuration, a labelled set without a class, or a patient held out who is
        also among the unlabelled.
    """
    check(config)
    trust_of(config)
    setup.build_records(config)
    setup.save_config(config, workdir)
    keep_compiled(workdir)
    data = _open(config, workdir)
    check_data(config, data)
    rounds = Rounds(config, workdir, data, quiet)
    best = run_rounds(
        rounds.train,
        rounds.label,
        patience=config.self_train.patience,
        max_rounds=config.self_train.max_rounds,
    )
    test = _test_once(config, workdir, best, quiet)
    summary = {"rounds": len(rounds.rows), "best_round": best, TEST: test}
    write_json(workdir / "summary.json", summary)
    write_report(workdir, rounds.rows, setup.class_names(config), config, summary)
    return summary


def _open(config: ConfigDict, workdir: Path) -> Data:
    """The slices; unlabelled ones are drawn by the seed where not all are wanted."""
    training, validation = setup.training_slices(config, workdir)
    unlabelled = setup.open_split(config, datasets.UNLABELLED)
    wanted = config.self_train.unlabelled_slices
    if not 0 <= wanted <= len(unlabelled):
        raise ValueError(
            f"self_train.unlabelled_slices is {wanted}; expected 0 (all) to {len(unlabelled)}"
        )
    if wanted:
        rng = np.random.default_rng(config.seed)
        chosen = np.sort(rng.choice(len(unlabelled), wanted, replace=False))
        unlabelled = setup.Subset(unlabelled, chosen.tolist())
    return Data(training, validation, unlabelled)


def check_data(config: ConfigDict, data: Data) -> None:
    """Refuse what would spoil the rounds or their scores.

    Raises:
      ValueError: a labelled set without a class, or a patient held out who is also unlabelled.
    """
    names = ("background", *setup.class_names(config))
    pixels = setup.pixels_of(config, data.training)
    missing = [name for name, count in zip(names, pixels, strict=True) if not count]
    if missing:
        raise ValueError(
            f"no labelled training slice shows {' or '.join(missing)}; the first round needs every "
            "class (section 3.2.2). Add slices, or choose others by data.split_seed."
        )
    held = {setup.VALIDATION: data.validation}
    if TEST in _splits(config):
        held[TEST] = setup.open_split(config, TEST)
    unlabelled = {item.patient for item in data.unlabelled}
    for split, slices in held.items():
        both = sorted(unlabelled & {item.patient for item in slices})
        if both:
            raise ValueError(
                f"{len(both)} patients of {split} are among the unlabelled too, {both[0]!r} first, "
                "and their scores would say too much. Leave them out of one of the two."
            )


def _splits(config: ConfigDict) -> list[str]:
    return datasets.split_names(
        config.data.name, data_dir=Path(config.data.data_dir), task=config.data.task
    )


def _test_once(config: ConfigDict, workdir: Path, best: int, quiet: bool) -> dict[str, Any] | None:
    """The best round's scores on the test split; read where they are there already."""
    path = workdir / TEST / "metrics.json"
    if TEST not in _splits(config) or config.data.validation_split == TEST:
        return None
    if not path.exists():
        folder = setup.round_folder(workdir, best)
        evaluate(
            config, folder, TEST, which="last", out=path.parent, pictures=PICTURES, quiet=quiet
        )
    return json.loads(path.read_text(encoding="utf-8"))


def keep_compiled(workdir: Path) -> None:
    """Let the rounds, and a run that goes on, share what XLA compiled."""
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str((workdir / "compiled").absolute()))


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
