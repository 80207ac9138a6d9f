"""Paired differences: means and intervals, the signed-rank test, Holm's correction."""

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from ssa_jax.evaluation.paired import (
    RESAMPLES,
    Score,
    by_patient,
    case_differences,
    class_averages,
    difference,
    fewest_patients,
    holm,
    mean,
    mean_interval,
    scores_of,
    signed_rank_p,
)
from ssa_jax.evaluation.summary import summarize
from tests.evaluation.test_summary import row


def scores(values: dict[str, float | None], class_name: str = "lesion") -> list[Score]:
    """Scores of cases named PATIENT.NUMBER."""
    return [Score(case, case.partition(".")[0], class_name, v) for case, v in values.items()]


OURS = scores({"p.1": 0.5, "p.2": 0.7, "q.1": 0.9}) + scores(
    {"p.1": 0.2, "p.2": None, "q.1": 0.4}, "other"
)
THEIRS = scores({"p.1": 0.4, "p.2": 0.8, "q.1": 0.6}) + scores(
    {"p.1": 0.1, "p.2": 0.0, "q.1": 0.2}, "other"
)


def test_the_mean_of_the_classes_means():
    assert mean(OURS) == pytest.approx(((0.5 + 0.7 + 0.9) / 3 + (0.2 + 0.4) / 2) / 2)
    assert mean(scores({"p": None})) is None
    assert mean([*OURS, Score("p.1", "p", "never", None)]) is None


def test_the_difference_is_that_of_the_means():
    found = difference(OURS, THEIRS)
    ours, theirs = (0.7 + 0.3) / 2, (0.6 + 0.1) / 2
    assert found["mean"] == pytest.approx(ours - theirs)
    # Two patients: a resample is both of them, p twice or q twice.
    p_alone = (0.6 + 0.2) / 2 - (0.6 + 0.05) / 2
    q_alone = (0.9 + 0.4) / 2 - (0.6 + 0.2) / 2
    assert (found["low"], found["high"]) == (pytest.approx(p_alone), pytest.approx(q_alone))


def test_one_patient_and_no_value_have_no_interval():
    one = difference(scores({"p.1": 0.5, "p.2": 0.7}), scores({"p.1": 0.4, "p.2": 0.4}))
    assert one == {"mean": pytest.approx(0.2), "low": None, "high": None}
    nothing = scores({"p": None, "q": None})
    assert mean_interval(nothing) == {"mean": None, "low": None, "high": None}
    json.dumps(difference(nothing, nothing), allow_nan=False)


def test_the_interval_of_a_mean_is_the_summary_s():
    rng = np.random.default_rng(3)
    rows = [
        row(f"c{i}", f"p{i % 7}", float(rng.random()), name) for i in range(30) for name in "ab"
    ]
    summary = summarize(rows)["standard"]
    for name in "ab":
        of_class = [score for score in scores_of(rows) if score.class_name == name]
        assert mean_interval(of_class) == pytest.approx(summary[name]["dsc"])
    assert mean_interval(scores_of(rows)) == pytest.approx(summary["average"]["dsc"])


def test_the_interval_of_a_difference_against_a_loop():
    rng = np.random.default_rng(4)
    pairs = {f"p{i % 5}.{i}": (float(rng.random()), float(rng.random())) for i in range(13)}
    found = difference(
        scores({k: ours for k, (ours, _) in pairs.items()}),
        scores({k: theirs for k, (_, theirs) in pairs.items()}),
    )
    draws = np.random.default_rng(0).multinomial(5, np.full(5, 0.2), size=RESAMPLES)
    values = []
    for counts in draws:
        gains = [
            ours - theirs for k, (ours, theirs) in pairs.items() for _ in range(counts[int(k[1])])
        ]
        values.append(np.mean(gains))
    low, high = np.percentile(values, [2.5, 97.5])
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))


def test_a_difference_by_its_digits():
    """What the ablation's own function gave before it moved here."""
    rng = np.random.default_rng(5)
    made = [
        [row(f"c{i}", f"p{i % 6}", float(rng.random()), name) for i in range(18) for name in "ab"]
        for _ in range(2)
    ]
    found = difference(scores_of(made[0]), scores_of(made[1]))
    golden = {
        "mean": -0.029068119574147566,
        "low": -0.1549940699005404,
        "high": 0.10139731379175643,
    }
    assert found == pytest.approx(golden, rel=1e-12)


def test_a_false_alarm_counts_against_a_rightly_empty_prediction():
    ours, theirs = (
        scores({"a": None, "b": 0.0, "c": None, "d": 0.5}),
        scores({"a": 0.0, "b": None, "c": None, "d": 0.4}),
    )
    of_dsc = [score.value for score in case_differences(ours, theirs, best=1.0)]
    assert of_dsc == [1.0, -1.0, None, 0.1]
    far = scores({"a": 40.0, "b": None})
    of_hd95 = case_differences(far, scores({"a": None, "b": None}), best=0.0)
    assert [score.value for score in of_hd95] == [40.0, None]


def test_a_share_of_repetitions_is_a_weight():
    half = [Score("a", "a", "x", 0.2, 0.5), Score("b", "b", "x", 0.8)]
    assert mean(half) == pytest.approx((0.2 * 0.5 + 0.8) / 1.5)
    whole = [Score("a", "a", "x", None), Score("b", "b", "x", 0.6)]
    found = case_differences(half, whole, best=1.0)
    assert [(s.value, s.share) for s in found] == [(0.2 * 0.5 + 0.5 - 1, 1.0), (0.2, 1.0)]


def test_rounding_makes_no_difference():
    (found,) = case_differences(scores({"a": 0.1 + 0.2}), scores({"a": 0.3}), best=1.0)
    assert found.value == 0.0


def test_classes_are_averaged_by_case_and_cases_by_patient():
    points = class_averages(OURS)
    assert [(s.case, s.class_name) for s in points] == [
        ("p.1", "average"),
        ("p.2", "average"),
        ("q.1", "average"),
    ]
    assert [s.value for s in points] == pytest.approx([0.35, 0.7, 0.65])
    assert by_patient(points) == pytest.approx({"p": 0.525, "q": 0.65})
    assert class_averages(scores({"a": None}))[0].value is None
    assert by_patient(scores({"a": None})) == {}


def by_all_signs(differences: list[float]) -> float:
    """Two-sided p of the signed-rank sum, by every assignment of signs."""
    known = [d for d in differences if d]
    ranks = stats.rankdata(np.abs(known))
    centre = ranks.sum() / 2
    found = abs(ranks[np.array(known) > 0].sum() - centre)
    sums = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=len(known))]
    return float(np.mean([abs(total - centre) >= found - 1e-9 for total in sums]))


@pytest.mark.parametrize(
    "differences",
    [
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        [0.11, -0.02, 0.3, 0.04, -0.05],
        [0.1, -0.1, 0.2, 0.2, 0.3],  # ties
        [0.0, 0.1, 0.0, -0.2, 0.3, 0.35, 0.4],  # zeros
        [0.3 - 0.1, 0.1 - 0.3, 0.2, 0.4, 0.05],  # ties but for rounding
    ],
)
def test_the_signed_rank_test_against_all_signs(differences):
    assert signed_rank_p(differences) == pytest.approx(by_all_signs(np.round(differences, 9)))


def test_the_signed_rank_test_by_hand_and_by_scipy():
    assert signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 64)
    assert signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 32)
    rng = np.random.default_rng(6)
    many = list(rng.normal(0.02, 0.1, 80))
    assert signed_rank_p(many) == pytest.approx(stats.wilcoxon(many).pvalue)


def test_the_signed_rank_test_of_nothing():
    assert signed_rank_p([]) is None
    assert signed_rank_p([0.3]) is None
    assert signed_rank_p([0.0, 0.0, 0.0]) == 1.0


@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        # 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which must not be below 0.06
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.6, 0.9], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_by_hand(given, corrected):
    assert holm(given) == pytest.approx(corrected)


def test_the_class_with_the_fewest_patients():
    assert fewest_patients(OURS) == 2
    assert fewest_patients([*OURS, Score("p.1", "p", "rare", 0.5)]) == 1
    assert fewest_patients(scores({"p": None})) == 0
