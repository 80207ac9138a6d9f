"""Networks compared with the first: numbers, table and notes."""

from typing import Any

import pytest
from scipy import stats

from ssa_jax.evaluation.comparison import METRICS, Compared, compare, notes_of, table_rows
from ssa_jax.evaluation.paired import Score, holm


def network(values: dict[str, list[float | None]], patients: str | None = None) -> Compared:
    """Scores by class, of cases 0, 1, ..., each of the patient in that place."""
    count = len(next(iter(values.values())))
    names = patients or "abcdefghijklmnop"
    return Compared(
        [
            Score(f"case {i}", names[i], class_name, of_class[i])
            for i in range(count)
            for class_name, of_class in values.items()
        ]
    )


A = network({"one": [0.5, 0.6, 0.7, 0.8], "two": [0.1, 0.2, 0.3, 0.4]}, "ppqr")
B = network({"one": [0.6, 0.6, 0.8, 0.7], "two": [0.3, 0.4, 0.2, 0.5]}, "ppqr")
C = network({"one": [0.4, 0.5, 0.6, 0.7], "two": [0.1, 0.2, 0.3, 0.4]}, "ppqr")


def test_each_class_and_their_average_by_hand():
    result = compare({"A": A, "B": B, "C": C}, "dsc")
    assert list(result) == ["one", "two", "average"]
    one, average = result["one"]["B"], result["average"]["B"]
    assert result["one"]["A"].keys() == {"score", "each"}
    assert result["one"]["A"]["score"]["mean"] == pytest.approx(0.65)
    assert one["score"]["mean"] == pytest.approx(0.675)
    assert one["difference"]["mean"] == pytest.approx(0.025)
    assert one["by_case"] == pytest.approx(
        {"case 0": 0.1, "case 1": 0, "case 2": 0.1, "case 3": -0.1}
    )
    assert (one["better"], one["equal"], one["worse"], one["patients"]) == (2, 1, 1, 3)
    assert average["by_case"] == pytest.approx(
        {"case 0": 0.15, "case 1": 0.1, "case 2": 0.0, "case 3": 0.0}
    )
    assert average["difference"]["mean"] == pytest.approx(0.0625)
    assert (average["better"], average["equal"], average["worse"]) == (2, 2, 0)


def test_the_test_is_over_patients_and_corrected_over_all_tests():
    result = compare({"A": A, "B": B, "C": C}, "dsc")
    of_patients = {
        ("one", "B"): [0.05, 0.1, -0.1],  # p has two cases
        ("two", "B"): [0.2, -0.1, 0.1],
        ("average", "B"): [0.125, 0.0, 0.0],
        ("one", "C"): [-0.1, -0.1, -0.1],
        ("two", "C"): None,  # equal everywhere
        ("average", "C"): [-0.05, -0.05, -0.05],
    }
    known = {
        key: 1.0 if values is None else float(stats.wilcoxon([v for v in values if v]).pvalue)
        for key, values in of_patients.items()
    }
    assert {key: result[key[0]][key[1]]["p"] for key in known} == pytest.approx(known)
    corrected = dict(zip(known, holm(list(known.values())), strict=True))
    assert {key: result[key[0]][key[1]]["p_holm"] for key in known} == pytest.approx(corrected)


@pytest.mark.parametrize(("metric", "better"), [("dsc", 2), ("nsd", 2), ("hd95", 1), ("mae", 1)])
def test_less_is_better_for_distances_and_errors(metric, better):
    result = compare({"A": network({"x": [1.0, 2, 3]}), "B": network({"x": [2.0, 3, 2]})}, metric)
    row = result["x"]["B"]
    assert (row["better"], row["worse"]) == (better, 3 - better)
    assert row["difference"]["mean"] == pytest.approx(1 / 3)
    assert list(result) == ["x"]  # the average of one class is the class


def test_repetitions_are_shown_with_their_own_means():
    seeds = [network({"x": [0.1, 0.3]}).scores, network({"x": [0.5, 0.5]}).scores]
    mean = network({"x": [0.3, 0.4]})
    result = compare({"A": mean, "B": mean._replace(repetitions=seeds)}, "dsc")
    assert result["x"]["B"]["each"] == pytest.approx([0.2, 0.5])
    lines = table_rows(result, "dsc", "A")
    assert lines[0][-1] == "each path" and [line[-1] for line in lines[1:]] == ["", "0.200 0.500"]


def test_one_patient_has_neither_interval_nor_test():
    result = compare(
        {"A": network({"x": [0.5, 0.6]}, "pp"), "B": network({"x": [0.7, 0.9]}, "pp")}, "dsc"
    )
    row = result["x"]["B"]
    assert row["difference"] == {"mean": pytest.approx(0.25), "low": None, "high": None}
    assert (row["p"], row["p_holm"], row["better"]) == (None, None, 2)
    assert table_rows(result, "dsc", "A")[2] == ["", "B", "0.800", "+0.250", "-", "-", "2 / 0 / 0"]


def test_a_class_of_one_patient_has_no_interval_and_its_average_none():
    first = network({"x": [0.5, 0.6, 0.4], "rare": [None, 0.6, None]})
    second = network({"x": [0.7, 0.9, 0.3], "rare": [None, 0.5, None]})
    result = compare({"A": first, "B": second}, "dsc")
    for name in ("rare", "average"):
        assert result[name]["A"]["score"]["low"] is None
        assert result[name]["B"]["difference"]["low"] is None
    assert result["x"]["B"]["difference"]["low"] is not None
    assert result["rare"]["B"]["p"] is None
    assert result["rare"]["B"]["patients"] == 1


def test_a_class_in_no_case_is_a_dash():
    empty = network({"x": [0.5, 0.6], "never": [None, None]})
    result = compare({"A": empty, "B": empty}, "dsc")
    assert table_rows(result, "dsc", "A")[4] == ["", "B", "-", "-", "-", "-", "0 / 0 / 0"]
    assert result["never"]["B"]["difference"]["mean"] is None
    assert result["average"]["A"]["score"]["mean"] is None


def test_the_table():
    result = compare({"A": A, "B": B}, "dsc")
    head, first, second = table_rows(result, "dsc", "A")[:3]
    assert head == [
        "class",
        "network",
        "DSC [95%]",
        "minus A [95%]",
        "p",
        "p (Holm)",
        "better / equal / worse",
    ]
    score, found = result["one"]["A"]["score"], result["one"]["B"]["difference"]
    assert first == ["one", "A", f"0.650 [{score['low']:.3f}, {score['high']:.3f}]", "", "", "", ""]
    assert second[3] == f"+0.025 [{found['low']:+.3f}, {found['high']:+.3f}]"
    assert second[4:] == ["1.000", "1.000", "2 / 1 / 1"]
    small: Any = {"p": 0.0004999, "p_holm": 0.0005}
    shown = {"one": {"A": result["one"]["A"], "B": result["one"]["B"] | small}}
    assert table_rows(shown, "dsc", "A")[2][4:6] == ["<0.001", "0.001"]
    assert all(metric.best in (0, 1) for metric in METRICS.values())


def said(networks: dict[str, Compared]) -> str:
    return "\n".join(notes_of(compare(networks, "dsc"), networks))


def steps(count: int, patients: str | None = None) -> dict[str, Compared]:
    """Two networks, the second better in each of so many cases."""
    values = [k / 100 for k in range(1, count + 1)]
    zero = [0.5] * count
    better = [0.5 + value for value in values]
    return {"A": network({"x": [*zero]}, patients), "B": network({"x": [*better]}, patients)}


def test_too_few_patients_for_the_test():
    few = said(steps(5))
    assert (
        "too few patients for p to reach 0.05 (x 5): the signed-rank test of 5 gives 0.062" in few
    )
    assert "too few" not in said(steps(6))
    assert compare(steps(6), "dsc")["x"]["B"]["p_holm"] == pytest.approx(2 / 64)


def test_six_patients_are_too_few_for_two_tests():
    networks = steps(6)
    networks["C"] = networks["B"]
    assert "(x 6): the signed-rank test of 6 gives 0.031 at least, and Holm's" in said(networks)
    result = compare(networks, "dsc")
    assert result["x"]["C"]["p_holm"] == pytest.approx(4 / 64)


def test_cases_of_a_patient_are_said():
    assert "4 cases of 3 patients: the bootstrap draws all cases" in said({"A": A, "B": B})
    assert "each case counts as a patient of its own" in said(steps(6))
    alone = said(steps(2, "pp"))
    assert alone == "one patient: no intervals and no tests"


def test_false_alarms_of_some_networks_are_said():
    first, second = steps(7)["A"], network({"x": [None, None, 0.5, 0.5, 0.5, 0.5, 0.5]})
    assert "false alarms that not all networks share: 2; each" in said({"A": first, "B": second})
    assert "false alarms" not in said({"A": second, "B": second})
