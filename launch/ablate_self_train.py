"""Table 4 of the paper: `python -m launch.ablate_self_train --config C --workdir W --seeds 3`.

Runs plain supervised training and the rounds of pseudo-labels without and with re-weighting and
trust module, each with the same seeds, labelled slices and steps, and prints the test DSC beside
the paper's. Variants whose first round is the same computation share it. Interrupted, the same
command goes on; W/SEED/VARIANT are workdirs of launch.self_train.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from launch import command, setup
from launch.evaluate import read_rows
from launch.self_train import TEST, keep_compiled, self_train
from launch.writer import write_json
from ssa_jax.metrics import CaseRow
from ssa_jax.summary import AVERAGE, summarize

OVER, ETA, ROUNDS = "loss.class_weight_over", "self_train.eta", "self_train.max_rounds"
VARIANTS: dict[str, dict[str, Any]] = {  # what each changes in the configuration
    "supervised": {OVER: "none", ETA: 0.0, ROUNDS: 1},
    "S1": {OVER: "none", ETA: 0.0},
    "S2": {ETA: 0.0},
    "S3": {OVER: "none"},
    "S4": {},
}
MEANING = {
    "supervised": "labelled slices alone",
    "S1": "iteration",
    "S2": "iteration + re-weighting",
    "S3": "iteration + trust",
    "S4": "iteration + both",
}
PAPER = {"supervised": 0.4553, "S1": 0.5155, "S2": 0.5118, "S3": 0.5483, "S4": 0.5608}
SAME_FIRST_ROUND = {"S1": "supervised", "S3": "supervised", "S4": "S2"}
RESAMPLES = 2000


def main(arguments: list[str]) -> None:
    """Read the flags, run every variant and print the table."""
    parser = argparse.ArgumentParser(
        "launch.ablate_self_train", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder for all runs")
    parser.add_argument("--seeds", type=command.positive_int, default=3, help="number of seeds [3]")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options, config = command.parse_with_config(parser, arguments)
    results = ablate(config, options.workdir, seeds=options.seeds, quiet=options.quiet)
    print(f"\n{table(results, setup.class_names(config))}\n\n{options.workdir / 'ablation.json'}")


def ablate(
    config: ConfigDict, workdir: Path, *, seeds: int, quiet: bool
) -> dict[str, dict[str, Any]]:
    """Run every variant with every seed.

    Args:
      config: of S4; its seed is the first of `seeds`.
      workdir: folder for all runs.
      seeds: how many.
      quiet: show no progress.

    Returns:
      For each variant 'dsc' ({class or 'average': {'mean', 'low', 'high'}}, interval over test
      patients with the slices of all seeds), 'gain' (of the average over supervised training,
      paired by patient), 'seeds' (average DSC of each) and 'best_rounds', as in `ablation.json`.

    Raises:
      ValueError: the data set has no labelled test split, or `launch.self_train` refuses.
    """
    keep_compiled(workdir)
    rows: dict[str, list[CaseRow]] = {name: [] for name in VARIANTS}
    per_seed: dict[str, list[float]] = {name: [] for name in VARIANTS}
    best: dict[str, list[int]] = {name: [] for name in VARIANTS}
    for seed in range(config.seed, config.seed + seeds):
        for name in VARIANTS:
            folder = workdir / f"seed_{seed}" / name
            variant = _variant(config, name, seed)
            if name in SAME_FIRST_ROUND:
                _share_first_round(folder.parent / SAME_FIRST_ROUND[name], folder, variant)
            print(f"\nseed {seed}, {name}: {MEANING[name]}", flush=True)
            summary = self_train(variant, folder, quiet=quiet)
            if summary[TEST] is None:
                raise ValueError(f"{config.data.name} has no labelled test split to compare on")
            cases = read_rows(folder / TEST, f"seed_{seed}/")
            rows[name] += cases
            per_seed[name].append(_mean_dsc(cases))
            best[name].append(summary["best_round"])
    results = {
        name: {
            "dsc": {k: v["dsc"] for k, v in summarize(rows[name])["standard"].items()},
            "gain": gain(rows[name], rows["supervised"]),
            "seeds": per_seed[name],
            "best_rounds": best[name],
            "paper": PAPER[name],
        }
        for name in VARIANTS
    }
    write_json(workdir / "ablation.json", results)
    return results


def gain(ours: Sequence[CaseRow], theirs: Sequence[CaseRow]) -> dict[str, float]:
    """Average DSC of `ours` minus that of `theirs`, with a paired bootstrap over patients.

    Returns:
      'mean', and 'low' and 'high' of the 95% interval.
    """
    patients = sorted({row["patient"] for row in ours} | {row["patient"] for row in theirs})
    rng = np.random.default_rng(0)
    shares = np.full(len(patients), 1 / len(patients))
    drawn = rng.multinomial(len(patients), shares, size=RESAMPLES)
    counts = np.vstack([np.ones(len(patients)), drawn])  # the first: everyone once
    values = _averages(ours, patients, counts) - _averages(theirs, patients, counts)
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return {"mean": float(values[0]), "low": float(low), "high": float(high)}


def table(results: dict[str, dict[str, Any]], names: Sequence[str]) -> str:
    """The results as aligned plain text."""
    head = [
        "",
        *names,
        "average [95% over patients]",
        "over supervised [95%]",
        "each seed",
        "paper",
    ]
    lines = [head]
    for variant, result in results.items():
        dsc = result["dsc"]
        average = dsc.get(AVERAGE, dsc[names[0]])
        lines.append(
            [
                f"{variant} {MEANING[variant]}",
                *(_number(dsc[name]["mean"]) for name in names),
                _interval(average, ""),
                "" if variant == "supervised" else _interval(result["gain"], "+"),
                " ".join(_number(value) for value in result["seeds"]),
                f"{result['paper']:.3f}",
            ]
        )
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([*text, "paper: average DSC of table 4 (supervised: table 6), Dataset_3"])


def _variant(config: ConfigDict, name: str, seed: int) -> ConfigDict:
    variant = config.copy_and_resolve_references()
    variant.update_from_flattened_dict(VARIANTS[name] | {"seed": seed})
    return variant


def _share_first_round(source: Path, target: Path, config: ConfigDict) -> None:
    """Give `target` the finished first round of `source` unless it has begun; files are linked."""
    first = target / "round_01"
    if first.exists() or not (source / "round_01" / "round.json").exists():
        return
    temporary = target / ".round_01.unfinished"
    shutil.rmtree(temporary, ignore_errors=True)
    leave = shutil.ignore_patterns("pseudo*", "label_seconds.json", "config.json")
    shutil.copytree(source / "round_01", temporary, copy_function=os.link, ignore=leave)
    setup.save_config(config, temporary)
    os.replace(temporary, first)


def _averages(rows: Sequence[CaseRow], patients: Sequence[str], counts: np.ndarray) -> np.ndarray:
    """Average over classes of the mean DSC, for each row of `counts` `[N, patients]`."""
    place = {name: k for k, name in enumerate(patients)}
    classes = sorted({row["class_name"] for row in rows})
    top, bottom = np.zeros((len(patients), len(classes))), np.zeros((len(patients), len(classes)))
    for row in rows:
        value = row["standard"]["dsc"]
        if value is not None:
            at = place[row["patient"]], classes.index(row["class_name"])
            top[at] += value
            bottom[at] += 1
    sums, defined = counts @ top, counts @ bottom
    return np.mean(np.where(defined > 0, sums / np.maximum(defined, 1), np.nan), axis=1)


def _mean_dsc(rows: Sequence[CaseRow]) -> float:
    patients = sorted({row["patient"] for row in rows})
    return float(_averages(rows, patients, np.ones((1, len(patients))))[0])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(value: dict[str, float | None], sign: str) -> str:
    if value["mean"] is None:
        return "-"
    mean, low, high = (f"{value[key]:{sign}.3f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
