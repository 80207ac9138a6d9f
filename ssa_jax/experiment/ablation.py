"""The parts of semi-supervised training compared, with the same seeds and steps (table 4)."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.files import remove, write_json
from ssa_jax.evaluation.metrics import CaseRow
from ssa_jax.evaluation.paired import difference, mean, scores_of
from ssa_jax.evaluation.summary import AVERAGE, interval_text, summarize
from ssa_jax.evaluation.text_table import format_rows
from ssa_jax.experiment import data
from ssa_jax.experiment.evaluation import read_rows
from ssa_jax.experiment.lock import in_use
from ssa_jax.experiment.rounds import self_train
from ssa_jax.experiment.run import Observer
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.workdir import CONFIG_FILE, write_settings

OVER, ETA, ROUNDS = "loss.class_weight_over", "self_train.eta", "self_train.max_rounds"
VARIANTS: dict[str, dict[str, Any]] = {  # fields of the settings that each one changes
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


def ablate(
    settings: Settings,
    workdir: Path,
    *,
    seeds: int,
    observer: Observer,
    quiet: bool,
    echo: Callable[[str], Any],
) -> dict[str, dict[str, Any]]:
    """Run every variant with every seed, and write `ablation.json`.

    Args:
        settings: of S4; their seed is the first of `seeds`.
        workdir: folder for all runs; W/seed_N/VARIANT holds one of `rounds.self_train`.
        seeds: number of seeds, 1 or more.
        observer: of the rounds of each run, see `rounds.Observer`.
        quiet: show no progress.
        echo: prints a line about each run.

    Returns:
        For each variant 'dsc' ({class or 'average': {'mean', 'low', 'high'}}, interval over test
        patients with the slices of all seeds), 'gain' (of the average over supervised training,
        paired by patient), 'seeds' (average DSC of each) and 'best_rounds', as in `ablation.json`.

    Raises:
        ValueError: the data set has no labelled test split, or as `rounds.self_train`.
        OSError: a file cannot be read or written, or another process uses the workdir.
    """
    with in_use(workdir):
        results = _run_variants(settings, workdir, seeds, observer, quiet, echo)
        write_json(workdir / "ablation.json", results)
    return results


def _run_variants(
    settings: Settings,
    workdir: Path,
    seeds: int,
    observer: Observer,
    quiet: bool,
    echo: Callable[[str], Any],
) -> dict[str, dict[str, Any]]:
    """Run every variant with every seed and summarise each variant."""
    rows: dict[str, list[CaseRow]] = {name: [] for name in VARIANTS}
    per_seed: dict[str, list[float | None]] = {name: [] for name in VARIANTS}
    best: dict[str, list[int]] = {name: [] for name in VARIANTS}
    for seed in range(settings.seed, settings.seed + seeds):
        for name in VARIANTS:
            folder = workdir / f"seed_{seed}" / name
            variant = settings.replace(VARIANTS[name] | {"seed": seed})
            if name in SAME_FIRST_ROUND:
                _share_first_round(folder.parent / SAME_FIRST_ROUND[name], folder, variant)
            echo(f"\nseed {seed}, {name}: {MEANING[name]}")
            summary = self_train(variant, folder, observer=observer, quiet=quiet)
            if summary[data.TEST] is None:
                raise ValueError(
                    f"{settings.data.name}: has no labelled test split, expected one to compare "
                    "the variants on; choose another data.name"
                )
            cases = read_rows(folder / data.TEST, f"seed_{seed}/")
            rows[name] += cases
            per_seed[name].append(mean(scores_of(cases)))
            best[name].append(summary["best_round"])
    return {
        name: {
            "dsc": {k: v["dsc"] for k, v in summarize(rows[name])["standard"].items()},
            "gain": difference(scores_of(rows[name]), scores_of(rows["supervised"])),
            "seeds": per_seed[name],
            "best_rounds": best[name],
            "paper": PAPER[name],
        }
        for name in VARIANTS
    }


def ablation_table(results: dict[str, dict[str, Any]], names: Sequence[str]) -> str:
    """Format the results as aligned plain text, with the paper's figures.

    Args:
        results: what `ablate` returns.
        names: of the classes.
    """
    head = ["", *names, "average [95% over patients]", "over supervised [95%]", "each seed"]
    lines = [[*head, "paper"]]
    for variant, result in results.items():
        dsc = result["dsc"]
        average = dsc.get(AVERAGE, dsc[names[0]])
        lines.append(
            [
                f"{variant} {MEANING[variant]}",
                *(_number(dsc[name]["mean"]) for name in names),
                interval_text(average, ".3f"),
                "" if variant == "supervised" else interval_text(result["gain"], "+.3f"),
                " ".join(_number(value) for value in result["seeds"]),
                f"{result['paper']:.3f}",
            ]
        )
    note = "paper: average DSC of table 4 (supervised: table 6), Dataset_3"
    return "\n".join([*format_rows(lines), note])


def _share_first_round(source: Path, target: Path, settings: Settings) -> None:
    """Link the finished first round of `source` into `target`, unless that has begun its own."""
    first = target / "round_01"
    if first.exists() or not (source / "round_01" / "round.json").exists():
        return
    temporary = target / ".round_01.unfinished"
    remove(temporary)
    leave = shutil.ignore_patterns("pseudo*", "label_seconds.json", CONFIG_FILE)
    shutil.copytree(source / "round_01", temporary, copy_function=os.link, ignore=leave)
    write_settings(settings, temporary)
    os.replace(temporary, first)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
