"""Splits keep patients whole, repeat themselves, and refuse overlaps."""

import json
import os

import pytest

from input_pipeline.splits import (
    load_split,
    require_patients_apart,
    save_split,
    split_by_patient,
    updated_split,
)

PATIENTS = [f"p{i // 3}" for i in range(30)]  # ten patients, three slices each


def test_every_slice_once_and_patients_whole():
    train, validation = split_by_patient(PATIENTS, holdout=7, seed=0)
    assert sorted(train + validation) == list(range(30))
    assert len(validation) == 9  # 7 is reached by the third patient
    assert not {PATIENTS[i] for i in train} & {PATIENTS[i] for i in validation}
    assert train == sorted(train)


def test_exact_where_each_slice_is_its_own_patient():
    train, validation = split_by_patient([str(i) for i in range(50)], holdout=10, seed=3)
    assert (len(train), len(validation)) == (40, 10)


def test_seeded():
    first = split_by_patient(PATIENTS, holdout=7, seed=1)
    assert first == split_by_patient(PATIENTS, holdout=7, seed=1)
    assert any(first != split_by_patient(PATIENTS, holdout=7, seed=s) for s in (2, 3, 4))


def test_order_of_the_slices_does_not_change_who_is_held_out():
    _, held = split_by_patient(PATIENTS, holdout=7, seed=1)
    back = PATIENTS[::-1]
    _, held_back = split_by_patient(back, holdout=7, seed=1)
    assert {PATIENTS[i] for i in held} == {back[i] for i in held_back}


@pytest.mark.parametrize("holdout", [0, -1, 30, 31])
def test_impossible_holdouts_are_refused(holdout):
    with pytest.raises(ValueError, match=f"{holdout} of 30"):
        split_by_patient(PATIENTS, holdout=holdout, seed=0)


def test_nothing_left_to_train_on_is_refused():
    with pytest.raises(ValueError, match="all 1 patients"):
        split_by_patient(["a", "a"], holdout=1, seed=0)


def test_saved_and_loaded(tmp_path):
    path = tmp_path / "new" / "splits.json"
    save_split(path, ["a", "b"], ["c"])
    assert load_split(path) == (["a", "b"], ["c"])
    assert os.listdir(path.parent) == ["splits.json"]


def test_overlap_is_refused_when_written_and_when_read(tmp_path):
    path = tmp_path / "splits.json"
    with pytest.raises(ValueError, match=r"splits\.json: 1 slices.*'b'"):
        save_split(path, ["a", "b"], ["b"])
    assert not path.exists()
    path.write_text(json.dumps({"train": ["a", "b"], "validation": ["b"]}))
    with pytest.raises(ValueError, match=r"splits\.json: 1 slices.*'b'"):
        load_split(path)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"train": ["a"]}',
        '{"train": ["a"], "validation": "b"}',
        '{"train": [1], "validation": ["b"]}',
        '{"train": [], "validation": ["b"]}',
        '{"train": ["a", "a"], "validation": ["b"]}',
    ],
)
def test_damaged_files_are_refused(tmp_path, text):
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"splits\.json: ") as caught:
        load_split(path)
    assert "\n" not in str(caught.value)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "splits.json"
    save_split(path, ["a"], ["b"])

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_split(path, ["x"], ["y"])
    assert os.listdir(tmp_path) == ["splits.json"]
    assert load_split(path) == (["a"], ["b"])


def test_a_patient_in_both_parts_is_refused(tmp_path):
    patients = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}
    require_patients_apart(tmp_path / "s.json", patients, ["a1", "a2"], ["b1"])
    with pytest.raises(ValueError, match=r"s\.json: 1 patients are in both parts, such as 'a'"):
        require_patients_apart(tmp_path / "s.json", patients, ["a1", "b1"], ["a2", "c1"])


def test_a_split_follows_slices_that_come_and_go():
    """New slices of a validation patient validate; all others train, in the order given."""
    patients = {"b2": "b", "a1": "a", "b1": "b", "d1": "d", "c1": "c"}
    assert updated_split(["a1", "a2", "c1"], ["b1", "e1"], patients) == (
        ["a1", "c1", "d1"],
        ["b1", "b2"],
    )


def test_a_flipped_bit_of_an_id_is_found(tmp_path):
    path = tmp_path / "splits.json"
    save_split(path, ["a", "b"], ["c"])
    path.write_text(path.read_text().replace('"b"', '"d"'))
    with pytest.raises(ValueError, match=r"splits\.json: damaged or changed"):
        load_split(path)


def test_a_missing_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"splits\.json"):
        load_split(tmp_path / "splits.json")
