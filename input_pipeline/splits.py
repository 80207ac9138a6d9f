"""Choose the slices to train on and those to validate on, by patient, and store the choice."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np

from input_pipeline.files import write_json
from input_pipeline.verified import read_signed, signed

MEND = "restore it from a copy, or make the split again in another --workdir"
PARTS = ("train", "validation")
SCHEMES = ("usual", "ma")


def split_by_patient(
    patients: Sequence[str], *, holdout: int, seed: int
) -> tuple[list[int], list[int]]:
    """Hold out whole patients for validation.

    Patients are drawn in an order that depends only on the seed and their names, until at least
    `holdout` slices are held out.

    Args:
        patients: the patient of each slice.
        holdout: minimal number of slices to hold out, from 1 to one less than there are.
        seed: seed of the draw, 0 or more.

    Returns:
        Indices of the training slices and of the validation slices, both ascending.

    Raises:
        ValueError: no slice would be held out, or none would be left to train on.
    """
    if not 0 < holdout < len(patients):
        raise ValueError(
            f"cannot hold out {holdout} of {len(patients)} slices, "
            f"expected a number from 1 to {len(patients) - 1}"
        )
    sizes = Counter(patients)
    names = sorted(sizes)
    held: set[str] = set()
    count = 0
    for index in np.random.default_rng(seed).permutation(len(names)):
        if count >= holdout:
            break
        held.add(names[index])
        count += sizes[names[index]]
    if count == len(patients):
        raise ValueError(
            f"holding out {holdout} slices takes all {len(names)} patients; hold out fewer slices"
        )
    train = [i for i, patient in enumerate(patients) if patient not in held]
    return train, [i for i, patient in enumerate(patients) if patient in held]


def make_folds(
    patients: Sequence[str], *, folds: int, scheme: str, seed: int
) -> list[tuple[list[str], list[str]]]:
    """Assign patients to the folds of a cross-validation (section 4.1).

    Args:
        patients: names, in any order, repeated or not.
        folds: number of folds, from 2 to the number of patients; their sizes differ by one at most.
        scheme: 'usual' trains on all folds but one and validates on that one (16 and 4 of 20
            patients); 'ma' trains on one fold and validates on the others (4 and 16), as Ma et
            al. 2021 do.
        seed: seed of the assignment, which depends only on it and on the names.

    Returns:
        For each fold, the sorted names of its training and of its validation patients.

    Raises:
        ValueError: fewer patients than folds, fewer than two folds, or an unknown scheme.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme is {scheme!r}, expected one of {SCHEMES}")
    names = sorted(set(patients))
    if not 2 <= folds <= len(names):
        raise ValueError(f"{folds} folds of {len(names)} patients, expected 2 to {len(names)}")
    order = np.random.default_rng(seed).permutation(len(names))
    parts = [sorted(names[k] for k in order[fold::folds]) for fold in range(folds)]
    rest = [sorted(set(names) - set(part)) for part in parts]
    pairs = (rest, parts) if scheme == "usual" else (parts, rest)
    return list(zip(*pairs, strict=True))


def save_split(path: Path, train_ids: Sequence[str], validation_ids: Sequence[str]) -> None:
    """Write the ids of the slices of both parts as JSON, completely or not at all.

    Args:
        path: the file.
        train_ids: ids of the slices to train on.
        validation_ids: ids of the slices to validate on.

    Raises:
        ValueError: an id is in both parts or twice in one, or a part is empty.
        OSError: the file cannot be written.
    """
    check_parts(path, train_ids, validation_ids)
    parts = {"train": list(train_ids), "validation": list(validation_ids)}
    write_json(path, signed(parts))


def load_split(path: Path) -> tuple[list[str], list[str]]:
    """Read the ids of the training and of the validation slices that `save_split` wrote.

    Args:
        path: the file.

    Returns:
        Ids of the slices to train on and of those to validate on.

    Raises:
        ValueError: the file is not such a split, or damaged, or an id is in both parts.
        OSError: the file cannot be read.
    """
    parts = read_signed(path, MEND)
    train, validation = (parts.get(name) for name in PARTS)
    if not _is_id_list(train) or not _is_id_list(validation):
        raise ValueError(
            f"{path}: not a split, expected lists of slice ids under {' and '.join(PARTS)}; {MEND}"
        )
    check_parts(path, train, validation)
    return train, validation


def updated_split(
    train_ids: Sequence[str], held_ids: Sequence[str], patients: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Adapt a split to slices that were added or are gone.

    Args:
        train_ids: ids of the slices to train on, so far.
        held_ids: ids of the slices to validate on, so far.
        patients: the patient of each slice that there is now, by the slice's id.

    Returns:
        Ids of the slices to train on and of those to validate on: a new slice is in its patient's
        part, that of a new patient is trained on.
    """
    held = {patients[name] for name in held_ids if name in patients}
    known = {*train_ids, *held_ids}
    train = [k for k in train_ids if k in patients]
    validation = [k for k in held_ids if k in patients]
    for name, patient in patients.items():
        if name not in known:
            (validation if patient in held else train).append(name)
    return train, validation


def require_patients_apart(
    path: Path, patients: Mapping[str, str], train_ids: Sequence[str], held_ids: Sequence[str]
) -> None:
    """Check that no patient has slices in both parts of a stored split.

    Args:
        path: file of the split, for the message.
        patients: the patient of each slice, by the slice's id.
        train_ids: ids of the slices to train on, all in `patients`.
        held_ids: ids of the slices to validate on, all in `patients`.

    Raises:
        ValueError: a patient is in both parts.
    """
    both = {patients[name] for name in train_ids} & {patients[name] for name in held_ids}
    if both:
        raise ValueError(
            f"{path}: {len(both)} patients are in both parts, such as {min(both)!r}, expected each "
            f"in one, as the validation scores would be too high; {MEND}"
        )


def _is_id_list(value: object) -> TypeGuard[list[str]]:
    """Return whether a JSON value is a list of strings."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def check_parts(path: Path, train_ids: Sequence[str], validation_ids: Sequence[str]) -> None:
    """Check that both parts have slices, and that no slice is in them twice.

    Args:
        path: file of the split, for the message.
        train_ids: ids of the slices to train on.
        validation_ids: ids of the slices to validate on.

    Raises:
        ValueError: a part is empty, or a slice is in it twice, or in both.
    """
    for name, ids in zip(PARTS, (train_ids, validation_ids), strict=True):
        if not ids:
            raise ValueError(f"{path}: the {name} part is empty, expected 1 slice or more")
        if len(set(ids)) != len(ids):
            raise ValueError(f"{path}: a slice is twice in the {name} part; list each slice once")
    both = sorted(set(train_ids) & set(validation_ids))
    if both:
        raise ValueError(
            f"{path}: {len(both)} slices are in both parts, such as {both[0]!r}; "
            f"keep each of them in one part"
        )
