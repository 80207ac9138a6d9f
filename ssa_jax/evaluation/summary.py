"""Means of the metrics over many cases, with intervals, and their table."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ssa_jax.evaluation.metrics import CaseRow
from ssa_jax.evaluation.text_table import format_rows

AVERAGE = "average"
_STANDARD_METRICS = ("dsc", "hd95", "nsd", "mae")
_COMPAT_METRICS = ("dsc", "dsc_256", "hausdorff", "hausdorff_rows", "mae", "nsd")
# One (patient, numerator, denominator) per row. A metric is the sum of the numerators divided by
# the sum of the denominators, so that the bootstrap treats a mean and a pooled Dice alike.
_Terms = list[tuple[str, float, float]]
# (value of all cases, values of the resamples [B]); nan where no case defines it.
_Drawn = tuple[float, np.ndarray]


def summarize(
    cases: Sequence[CaseRow], *, seed: int = 0, confidence: float = 0.95, resamples: int = 2000
) -> dict[str, Any]:
    """Average the metrics over cases, with percentile bootstrap intervals over patients.

    A resample draws as many patients as there are, with replacement, each with all its cases.
    All classes, metrics and blocks share the draws. A metric that only one patient defines has no
    interval.

    Args:
        cases: rows of `case_rows`, of any number of cases and classes.
        seed: of the draws; equal seeds give equal intervals.
        confidence: of the interval, in (0, 1).
        resamples: number of bootstrap draws, 1 or more.

    Returns:
        A JSON-serialisable mapping: "unit", "tolerance", "cases", "patients", "confidence",
        "resamples", "seed"; "standard": {class: {"cases", "excluded" (both masks empty),
        "misses", "false_alarms", and "dsc", "dsc_pooled", "hd95" (a miss or false alarm counts
        as the image's diagonal), "hd95_found" (of the other cases alone), "nsd", "mae", each
        {"mean", "low", "high"}}}; "paper_compat" likewise where every row has it. With more than
        one class there is also "average", the mean of the classes' values. A value that no case
        defines is None, and so is an average over it; so are "low" and "high" of one patient.

    Raises:
        ValueError: no cases, the same case and class twice, rows of different units or
            tolerances, a class called "average", confidence outside (0, 1), no resamples.
    """
    unit, tolerance = _check_cases(cases)
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            f"confidence is {confidence} and resamples is {resamples}; expected confidence in "
            "(0, 1) and 1 or more resamples"
        )
    patients = sorted({row["patient"] for row in cases})
    rng = np.random.default_rng(seed)
    shares = np.full(len(patients), 1 / len(patients))
    draws = rng.multinomial(len(patients), shares, size=resamples).astype(np.float64)
    classes: dict[str, list[CaseRow]] = {}
    for row in cases:
        classes.setdefault(row["class_name"], []).append(row)
    summary: dict[str, Any] = {
        "unit": unit,
        "tolerance": tolerance,
        "cases": len({row["case"] for row in cases}),
        "patients": len(patients),
        "confidence": confidence,
        "resamples": resamples,
        "seed": seed,
    }
    blocks: dict[str, Callable[[list[CaseRow]], dict[str, _Terms]]] = {"standard": _standard_terms}
    if all("paper_compat" in row for row in cases):
        blocks["paper_compat"] = _compat_terms
    for block, terms in blocks.items():
        values = {
            name: {metric: _draw(term, patients, draws) for metric, term in terms(rows).items()}
            for name, rows in classes.items()
        }
        summary[block] = {
            name: {"cases": len(classes[name])} | _intervals(drawn, confidence)
            for name, drawn in values.items()
        }
        if len(classes) > 1:
            summary[block][AVERAGE] = _intervals(_average(list(values.values())), confidence)
    for name, rows in classes.items():
        summary["standard"][name] |= _empty_counts(rows)
    return summary


def format_table(summary: Mapping[str, Any]) -> str:
    """Format both blocks of a summary as aligned plain text, `mean [low, high]` in each cell.

    Args:
        summary: what `summarize` returns.
    """
    unit, percent = summary["unit"], f"{100 * summary['confidence']:g}%"
    head = "mean of one patient, without interval"
    if summary["patients"] > 1:
        # Unknown patients are counted as if each case were of another one.
        what = "cases" if summary["patients"] == summary["cases"] else "patients"
        head = f"mean [{percent} interval over {summary['patients']} {what}]"
    standard = {
        "DSC": "dsc",
        "pooled DSC": "dsc_pooled",
        f"HD95 ({unit})": "hd95",
        "HD95 of found": "hd95_found",
        f"NSD at {summary['tolerance']:g} {unit}": "nsd",
        "MAE": "mae",
        "cases": "cases",
        "excluded": "excluded",
        "misses": "misses",
        "false alarms": "false_alarms",
    }
    parts = [
        f"standard: {head}; excluded: no lesion in truth and prediction; in HD95 a miss or false "
        "alarm counts as the image's diagonal, HD95 of found leaves it out"
    ]
    parts += _table(summary["standard"], standard)
    if "paper_compat" in summary:
        compat = {
            "DSC": "dsc",
            "Dice, 256 thresholds": "dsc_256",
            "Hausdorff x 0.95 (px)": "hausdorff",
            "of rows x 0.95": "hausdorff_rows",
            "NSD at 3 px": "nsd",
            "MAE": "mae",
            "cases": "cases",
        }
        parts += ["", f"paper_compat: {head}; only for comparison with the paper's tables"]
        parts += _table(summary["paper_compat"], compat)
    return "\n".join(parts)


def interval_text(value: Mapping[str, float | None], style: str) -> str:
    """Format a mean with its interval as `mean [low, high]`.

    Args:
        value: "mean", "low" and "high"; without "low" there is no interval, without "mean" no
            value, a dash.
        style: format of each number, such as '.3f'.
    """
    mean, low, high = (value[name] for name in ("mean", "low", "high"))
    if mean is None:
        return "-"
    return f"{mean:{style}}" + ("" if low is None else f" [{low:{style}}, {high:{style}}]")


def _check_cases(cases: Sequence[CaseRow]) -> tuple[str, float]:
    """Return the unit and tolerance of all rows."""
    if not cases:
        raise ValueError("no cases to summarise, expected one or more; the split is empty")
    keys = [(row["case"], row["class_name"]) for row in cases]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(
            f"case {twice[0]} occurs twice for class {twice[1]}; give each case its own name"
        )
    if any(name == AVERAGE for _, name in keys):
        raise ValueError(
            f"a class is called {AVERAGE!r}, the name of the mean of the classes; rename the class"
        )
    units = sorted({(row["standard"]["unit"], row["standard"]["tolerance"]) for row in cases})
    if len(units) > 1:
        raise ValueError(
            f"cases have the units and tolerances {units}, expected one of each; summarise cases "
            "with and without spacing separately"
        )
    return units[0]


def _standard_terms(rows: list[CaseRow]) -> dict[str, _Terms]:
    terms: dict[str, _Terms] = {}
    for metric in _STANDARD_METRICS:
        values = [(row["patient"], row["standard"][metric]) for row in rows]  # type: ignore[literal-required]
        terms[metric] = [(who, value, 1.0) for who, value in values if value is not None]
    terms["hd95_found"] = [
        (row["patient"], row["standard"]["hd95"], 1.0)
        for row in rows
        if row["standard"]["outcome"] == "scored" and row["standard"]["hd95"] is not None
    ]
    terms["dsc_pooled"] = [
        (
            row["patient"],
            2.0 * row["standard"]["intersection"],
            float(row["standard"]["truth_size"] + row["standard"]["prediction_size"]),
        )
        for row in rows
    ]
    return terms


def _compat_terms(rows: list[CaseRow]) -> dict[str, _Terms]:
    return {
        metric: [(row["patient"], row["paper_compat"][metric], 1.0) for row in rows]
        for metric in _COMPAT_METRICS
    }


def _draw(terms: _Terms, patients: list[str], draws: np.ndarray) -> _Drawn:
    """Compute a metric of all cases and of the resamples; `draws` are counts `[B, patients]`.

    The resamples of a metric that only one patient defines are nan.
    """
    place = {patient: index for index, patient in enumerate(patients)}
    top, bottom = np.zeros(len(patients)), np.zeros(len(patients))
    for patient, numerator, denominator in terms:
        top[place[patient]] += numerator
        bottom[place[patient]] += denominator
    tops, bottoms = draws @ top, draws @ bottom
    drawn = np.full(len(draws), np.nan)
    if np.count_nonzero(bottom) > 1:
        np.divide(tops, bottoms, out=drawn, where=bottoms > 0)
    return (float(top.sum() / bottom.sum()) if bottom.any() else math.nan), drawn


def _average(classes: list[dict[str, _Drawn]]) -> dict[str, _Drawn]:
    return {
        metric: (
            float(np.mean([drawn[metric][0] for drawn in classes])),
            np.mean([drawn[metric][1] for drawn in classes], axis=0),
        )
        for metric in classes[0]
    }


def _intervals(drawn: dict[str, _Drawn], confidence: float) -> dict[str, dict[str, float | None]]:
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    result: dict[str, dict[str, float | None]] = {}
    for metric, (value, resampled) in drawn.items():
        known = resampled[~np.isnan(resampled)]
        result[metric] = {"mean": None if math.isnan(value) else value, "low": None, "high": None}
        if known.size and not math.isnan(value):
            low, high = np.percentile(known, tails)
            result[metric] |= {"low": float(low), "high": float(high)}
    return result


def _empty_counts(rows: list[CaseRow]) -> dict[str, int]:
    outcomes = [row["standard"]["outcome"] for row in rows]
    return {
        "excluded": outcomes.count("both_empty"),
        "misses": outcomes.count("miss"),
        "false_alarms": outcomes.count("false_alarm"),
    }


def _table(block: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    lines = [["class", *columns]]
    for name, entry in block.items():
        lines.append([name, *(_cell(entry.get(key, "")) for key in columns.values())])
    return format_rows(lines)


def _cell(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    mean = value["mean"] or 0.0
    return interval_text(value, f".{1 if mean >= 10 else 2 if mean >= 2 else 4}f")
