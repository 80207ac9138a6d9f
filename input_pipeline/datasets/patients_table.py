"""The file `patients.csv` of a user's folder: the patient of each volume, and perhaps its split."""

import csv
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from input_pipeline.datasets.layouts import Case
from input_pipeline.datasets.report import Report
from input_pipeline.io.scan import name_of

PATIENTS = "patients.csv"
SPLITS = ("train", "validation", "test", "unlabelled")
# A patient's unlabelled volumes may be used beside labelled ones of the same patient in training.
TOGETHER = {"train", "unlabelled"}


class Row(NamedTuple):
    """What the table says of a volume.

    Attributes:
        patient: name of the patient.
        split: one of `SPLITS`.
    """

    patient: str
    split: str


def patients_and_splits(source_dir: Path, cases: Sequence[Case], report: Report) -> dict[str, Row]:
    """Return the patient and the split of each case.

    Without a table each case is a patient, in the split that its layout says.

    Args:
        source_dir: the user's folder.
        cases: of the folder.
        report: gets a fault for a table that cannot be read, for cases that it does not name or
            names wrongly, and for each patient in two splits.

    """
    path = source_dir / PATIENTS
    table = report.attempt(partial(read_rows, path)) if path.exists() else None
    if table is None:
        return {case.name: Row(case.name, case.split) for case in cases}
    states_splits = any("split" in row for row in table)
    rows = {row.get("file", ""): row for row in table}
    found: dict[str, Row] = {}
    missing = []
    for case in cases:
        names = [case.image.name, *([case.label.name] if case.label else []), case.name]
        row = next((rows[name] for name in (*names, name_of(case.image)) if name in rows), {})
        if not row.get("patient"):
            missing.append(case.image.name)
        split = row.get("split", "").lower() if states_splits and row else case.split
        found[case.name] = Row(row.get("patient") or case.name, split)
        if states_splits and row:
            _check_split(path, case, split, report)
    if missing:
        report.fault(
            f"{path}: names no patient for {missing[0]} ({len(missing)} in all), expected a row "
            "for each file of images/ under the columns file, patient; add the rows"
        )
    _check_patients(path, found, report)
    return found


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a table as spreadsheets write it: with or without a byte-order mark, `,` `;` or tabs.

    Args:
        path: the file.

    Returns:
        Its rows by column, the columns' names in small letters.

    Raises:
        ValueError: it is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: byte {error.start} is not UTF-8, expected UTF-8; save it as 'CSV UTF-8'"
        ) from None
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [
        {
            (name or "").strip().lower(): (value or "").strip()
            for name, value in row.items()
            if not isinstance(value, list)  # more cells than columns
        }
        for row in reader
    ]


def _check_split(path: Path, case: Case, split: str, report: Report) -> None:
    """Check the split of a case."""
    if split not in SPLITS:
        report.fault(
            f"{path}: the split of {case.image.name} is {split!r}, expected {', '.join(SPLITS)}"
        )
    elif case.label is None and split != "unlabelled":
        report.fault(
            f"{path}: {case.image.name} is in {split} but has no label, expected one; add it, or "
            "state unlabelled"
        )


def _check_patients(path: Path, rows: Mapping[str, Row], report: Report) -> None:
    """Check that no patient is in two splits, but for training and unlabelled."""
    splits: dict[str, set[str]] = {}
    for row in rows.values():
        splits.setdefault(row.patient, set()).add(row.split)
    for patient, found in splits.items():
        if len(found) > 1 and found != TOGETHER:
            listed = " and ".join(name for name in SPLITS if name in found)
            report.fault(
                f"{path}: patient {patient!r} is in {listed}, expected one split; scores would be "
                "too high, move the patient to one of them"
            )
