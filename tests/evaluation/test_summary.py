"""Means over cases, their bootstrap intervals and the table."""

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ssa_jax.evaluation.metrics import CaseRow, case_rows
from ssa_jax.evaluation.summary import format_table, summarize

EMPTY, FULL = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
FULL[1:3, 1:3] = True


def row(case: str, patient: str, dsc: float, class_name: str = "lesion", **more: Any) -> CaseRow:
    standard: Any = {
        "dsc": dsc,
        "hd95": 1.0,
        "nsd": 0.5,
        "mae": 0.1,
        "unit": "mm",
        "tolerance": 3.0,
        "outcome": "scored",
        "intersection": 10,
        "truth_size": 20,
        "prediction_size": 20,
    }
    return {
        "case": case,
        "patient": patient,
        "class_name": class_name,
        "standard": standard | more,
    }


def test_summary_counts_empties_and_keeps_misses() -> None:
    pairs = [(EMPTY, EMPTY), (FULL, EMPTY), (EMPTY, FULL), (FULL, FULL)]
    rows = [
        case_rows(
            t.astype(int), p.astype(int), case=str(i), patient="a", class_names=["x"], spacing=None
        )[0]
        for i, (t, p) in enumerate(pairs)
    ]
    summary = summarize(rows)
    block = summary["standard"]["x"]
    assert block["dsc"]["mean"] == pytest.approx(1 / 3)  # of the three that count
    assert block["hd95"]["mean"] == pytest.approx(2 * 50 / 3)  # two diagonals of 30 x 40
    assert block["hd95_found"]["mean"] == 0.0
    assert block["dsc_pooled"]["mean"] == pytest.approx(2 * 4 / 16)
    counts = (block["cases"], block["excluded"], block["misses"], block["false_alarms"])
    assert counts == (4, 1, 1, 1)
    assert summarize(rows[:1])["standard"]["x"]["dsc"] == {"mean": None, "low": None, "high": None}


def test_pooled_dice_weighs_by_size() -> None:
    rows = [
        row("a", "1", 1.0, intersection=1, truth_size=1, prediction_size=1),
        row("b", "2", 0.0, intersection=0, truth_size=50, prediction_size=48),
    ]
    block = summarize(rows)["standard"]["lesion"]
    assert block["dsc"]["mean"] == 0.5
    assert block["dsc_pooled"]["mean"] == pytest.approx(0.02)


def test_one_patient_has_no_interval() -> None:
    rows = [row("a", "p", 0.2), row("b", "p", 0.6)]
    summary = summarize(rows)
    interval = summary["standard"]["lesion"]["dsc"]
    assert interval == {"mean": pytest.approx(0.4), "low": None, "high": None}
    head, _, line = format_table(summary).splitlines()
    assert head.startswith("standard: mean of one patient, without interval;")
    assert line.split()[:2] == ["lesion", "0.4000"]
    assert "[" not in line


def test_no_interval_of_a_metric_that_one_of_two_patients_defines() -> None:
    rows = [row("a", "p", 0.2, hd95=8.0), row("b", "q", 0.0, hd95=50.0, outcome="miss")]
    block = summarize(rows)["standard"]["lesion"]
    assert block["hd95_found"] == {"mean": 8.0, "low": None, "high": None}
    assert block["hd95"] == {"mean": 29.0, "low": 8.0, "high": 50.0}


def test_resamples_patients_not_cases() -> None:
    # Two patients, all 0 and all 1: the mean of a resample is 0, 1/2 or 1 with 1/4, 1/2, 1/4.
    rows = [row(f"a{i}", "a", 0.0) for i in range(10)] + [row(f"b{i}", "b", 1.0) for i in range(10)]
    wide = summarize(rows, confidence=0.6)["standard"]["lesion"]["dsc"]
    narrow = summarize(rows, confidence=0.4)["standard"]["lesion"]["dsc"]
    assert (wide["low"], wide["mean"], wide["high"]) == (0.0, 0.5, 1.0)
    assert (narrow["low"], narrow["high"]) == (0.5, 0.5)


def test_patients_with_more_cases_weigh_more() -> None:
    rows = [row(f"a{i}", "a", 0.0) for i in range(3)] + [row("b", "b", 1.0)]
    middle = summarize(rows, confidence=0.4)["standard"]["lesion"]["dsc"]
    assert middle["mean"] == middle["low"] == middle["high"] == 0.25


def test_interval_of_a_known_distribution_and_of_scipy() -> None:
    values = np.random.default_rng(3).normal(0.7, 0.1, 100)
    rows = [row(str(i), str(i), float(v)) for i, v in enumerate(values)]
    interval = summarize(rows, confidence=0.9)["standard"]["lesion"]["dsc"]
    error = values.std() / 10
    expected = stats.norm.interval(0.9, values.mean(), error)
    other = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, confidence_level=0.9, method="percentile", rng=5
    ).confidence_interval
    for found, normal, scipy in zip(
        (interval["low"], interval["high"]), expected, other, strict=True
    ):
        assert found == pytest.approx(normal, abs=0.15 * error)
        assert found == pytest.approx(scipy, abs=0.15 * error)


def test_average_shares_the_draws_of_its_classes() -> None:
    # Opposite values per patient: each class varies, their average never does.
    rows = [row(str(i), str(i), i / 9, "GGO") for i in range(10)]
    rows += [row(str(i), str(i), 1 - i / 9, "consolidation") for i in range(10)]
    block = summarize(rows)["standard"]
    assert block["GGO"]["dsc"]["high"] - block["GGO"]["dsc"]["low"] > 0.2
    average = block["average"]["dsc"]
    assert (average["low"], average["high"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_deterministic_serialisable_and_seeded() -> None:
    rows = [row(str(i), str(i // 2), i / 20) for i in range(20)]
    first = summarize(rows, seed=1)
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert summarize(rows[::-1], seed=1) == first
    assert summarize(rows, seed=2)["standard"] != first["standard"]


def test_the_interval_is_said_to_be_over_patients_where_these_are_known() -> None:
    known, unknown = ([row(str(i), p, i / 4) for i, p in enumerate(ps)] for ps in ("aabb", "0123"))
    heads = [format_table(summarize(rows)).splitlines()[0] for rows in (known, unknown)]
    assert "95% interval over 2 patients]" in heads[0] and "over 4 cases]" in heads[1]


def test_table_is_aligned_and_says_unit_and_counts() -> None:
    rows = [row(str(i), str(i), i / 4, name) for name in ("GGO", "consolidation") for i in range(4)]
    text = format_table(summarize(rows))
    head, columns, *lines = text.splitlines()
    assert head.startswith("standard: mean [95% interval over 4 cases]")
    assert "HD95 (mm)" in columns and "HD95 of found" in columns
    assert "NSD at 3 mm" in columns
    assert [line.split()[0] for line in lines] == ["GGO", "consolidation", "average"]
    start = columns.index("DSC")
    assert all(line[start - 1] == " " and line[start:].startswith("0.3750 [") for line in lines)


def test_summarize_refuses() -> None:
    with pytest.raises(ValueError, match="no cases"):
        summarize([])
    with pytest.raises(ValueError, match="twice"):
        summarize([row("a", "p", 1.0), row("a", "p", 1.0)])
    with pytest.raises(ValueError, match="units"):
        summarize([row("a", "p", 1.0), row("b", "p", 1.0, unit="px")])
    with pytest.raises(ValueError, match="average"):
        summarize([row("a", "p", 1.0, "average")])
    with pytest.raises(ValueError, match="confidence"):
        summarize([row("a", "p", 1.0)], confidence=95)
