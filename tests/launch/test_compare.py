"""The command compare: which tables it takes, how their cases are paired, what it writes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from input_pipeline.files import write_json
from input_pipeline.tables import write_table
from launch import compare, evaluate, self_train
from ssa_jax.experiment.comparison import compare_networks, comparison_text
from tests.support.small_training import TEST, Ended, arguments, run, stand_in, tree, write_source

Values = Mapping[str, float | None]
PATIENTS = {"a": "p", "b": "p", "c": "q"}


def case(name: str, value: float | None, class_name: str = "lesion", **more: Any) -> dict[str, Any]:
    """A row of a table; the truth of each case has a size of its own."""
    own = name.rpartition("/")[2]
    standard = {
        "dsc": value,
        "hd95": None if value is None else 10 - 10 * value,
        "nsd": value,
        "mae": value,
        "unit": "mm",
        "tolerance": 3.0,
        "outcome": "scored",
        "intersection": 1,
        "truth_size": 20 + ord(own[0]),
        "prediction_size": 2,
    }
    row = {"case": name, "patient": PATIENTS.get(own, own), "class_name": class_name}
    return row | {"standard": standard} | more


def write(folder: Path, rows: Sequence[Mapping[str, Any]] | Values, **summary: Any) -> Path:
    """The tables of an evaluation."""
    if isinstance(rows, Mapping):
        rows = [case(name, value) for name, value in rows.items()]
    write_table(folder / "cases.csv", rows)
    write_json(folder / "metrics.json", {"cases": len(rows)} | summary)
    return folder


def done(*given: str | Path, **options: Any) -> tuple[dict[str, Any], str]:
    """Compare without writing; the result as JSON holds it, and the text."""
    chosen: dict[str, Any] = {"metric": "dsc", "common": False, "out": None} | options
    result = compare_networks([str(text) for text in given], **chosen)
    return json.loads(json.dumps(result, allow_nan=False)), comparison_text(result)


def refused(*given: str | Path) -> str:
    """Run the command; its one line on standard error."""
    ended = run(compare.main, [str(text) for text in given])
    assert (ended.status, ended.printed) == (2, ""), ended
    assert ended.errors.startswith("error: ") and ended.errors.count("\n") == 1
    return ended.errors.removeprefix("error: ").rstrip("\n")


A = {"a": 0.5, "b": 0.6, "c": 0.7}


def test_seeds_are_averaged_and_cases_paired(tmp_path):
    write(tmp_path / "A", A)
    write(tmp_path / "B1", {"c": 0.9, "a": 0.6, "b": 0.6})  # in another order
    write(tmp_path / "B2", {"a": 0.8, "b": 0.6, "c": 0.7})
    result, printed = done(tmp_path / "A", f"B={tmp_path / 'B1'},{tmp_path / 'B2'}")
    row = result["classes"]["lesion"]["B"]
    assert row["by_case"] == pytest.approx({"a": 0.2, "b": 0.0, "c": 0.1})
    assert row["score"]["mean"] == pytest.approx((0.7 + 0.6 + 0.8) / 3)
    assert row["difference"]["mean"] == pytest.approx(0.1)
    assert row["each"] == pytest.approx([0.7, 0.7])
    assert (row["better"], row["equal"], row["worse"]) == (2, 1, 0)
    assert row["p"] == pytest.approx(0.5)  # both patients by 0.1: 2 of 4 assignments of signs
    assert (result["cases"], result["patients"], result["reference"]) == (3, 2, "A")
    assert [entry["cases"] for entry in result["networks"]["B"]] == [3, 3]
    lines = printed.splitlines()
    assert lines[0].startswith("DSC of 3 cases of 2 patients; ")
    assert lines[2].split("  ")[0] == "class" and lines[4].split()[:2] == ["B", "0.700"]
    assert any("too few patients for p to reach 0.05 (lesion 2)" in line for line in lines)


def test_parts_are_put_together(tmp_path):
    write(tmp_path / "A", A)
    write(tmp_path / "one", {"a": 0.6, "b": 0.7})
    write(tmp_path / "two", {"c": 0.4})
    result, _ = done(tmp_path / "A", f"B={tmp_path / 'one'},{tmp_path / 'two'}")
    row = result["classes"]["lesion"]["B"]
    assert row["by_case"] == pytest.approx({"a": 0.1, "b": 0.1, "c": -0.3})
    assert row["each"] == []  # parts are no repetitions


def test_a_case_in_unequally_many_paths_is_said(tmp_path):
    write(tmp_path / "A", A)
    write(tmp_path / "one", A)
    write(tmp_path / "two", {"c": 0.9})
    result, _ = done(tmp_path / "A", f"B={tmp_path / 'one'},{tmp_path / 'two'}")
    row = result["classes"]["lesion"]["B"]
    assert row["by_case"] == pytest.approx({"a": 0, "b": 0, "c": 0.1}) and row["each"] == []
    assert "B: some cases are in 1 of its 2 paths and others in 2" in result["notes"][0]


def cross_validation(folder: Path, folds: Sequence[Values], **summary: Any) -> Path:
    rows = [
        case(f"fold_{number}/{name}", value)
        for number, values in enumerate(folds, start=1)
        for name, value in values.items()
    ]
    (folder / "fold_1").mkdir(parents=True)
    write_json(folder / "folds.json", {})
    return write(folder, rows, scheme="usual", folds=len(folds), **summary)


def test_other_folds_and_seeds_without_folds_are_paired_by_the_case(tmp_path):
    cross_validation(tmp_path / "A", [{"a": 0.5, "b": 0.6}, {"c": 0.7}])
    cross_validation(tmp_path / "B", [{"c": 0.8}, {"b": 0.5, "a": 0.7}])
    write(tmp_path / "C", {"a": 0.5, "b": 0.6, "c": 0.6})
    result, _ = done(tmp_path / "A", tmp_path / "B", tmp_path / "C")
    rows = result["classes"]["lesion"]
    assert rows["B"]["by_case"] == pytest.approx({"a": 0.2, "b": -0.1, "c": 0.1})
    assert rows["C"]["by_case"] == pytest.approx({"a": 0.0, "b": 0.0, "c": -0.1})


def test_a_case_that_several_folds_held_out_is_their_mean(tmp_path):
    cross_validation(
        tmp_path / "A", [{"a": 0.4, "b": 0.6}, {"a": 0.6, "c": 0.7}, {"b": 0.4, "c": 0.7}]
    )
    write(tmp_path / "B", {"a": 0.5, "b": 0.5, "c": 0.9})
    result, _ = done(tmp_path / "A", tmp_path / "B")
    row = result["classes"]["lesion"]["B"]
    assert row["by_case"] == pytest.approx({"a": 0.0, "b": 0.0, "c": 0.2})


def test_only_the_fold_is_taken_off_a_name(tmp_path):
    """Names of the data set's own may look like folds."""
    cross_validation(
        tmp_path / "A", [{"fold_1/a": 0.5}, *[{f"{k}": 0.5} for k in range(8)], {"b": 0.5}]
    )
    own = {"fold_1/a": 0.6, **{f"{k}": 0.5 for k in range(8)}, "b": 0.7}
    write(tmp_path / "B", own)
    result, _ = done(tmp_path / "A", tmp_path / "B")
    row = result["classes"]["lesion"]["B"]
    assert row["by_case"]["fold_1/a"] == pytest.approx(0.1)
    assert row["by_case"]["b"] == pytest.approx(0.2)  # of fold_10, not of fold_1


def test_volumes_are_compared_where_there_are_any(tmp_path):
    for name, shift in (("A", 0.0), ("B", 0.1)):
        write(tmp_path / name, A)
        write_table(tmp_path / name / "volumes.csv", [case("v", 0.5 + shift), case("w", 0.5)])
    result, _ = done(tmp_path / "A", tmp_path / "B")
    assert result["classes"]["lesion"]["B"]["by_case"] == pytest.approx({"v": 0.1, "w": 0.0})


def test_a_patient_that_one_table_names_counts_for_all(tmp_path):
    unknown = [case(name, value) | {"patient": name} for name, value in A.items()]
    write(tmp_path / "A", unknown)
    write(tmp_path / "B", A)
    assert done(tmp_path / "A", tmp_path / "B")[0]["patients"] == 2
    write(tmp_path / "B", [row | {"standard": row["standard"] | {"dsc": 0.1}} for row in unknown])
    result, _ = done(tmp_path / "A", tmp_path / "B")
    assert result["patients"] == 3
    assert any("each case counts as a patient of its own" in note for note in result["notes"])


def test_cases_that_not_all_have(tmp_path):
    write(tmp_path / "A", A)
    write(tmp_path / "B", {"b": 0.8, "c": 0.8})
    write(tmp_path / "C", {"b": 0.6, "d": 0.6, "c": 0.6, "e": 0.5})
    given = [tmp_path / name for name in "ABC"]
    message = refused(*given)
    assert "A lacks 2 of 5 (d, e); B lacks 3 of 5 (a, d, e); C lacks 1 of 5 (a)" in message
    assert "compare the 2 that all have by --common" in message
    result, printed = done(*given, common=True)
    assert result["classes"]["lesion"]["B"]["by_case"] == pytest.approx({"b": 0.2, "c": 0.1})
    assert (result["cases"], result["left_out"]) == (2, 3)
    assert "note: cases left out, as not all networks have them: 3" in printed.splitlines()
    write(tmp_path / "C", {"d": 0.6})
    assert "no case that all networks have (A has a, b, c; B has b, c; C has d)" in refused(
        *given, "--common"
    )


def test_what_flatters_a_network_is_said(tmp_path):
    write(tmp_path / "A", A, split="validation", checkpoint="best")
    write(tmp_path / "B", A, split="train", checkpoint="last")
    write(tmp_path / "C", A, split="test", checkpoint="best")
    write(tmp_path / "D", A, split="validation", checkpoint="last")
    result, _ = done(*(tmp_path / name for name in "ABCD"))
    assert [note[:32] for note in result["notes"][:2]] == [
        "A: its checkpoint was chosen on ",
        "B: scored on slices that it was ",
    ]
    assert not any(note[:2] in ("C:", "D:") for note in result["notes"])


def test_false_alarms_of_one_network(tmp_path):
    write(tmp_path / "A", {"a": None, "b": 0.5, "c": 0.5})
    write(tmp_path / "B", {"a": 0.0, "b": 0.5, "c": 0.5})
    result, _ = done(tmp_path / "A", tmp_path / "B")
    row = result["classes"]["lesion"]["B"]
    assert row["by_case"] == {"a": -1.0, "b": 0.0, "c": 0.0} and row["worse"] == 1
    assert row["difference"]["mean"] == pytest.approx(1 / 3 - 0.5)
    assert any("share: 1; each" in note for note in result["notes"])


def test_false_alarms_of_some_seeds_count_by_their_share(tmp_path):
    write(tmp_path / "A", {"a": None, "b": 0.5, "c": 0.5})
    write(tmp_path / "B1", {"a": 0.0, "b": 0.5, "c": 0.6})
    write(tmp_path / "B2", {"a": None, "b": 0.5, "c": 0.7})
    result, _ = done(tmp_path / "A", f"B={tmp_path / 'B1'},{tmp_path / 'B2'}")
    row = result["classes"]["lesion"]["B"]
    assert row["by_case"] == pytest.approx({"a": -0.5, "b": 0.0, "c": 0.15})
    # As the ablation pools seeds: five values are defined.
    assert row["score"]["mean"] == pytest.approx((0.0 + 0.5 + 0.6 + 0.5 + 0.7) / 5)
    assert row["each"] == pytest.approx([1.1 / 3, 0.6])
    assert any("share: 1; each" in note for note in result["notes"])


def test_two_classes_keep_their_order_and_have_an_average(tmp_path):
    for name, shift in (("A", 0.0), ("B", 0.2)):
        rows = [case(k, v, "ground-glass") for k, v in A.items()]
        write(tmp_path / name, rows + [case(k, 0.3 + shift, "consolidation") for k in A])
    result, _ = done(tmp_path / "A", tmp_path / "B")
    assert list(result["classes"]) == ["ground-glass", "consolidation", "average"]
    assert result["classes"]["average"]["B"]["difference"]["mean"] == pytest.approx(0.1)


def test_distances_have_a_unit_and_less_is_better(tmp_path):
    write(tmp_path / "A", A)
    write(tmp_path / "B", {"a": 0.6, "b": 0.7, "c": 0.6})
    result, printed = done(tmp_path / "A", tmp_path / "B", metric="hd95")
    row = result["classes"]["lesion"]["B"]
    assert row["by_case"] == pytest.approx({"a": -1.0, "b": -1.0, "c": 1.0})
    assert (row["better"], row["worse"]) == (2, 1)
    assert printed.startswith("HD95 (mm) of 3 cases") and " -0.3 [-1.0, +1.0]" in printed
    assert done(tmp_path / "A", tmp_path / "B", metric="nsd")[1].startswith("NSD at 3 mm")
    assert done(tmp_path / "A", tmp_path / "B", metric="mae")[0]["unit"] is None


def test_a_workdir_with_one_table(tmp_path):
    write(tmp_path / "A" / "evaluation" / "test", A)
    write(tmp_path / "A" / "evaluation" / ".results.host-1-ab.unfinished", A)  # of a killed process
    write(tmp_path / "B" / "test", A)
    result, _ = done(tmp_path / "A", tmp_path / "B")
    assert result["networks"]["A"] == [{"path": str(tmp_path / "A/evaluation/test"), "cases": 3}]
    write(tmp_path / "A" / "evaluation" / "validation", A)
    folder = tmp_path / "A"
    assert refused(folder, tmp_path / "B") == (
        f"{folder}: holds 2 tables, expected one; name its folder: {folder / 'evaluation/test'}, "
        f"{folder / 'evaluation/validation'}"
    )


def test_the_folds_within_a_cross_validation_do_not_count(tmp_path):
    folder = cross_validation(tmp_path / "runs" / "W", [A])
    write(folder / "fold_1" / "evaluation" / "validation", A)
    write(tmp_path / "B", A)
    result, _ = done(tmp_path / "runs", tmp_path / "B")
    assert result["networks"]["runs"] == [{"path": str(folder), "cases": 3}]


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x,y=z", A)
    write(tmp_path / "sub" / "W", A)
    write(tmp_path / "B", A)
    result, _ = done("x,y=z", "one=B/", "sub/W")
    assert list(result["networks"]) == ["x,y=z", "one", "W"]
    result, _ = done("n=x,y=z", "sub/W,B")
    assert [len(paths) for paths in result["networks"].values()] == [1, 2]
    assert list(result["networks"]) == ["n", "W"]
    monkeypatch.chdir(tmp_path / "B")
    assert list(done(".", "../sub/W")[0]["networks"]) == ["B", "W"]


def test_what_is_written(tmp_path):
    write(tmp_path / "A_1", A)
    write(tmp_path / "B", {"a": 0.6, "b": 0.7, "c": 0.9})
    out = tmp_path / "out"
    given = [str(tmp_path / "A_1"), str(tmp_path / "B"), "--out", str(out)]
    ended = run(compare.main, given)
    assert (ended.status, ended.errors) == (0, "")
    result, text = done(*given[:2])
    assert json.loads((out / "comparison.json").read_text()) == result
    files = ", ".join(str(out / f"comparison.{kind}") for kind in ("json", "md", "tex", "png"))
    assert ended.printed == f"{text}\n\n{files}\n"
    assert run(compare.main, given[:2]).printed == f"{text}\n"
    page, table = ((out / f"comparison.{kind}").read_text() for kind in ("md", "tex"))
    assert page.splitlines()[2].startswith(
        r"| class | network | DSC [95%] | minus A\_1 [95%] | p |"
    )
    assert "| 0.733 [0.650, 0.900] | +0.133 [+0.100, +0.200] | 0.500 | 0.500 | 3 / 0 / 0 |" in page
    assert all(f"- {note}\n" in page for note in result["notes"])
    assert r" & B & 0.733 [0.650, 0.900] & $+$0.133 [$+$0.100, $+$0.200] & 0.500" in table
    assert np.asarray(Image.open(out / "comparison.png")).shape[0] > 100
    before = tree(out)
    assert run(compare.main, given).status == 0  # replaced by the same bytes
    assert tree(out) == before


def test_files_of_others_are_not_replaced(tmp_path):
    write(tmp_path / "A", A)
    write(tmp_path / "B", A)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "comparison.md").write_text("mine")
    message = refused(tmp_path / "A", tmp_path / "B", "--out", tmp_path / "out")
    assert "comparison.md: is in the way, and no comparison wrote it" in message
    assert (tmp_path / "out" / "comparison.md").read_text() == "mine"


def changed(folder: Path, row: int, **block: Any) -> Path:
    """The tables of A with one row's block changed."""
    rows = [case(name, value) for name, value in A.items()]
    rows[row]["standard"] |= block
    return write(folder, rows)


def test_cases_of_another_truth_are_refused(tmp_path):
    write(tmp_path / "A", A)
    changed(tmp_path / "B", 1, truth_size=7)
    message = refused(tmp_path / "A", tmp_path / "B")
    assert f"{tmp_path / 'B'}: the truth of lesion in b has 7 pixels, expected the 118" in message
    rows = [case(name, value) for name, value in A.items()]
    write(tmp_path / "B", [rows[0], rows[1] | {"patient": "z"}, rows[2]])
    assert "b is of patient 'z', expected 'p' as in" in refused(tmp_path / "A", tmp_path / "B")
    write(tmp_path / "B", [case(name, value, "other") for name, value in A.items()])
    assert "has the classes other, expected those of" in refused(tmp_path / "A", tmp_path / "B")


@pytest.mark.parametrize(
    ("block", "metrics", "text"),
    [
        ({"unit": "px"}, ("hd95", "nsd"), "c has the unit px, expected mm as in"),
        ({"tolerance": 2.0}, ("nsd",), "c has the tolerance 2.0, expected 3.0 as in"),
    ],
)
def test_distances_of_other_units_are_refused(tmp_path, block, metrics, text):
    write(tmp_path / "A", A)
    changed(tmp_path / "B", 2, **block)
    for metric in ("dsc", "mae", "hd95", "nsd"):
        given = [tmp_path / "A", tmp_path / "B"]
        if metric in metrics:
            assert text in refused(*given, "--metric", metric)
        else:
            done(*given, metric=metric)


def test_damaged_tables(tmp_path):
    write(tmp_path / "A", A)
    rows = [case(name, value) for name, value in A.items()]
    bad = tmp_path / "B"
    for given, text in (
        ([], "holds no case, expected one or more"),
        ([*rows, rows[0]], "a has the rows {'lesion': 2} by class, expected one of each"),
        ([*rows, case("a", 0.5, "x")], "b has the rows {'lesion': 1, 'x': 0} by class"),
        ([{"case": "a", "patient": "a", "class_name": "lesion"}], "lacks a column of standard.dsc"),
        ([{"file": "a", "dice": 0.5}], "not a table of cases (KeyError('case'))"),
        (
            [rows[0] | {"standard": rows[0]["standard"] | {"truth_size": None}}],
            "'truth_size': None",
        ),
        (
            [case("a", float("nan"))],
            "a has {'dsc': nan, 'truth_size': 117.0, 'tolerance': 3.0}, expected",
        ),
    ):
        write(bad, given)
        message = refused(tmp_path / "A", bad)
        assert text in message and message.startswith(f"{bad / 'cases.csv'}: "), message
    write(bad, A, folds=2)
    assert "the case a names no fold, expected one of fold_1/, fold_2/" in refused(
        tmp_path / "A", bad
    )
    (bad / "metrics.json").unlink()
    assert "B: holds cases.csv without metrics.json" in refused(tmp_path / "A", bad)


def test_a_cross_validation_that_is_not_done(tmp_path):
    write(tmp_path / "A", A)
    folder = cross_validation(tmp_path / "B", [A])
    write(folder / "fold_1" / "evaluation" / "validation", A)
    (folder / "cases.csv").unlink()
    assert "B: a cross-validation without cases.csv, expected one that is done" in refused(
        tmp_path / "A", folder
    )


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["A"], "1 network is given, expected two or more"),
        (["A", "absent"], "absent: no such folder; expected NAME=PATH"),
        (["A", "B="], "'B=': expected NAME=PATH, NAME=PATH,PATH or PATH"),
        (["A", "=B"], "'=B': expected NAME=PATH"),
        (["A", "N=B,"], "'N=B,': expected NAME=PATH"),
        (["N=A", "N=B"], "two networks are named 'N'"),
        (["A", "other/A"], "two networks are named 'A'"),
        (["A", "N=B,A"], "A: is given for A and for N, expected each table once"),
        (["A", "N=B,B/../B"], "is given for N and for N"),
        (["A", "B/cases.csv"], "B/cases.csv: is a file, expected the folder that holds cases.csv"),
        (["A", "empty"], "empty: no cases.csv in it or below, expected one"),
    ],
)
def test_bad_arguments(tmp_path, monkeypatch, given, text):
    monkeypatch.chdir(tmp_path)
    for name in ("A", "B", "other/A"):
        write(tmp_path / name, A)
    (tmp_path / "empty").mkdir()
    assert text in refused(*given)


def test_a_metric_that_does_not_exist(tmp_path):
    ended: Ended = run(compare.main, [str(tmp_path), str(tmp_path), "--metric", "iou"])
    assert ended.status == 2 and "invalid choice: 'iou'" in ended.errors


@pytest.mark.slow
def test_the_tables_of_self_train_and_evaluate(tmp_path):
    """Real tables: the rounds' own of the best round, and evaluations of each round."""
    source, workdir = write_source(tmp_path / "source"), tmp_path / "W"
    with stand_in():
        assert run(self_train.main, arguments(source, workdir, "self_train_semiseg")).status == 0
        for number in (1, 2):
            given = ["--workdir", str(workdir / f"round_{number:02d}"), "--split", "test"]
            out = ["--out", str(tmp_path / str(number)), "--which", "last", "--quiet"]
            assert run(evaluate.main, [*given, *out]).status == 0
    result, _ = done(f"best={workdir}", tmp_path / "1", tmp_path / "2")
    rows = result["classes"]["lesion"]
    best = str(json.loads((workdir / "summary.json").read_text())["best_round"])
    other = {"1": "2", "2": "1"}[best]
    assert result["cases"] == TEST
    assert set(rows[best]["by_case"].values()) == {0.0} and rows[best]["p"] == 1.0
    folders = (workdir / "test", tmp_path / other)
    tables = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    scores = [table["standard"]["lesion"]["dsc"]["mean"] for table in tables]
    assert rows[other]["difference"]["mean"] == pytest.approx(scores[1] - scores[0])
    assert rows[other]["difference"]["mean"] != 0
