"""Networks compared with a reference in the same cases: numbers, their table, what limits them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ssa_jax.evaluation.paired import (
    Score,
    by_patient,
    case_differences,
    class_averages,
    difference,
    fewest_patients,
    holm,
    mean,
    mean_interval,
    signed_rank_p,
)
from ssa_jax.evaluation.summary import AVERAGE, interval_text

SIGNIFICANT = 0.05


class Metric(NamedTuple):
    """How a metric is named, judged and printed.

    Attributes:
        title: its name.
        best: its value for a perfect prediction; 1 where more is better, 0 where less is.
        style: format of its values.
    """

    title: str
    best: float
    style: str


METRICS = {
    "dsc": Metric("DSC", 1.0, ".3f"),
    "hd95": Metric("HD95", 0.0, ".1f"),
    "nsd": Metric("NSD", 1.0, ".3f"),
    "mae": Metric("MAE", 0.0, ".4f"),
}


class Compared(NamedTuple):
    """The scores of a network.

    Attributes:
        scores: one for each case and class.
        repetitions: the scores of each of its repetitions (seeds); none where there is one alone.
    """

    scores: Sequence[Score]
    repetitions: Sequence[Sequence[Score]] = ()


def compare(networks: Mapping[str, Compared], metric: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Compare networks with the first, in each class and in the average of the classes.

    Args:
        networks: by name, the reference first; all with scores of the same cases and classes.
        metric: a key of `METRICS`.

    Returns:
        For each class (and 'average' where there are several) and each network: 'score' ('mean',
        'low' and 'high'), 'each' (the mean of each repetition), and but for the reference
        'difference' (of the means, paired by patient), 'p' (signed ranks of the patients' mean
        differences), 'p_holm' (corrected for all p), 'better', 'equal' and 'worse' (cases),
        'patients' (that have a difference) and 'by_case' (the difference in each case; None where
        both are undefined). Intervals are None where fewer than two patients define a class.
    """
    names = list(dict.fromkeys(score.class_name for score in next(iter(networks.values())).scores))
    result = {name: _compare_class(networks, metric, [name]) for name in names}
    if len(names) > 1:
        result[AVERAGE] = _compare_class(networks, metric, names)
    tested = [row for rows in result.values() for row in rows.values() if row.get("p") is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    return result


def table_rows(
    result: Mapping[str, Mapping[str, Mapping[str, Any]]], metric: str, reference: str
) -> list[list[str]]:
    """Compose the table: a header, then a row for each class and network.

    Args:
        result: of `compare`.
        metric: a key of `METRICS`.
        reference: name of the first network.
    """
    style = METRICS[metric].style
    repeated = any(row["each"] for rows in result.values() for row in rows.values())
    head = ["class", "network", f"{METRICS[metric].title} [95%]", f"minus {reference} [95%]"]
    head += ["p", "p (Holm)", "better / equal / worse"]
    lines = [[*head, *(["each path"] if repeated else [])]]
    for class_name, rows in result.items():
        for network, row in rows.items():
            line = ["" if network != reference else class_name, network]
            line += [interval_text(row["score"], style)]
            if network == reference:
                line += [""] * 4
            else:
                line += [interval_text(row["difference"], f"+{style}")]
                line += [_p_text(row["p"]), _p_text(row["p_holm"])]
                line += [" / ".join(str(row[name]) for name in ("better", "equal", "worse"))]
            each = " ".join("-" if v is None else f"{v:{style}}" for v in row["each"])
            lines.append([*line, *([each] if repeated else [])])
    return lines


def notes_of(
    result: Mapping[str, Mapping[str, Mapping[str, Any]]], networks: Mapping[str, Compared]
) -> list[str]:
    """Say in sentences what limits the intervals and tests.

    Args:
        result: of `compare`.
        networks: what it was given.
    """
    scores = next(iter(networks.values())).scores
    cases, patients = len({s.case for s in scores}), len({s.patient for s in scores})
    notes = [_floor_note(result)] if patients > 1 else ["one patient: no intervals and no tests"]
    if 1 < patients < cases:
        notes.append(
            f"{cases} cases of {patients} patients: the bootstrap draws all cases of a patient "
            "together, and the test takes their mean"
        )
    elif 1 < patients == cases:
        notes.append(
            "each case counts as a patient of its own; if several are of one patient whom the "
            "tables do not name, the intervals are too narrow and p is too small"
        )
    notes.append(_false_alarm_note(networks))
    return [note for note in notes if note]


def _compare_class(
    networks: Mapping[str, Compared], metric: str, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Compare networks in one class, or in the average of several."""
    rows: dict[str, dict[str, Any]] = {}
    reference: list[Score] | None = None
    for network, compared in networks.items():
        ours = _of(compared.scores, names)
        row: dict[str, Any] = {
            "score": mean_interval(ours),
            "each": [mean(_of(scores, names)) for scores in compared.repetitions],
        }
        if fewest_patients(ours) < 2:
            row["score"] |= {"low": None, "high": None}
        if reference is None:
            reference = ours
        else:
            row |= _paired(ours, reference, METRICS[metric].best)
        rows[network] = row
    return rows


def _paired(ours: Sequence[Score], theirs: Sequence[Score], best: float) -> dict[str, Any]:
    """Compare one network with the reference."""
    points = class_averages(case_differences(ours, theirs, best=best))
    values = [score.value for score in points if score.value is not None]
    of_patients = by_patient(points)
    gains = [value if best else -value for value in values]
    found = difference(ours, theirs)
    if min(fewest_patients(ours), fewest_patients(theirs)) < 2:
        found |= {"low": None, "high": None}
    return {
        "difference": found,
        "p": signed_rank_p(list(of_patients.values())),
        "p_holm": None,
        "better": sum(value > 0 for value in gains),
        "equal": sum(value == 0 for value in gains),
        "worse": sum(value < 0 for value in gains),
        "patients": len(of_patients),
        "by_case": {score.case: score.value for score in points},
    }


def _of(scores: Sequence[Score], names: Sequence[str]) -> list[Score]:
    return [score for score in scores if score.class_name in names]


def _floor_note(result: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Say where the patients are too few for the test to reach the usual level."""
    patients = {
        name: min(row["patients"] for row in rows.values() if "p" in row)
        for name, rows in result.items()
    }
    tests = sum(row.get("p") is not None for rows in result.values() for row in rows.values())
    few = {name: n for name, n in patients.items() if tests * _smallest_p(n) > SIGNIFICANT}
    if not few:
        return ""
    least = min(few.values())
    where = ", ".join(f"{name} {n}" for name, n in few.items())
    return (
        f"too few patients for p to reach {SIGNIFICANT} ({where}): the signed-rank test of {least} "
        f"gives {_smallest_p(least):.3f} at least, and Holm's correction multiplies the smallest "
        f"by {tests}; go by the intervals, or compare more patients"
    )


def _smallest_p(patients: int) -> float:
    """Return the smallest two-sided p of the signed-rank test: all differences of one sign."""
    return min(1.0, 2.0 ** (1 - patients))


def _false_alarm_note(networks: Mapping[str, Compared]) -> str:
    """Say how often only some networks found a class that is not there."""
    shares: dict[tuple[str, str], set[float]] = {}
    for compared in networks.values():
        for score in compared.scores:
            share = 0.0 if score.value is None else score.share
            shares.setdefault((score.case, score.class_name), set()).add(share)
    mixed = sum(len(seen) > 1 for seen in shares.values())
    if not mixed:
        return ""
    return (
        f"false alarms that not all networks share: {mixed}; each counts in the means of those "
        "that raised it alone, and in tests, numbers of cases and dots against a perfect score"
    )


def _p_text(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.001" if p < 0.0005 else f"{p:.3f}"
