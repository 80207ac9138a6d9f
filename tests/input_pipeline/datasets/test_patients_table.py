"""Splits that the user states in a column of `patients.csv`."""

from pathlib import Path

import pytest

from input_pipeline.datasets import catalog
from tests.input_pipeline.datasets.test_layouts import faults, listed, opened
from tests.input_pipeline.datasets.test_volume_builder import (
    save_folder,
)


def stated(folder: Path, *splits: str, patients: str = "abc") -> None:
    rows = ["file,patient,split"]
    rows += [f"{n}.nii.gz,{p},{s}" for n, (p, s) in enumerate(zip(patients, splits, strict=True))]
    (folder / "patients.csv").write_text("\n".join(rows) + "\n")


def test_the_column_split_is_honoured(tmp_path):
    save_folder(tmp_path)
    stated(tmp_path, "Validation", "train", "unlabelled")
    assert {s: set(v) for s, v in listed(tmp_path).items()} == {
        "train": {"1"},
        "validation": {"0"},
        "unlabelled": {"2"},
    }
    assert {s.patient for s in opened(tmp_path, "validation")} == {"a"}
    found = {"data_dir": tmp_path / "records", "task": "multiclass"}
    assert catalog.validation_split("folder", **found) == "validation"
    stated(tmp_path, "unlabelled", "train", "unlabelled")
    assert {s.patient for s in opened(tmp_path, "unlabelled")} == {"a", "c"}
    assert all(item.mask is None for item in opened(tmp_path, "unlabelled"))
    assert catalog.validation_split("folder", **found) == ""


@pytest.mark.parametrize(
    ("splits", "patients", "words"),
    [
        (("train", "test", "unlabelled"), "aab", "patient 'a' is in train and test"),
        (("train", "validation", "unlabelled"), "aab", "patient 'a' is in train and validation"),
        (("train", "test", "unlabelled"), "aba", None),
        (("train", "test", "unlabelled"), "abb", "patient 'b' is in test and unlabelled"),
        (("train", "train", "test"), "abc", "2.nii.gz is in test but has no label"),
        (("train", "", "unlabelled"), "abc", "split of 1.nii.gz is '', expected train, validation"),
        (("train", "val", "unlabelled"), "abc", "split of 1.nii.gz is 'val'"),
    ],
)
def test_splits_that_cannot_be(tmp_path, splits, patients, words):
    """A patient's unlabelled scans may stand beside labelled ones in training, nowhere else."""
    save_folder(tmp_path)
    stated(tmp_path, *splits, patients=patients)
    found = faults(tmp_path)
    assert len(found) == (words is not None)
    assert words is None or (words in found[0] and "patients.csv" in found[0])
