"""Scores paired by case: difference of means with interval, signed-rank test, Holm's correction.

The bootstrap draws patients, each with all its cases, and the test averages the cases of a patient:
slices of one patient are no independent observations.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from ssa_jax.evaluation.metrics import CaseRow
from ssa_jax.evaluation.summary import AVERAGE

RESAMPLES = 2000
_DECIMALS = 12  # of differences of cases, so that equal ones are 0 or ties

Interval = dict[str, float | None]  # "mean", "low" and "high"


class Score(NamedTuple):
    """A metric of one case and class, or a difference of two networks in it.

    Attributes:
        case: name of the slice or volume.
        patient: of the case.
        class_name: of the class.
        value: None where it is undefined, as of a class in neither truth nor prediction.
        share: of the repetitions that `value` is the mean of, those that define it, the weight of
            the case in means; 1 where there is one alone.
    """

    case: str
    patient: str
    class_name: str
    value: float | None
    share: float = 1.0


def scores_of(rows: Sequence[CaseRow], metric: str = "dsc") -> list[Score]:
    """Take one metric out of the `standard` block of each row.

    Args:
        rows: of `metrics.case_rows`.
        metric: 'dsc', 'hd95', 'nsd' or 'mae'.
    """
    return [
        Score(row["case"], row["patient"], row["class_name"], row["standard"][metric])  # type: ignore[literal-required]
        for row in rows
    ]


def mean(scores: Sequence[Score]) -> float | None:
    """Average over the cases of each class, weighted by their share, then over the classes.

    Args:
        scores: of any number of classes.

    Returns:
        The mean of the classes' means; None where a class has no value.
    """
    patients = _patients(scores)
    value = float(_averages(scores, patients, np.ones((1, len(patients))))[0])
    return None if math.isnan(value) else value


def mean_interval(scores: Sequence[Score]) -> Interval:
    """Compute `mean` with its 95% interval by bootstrap over patients.

    Args:
        scores: of any number of classes.

    Returns:
        'mean', 'low' and 'high'; None where undefined, and no interval for one patient.
    """
    patients = _patients(scores)
    return _interval(_averages(scores, patients, _counts(patients)), patients)


def difference(ours: Sequence[Score], theirs: Sequence[Score]) -> Interval:
    """Compute the difference of two networks' `mean`, paired by patient.

    Both means are taken of the same resamples of patients.

    Args:
        ours: scores of one network.
        theirs: scores of another in the same cases.

    Returns:
        'mean' (`ours` minus `theirs`), and 'low' and 'high' of its 95% interval by bootstrap over
        patients; None where undefined, and no interval for one patient.
    """
    patients = _patients([*ours, *theirs])
    counts = _counts(patients)
    values = _averages(ours, patients, counts) - _averages(theirs, patients, counts)
    return _interval(values, patients)


def case_differences(ours: Sequence[Score], theirs: Sequence[Score], *, best: float) -> list[Score]:
    """Compute the difference of two networks in each case and class.

    Args:
        ours: scores of one network.
        theirs: scores of another in the same cases and classes.
        best: value of the metric for a perfect prediction. It stands for a network (or the share
            of its repetitions) that rightly found nothing where the other raised a false alarm,
            which no mean includes.

    Returns:
        `ours` minus `theirs`, in the order of `ours`; None where neither is defined.
    """
    other = {(score.case, score.class_name): score for score in theirs}
    result = []
    for score in ours:
        pair = score, other[score.case, score.class_name]
        if all(one.value is None for one in pair):
            value = None
        else:
            first, second = (_filled(one, best) for one in pair)
            value = round(first - second, _DECIMALS)
        result.append(score._replace(value=value, share=1.0))
    return result


def class_averages(scores: Sequence[Score]) -> list[Score]:
    """Average the classes of each case.

    Args:
        scores: of any number of cases and classes.

    Returns:
        One for each case, of the class 'average'; of the classes that are defined in the case, None
        where none is.
    """
    by_case: dict[tuple[str, str], list[float]] = {}
    for score in scores:
        values = by_case.setdefault((score.case, score.patient), [])
        if score.value is not None:
            values.append(score.value)
    return [
        Score(case, patient, AVERAGE, float(np.mean(values)) if values else None)
        for (case, patient), values in by_case.items()
    ]


def by_patient(scores: Sequence[Score]) -> dict[str, float]:
    """Average the values of each patient that has one.

    Args:
        scores: of one class.
    """
    values: dict[str, list[float]] = {}
    for score in scores:
        if score.value is not None:
            values.setdefault(score.patient, []).append(score.value)
    return {patient: float(np.mean(found)) for patient, found in values.items()}


def signed_rank_p(differences: Sequence[float]) -> float | None:
    """Test by Wilcoxon's signed ranks whether differences lie around 0.

    Zeros are left out. Without ties p is exact for 50 differences or fewer, with ties for 13;
    beyond, it is by the normal approximation.

    Args:
        differences: one for each patient.

    Returns:
        Two-sided p, 1 where all differences are 0; None for fewer than two differences.
    """
    if len(differences) < 2:
        return None
    rounded = np.round(np.asarray(differences, np.float64), _DECIMALS)
    rounded = rounded[rounded != 0]
    return float(stats.wilcoxon(rounded).pvalue) if rounded.size else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number by Holm's step-down method (Holm, 1979).

    Args:
        p_values: of all comparisons.

    Returns:
        The corrected values, in the same order: the k-th smallest of m times m - k + 1, at least as
        large as the one before it and at most 1.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - place)))
        corrected[index] = largest
    return corrected


def fewest_patients(scores: Sequence[Score]) -> int:
    """Count the patients that have a value, in the class where they are fewest.

    Args:
        scores: of any number of classes.
    """
    patients: dict[str, set[str]] = {}
    for score in scores:
        found = patients.setdefault(score.class_name, set())
        if score.value is not None:
            found.add(score.patient)
    return min(map(len, patients.values()))


def _filled(score: Score, best: float) -> float:
    """Return the value with the best one in place of repetitions that are undefined."""
    if score.value is None:
        return best
    return score.value * score.share + best * (1 - score.share)


def _patients(scores: Sequence[Score]) -> list[str]:
    return sorted({score.patient for score in scores})


def _counts(patients: Sequence[str]) -> np.ndarray:
    """Draw how often each resample holds each patient; the first row holds each once."""
    shares = np.full(len(patients), 1 / len(patients))
    drawn = np.random.default_rng(0).multinomial(len(patients), shares, size=RESAMPLES)
    return np.vstack([np.ones(len(patients)), drawn])


def _averages(scores: Sequence[Score], patients: Sequence[str], counts: np.ndarray) -> np.ndarray:
    """Average the mean over classes, for each of N resamples `counts` `[N, patients]`."""
    place = {name: k for k, name in enumerate(patients)}
    classes = sorted({score.class_name for score in scores})
    top, bottom = np.zeros((len(patients), len(classes))), np.zeros((len(patients), len(classes)))
    for score in scores:
        if score.value is not None:
            at = place[score.patient], classes.index(score.class_name)
            top[at] += score.value * score.share
            bottom[at] += score.share
    sums, defined = counts @ top, counts @ bottom
    return np.mean(np.where(defined > 0, sums / np.maximum(defined, 1), np.nan), axis=1)


def _interval(values: np.ndarray, patients: Sequence[str]) -> Interval:
    """Return the first value and the percentiles of the others, which are of resamples."""
    if math.isnan(values[0]):
        return {"mean": None, "low": None, "high": None}
    if len(patients) == 1:
        return {"mean": float(values[0]), "low": None, "high": None}
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return {"mean": float(values[0]), "low": float(low), "high": float(high)}
