"""Tables and rows that cross-validation, rounds and reports read back."""

import json

import pytest

from input_pipeline.files import write_json
from input_pipeline.tables import write_table
from input_pipeline.verified import file_sha256, signed
from ssa_jax.experiment.evaluation import read_rows
from ssa_jax.experiment.run import read_row
from tests.support.small_training import tree

ROW = {"case": "a", "patient": "p", "class_name": "lesion", "standard": {"dsc": 0.5, "unit": "mm"}}


@pytest.fixture
def scores(tmp_path):
    """The tables of an evaluation of volumes."""
    for name in ("cases.csv", "volumes.csv"):
        write_table(tmp_path / name, [ROW | {"case": name}])
    tables = {name: file_sha256(tmp_path / name) for name in ("cases.csv", "volumes.csv")}
    write_json(tmp_path / "metrics.json", signed({"tables": tables}))
    return tmp_path


def test_rows_are_read_back(scores):
    assert read_rows(scores, "fold_1/") == [ROW | {"case": "fold_1/volumes.csv"}]


def test_rows_of_an_older_version_are_read(scores):
    write_json(scores / "metrics.json", {"cases": 1})
    (scores / "volumes.csv").unlink()
    assert read_rows(scores, "") == [ROW | {"case": "cases.csv"}]


def test_a_table_of_something_else_is_named(scores):
    write_json(scores / "metrics.json", {"cases": 1})
    path = scores / "volumes.csv"
    for text in ("name,dice\na,0.5\n", "case,patient,class_name,standard.dsc\na,p,lesion,x\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"volumes\.csv: not a table of cases \(.*restore it"):
            read_rows(scores, "")


def test_a_changed_digit_of_a_table_is_found(scores):
    path = scores / "volumes.csv"
    path.write_text(path.read_text().replace("0.5", "0.7"))
    with pytest.raises(ValueError, match=rf"volumes\.csv: damaged or changed: .* remove {scores}"):
        read_rows(scores, "")


def test_a_table_that_is_gone_is_not_replaced_by_another(scores):
    (scores / "volumes.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"volumes\.csv"):
        read_rows(scores, "")


def test_a_changed_digit_of_a_round_is_found(tmp_path):
    path = tmp_path / "round_02" / "round.json"
    row = {"round": 2, "added": 4, "validation_dsc": {"average": 0.5}}
    write_json(path, signed(row))
    assert read_row(path) == row
    path.write_text(path.read_text().replace("0.5", "0.9"))
    before = tree(tmp_path)
    said = rf"round\.json: damaged or changed: .*; restore it from a copy, or remove {path.parent} "
    with pytest.raises(ValueError, match=said + "and the rounds after it and run the same command"):
        read_row(path)
    assert tree(tmp_path) == before
    path.write_text(json.dumps(row)[:-4])
    with pytest.raises(ValueError, match=r"round\.json: not a JSON file"):
        read_row(path)
