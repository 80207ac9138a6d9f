"""Tables: nested rows, texts that are no formulas, and names that are not UTF-8."""

import csv
import json
import os
from pathlib import Path

from input_pipeline import files
from input_pipeline.files import write_json, write_text
from input_pipeline.tables import read_table, write_table

TEXTS = [
    "=1+1",
    "+x",
    "-x",
    "@SUM(A1)",
    "\tx",
    "\rx",
    "'=1",
    "''+x",
    "'x",
    "p1",
    "-3.5",
    "",
    "a,=1",
]


def test_table_flattens_and_fills(tmp_path: Path) -> None:
    rows = [
        {"case": "a,1", "standard": {"dsc": 0.5, "hd95": None}},
        {"case": "b", "standard": {"dsc": 1.0, "hd95": 2.0}, "paper_compat": {"dsc": 1.0}},
    ]
    write_table(tmp_path / "cases.csv", rows)
    with (tmp_path / "cases.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    columns = ["case", "standard.dsc", "standard.hd95", "paper_compat.dsc"]
    assert [list(row.values()) for row in found] == [
        ["a,1", "0.5", "", ""],
        ["b", "1.0", "2.0", "1.0"],
    ]
    assert list(found[0]) == columns


def test_texts_are_no_formulas_and_read_back_as_given(tmp_path: Path) -> None:
    rows = [{"case": text, "number": -1.5, "whole": -2} for text in TEXTS]
    write_table(tmp_path / "a.csv", rows)
    with (tmp_path / "a.csv").open(newline="") as file:
        stored = list(csv.DictReader(file))
    formulas = ("=1+1", "+x", "-x", "@SUM(A1)", "\tx", "\rx", "'=1", "''+x")
    expected = [f"'{text}" if text in formulas else text for text in TEXTS]
    assert [row["case"] for row in stored] == expected
    assert {(row["number"], row["whole"]) for row in stored} == {("-1.5", "-2")}
    assert [row["case"] for row in read_table(tmp_path / "a.csv")] == TEXTS


def test_names_in_other_bytes_than_utf8_are_written_and_read_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"M\xfcller.nii.gz")
    assert name == "M\udcfcller.nii.gz"
    write_table(tmp_path / "a.csv", [{"file": name, "more": "Müller"}])
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines() == [
        "file,more",
        "M\\udcfcller.nii.gz,Müller",
    ]
    assert read_table(tmp_path / "a.csv") == [{"file": name, "more": "Müller"}]
    in_the_locale_c = "Müller".encode().decode("ascii", "surrogateescape")
    assert files.encodable(in_the_locale_c) == "Müller"
    assert files.encodable("\ud800") == "\\ud800"
    write_json(tmp_path / "a.json", {name: 1})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {name: 1}
    write_text(tmp_path / "a.txt", f"{name} ü\n")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "M\\udcfcller.nii.gz ü\n"
