"""Which slices train and which validate: by patient, from a seed, kept in a file."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np

PARTS = ("train", "validation")
SCHEMES = ("usual", "ma")


def split_by_patient(
    patients: Sequence[str], *, holdout: int, seed: int
) -> tuple[list[int], list[int]]:
    """Hold whole patients out for validation.

    Patients are drawn in an order that depends on the seed and their names alone, until at least
    `holdout` slices are held out.

    Args:
        patients: patient of each slice.
        holdout: slices to hold out at least.
        seed: 0 or more.

    Returns:
        Indices of the slices that train and of those that validate, both ascending.

    Raises:
        ValueError: nothing would be held out, or nothing would be left to train on.
    """
    if not 0 < holdout < len(patients):
        raise ValueError(
            f"cannot hold {holdout} of {len(patients)} slices out; "
            f"expected a number from 1 to {len(patients) - 1}"
        )
    names = sorted(set(patients))
    held: set[str] = set()
    count = 0
    for index in np.random.default_rng(seed).permutation(len(names)):
        if count >= holdout:
            break
        held.add(names[index])
        count += sum(patient == names[index] for patient in patients)
    if count == len(patients):
        raise ValueError(
            f"holding {holdout} slices out takes all {len(names)} patients; hold fewer out"
        )
    train = [i for i, patient in enumerate(patients) if patient not in held]
    return train, [i for i, patient in enumerate(patients) if patient in held]


def make_folds(
    patients: Sequence[str], *, folds: int, scheme: str, seed: int
) -> list[tuple[list[str], list[str]]]:
    """Deal the patients out to the folds of a cross-validation (section 4.1).

    Args:
        patients: names, in any order, repeated or not.
        folds: parts that the patients are dealt out to, as equal as can be.
        scheme: 'usual' trains on all parts but one and validates on that one (16 and 4 of 20
            patients); 'ma' trains on one part and validates on the others (4 and 16), as Ma et
            al. 2021 do.
        seed: of the deal, which depends on it and the names alone.

    Returns:
        Names that train and names that validate, for each fold, sorted.

    Raises:
        ValueError: fewer patients than folds, less than two folds, or another scheme.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme is {scheme!r}, expected one of {SCHEMES}")
    names = sorted(set(patients))
    if not 2 <= folds <= len(names):
        raise ValueError(f"{folds} folds of {len(names)} patients; expected 2 to {len(names)}")
    order = np.random.default_rng(seed).permutation(len(names))
    parts = [sorted(names[k] for k in order[fold::folds]) for fold in range(folds)]
    rest = [sorted(set(names) - set(part)) for part in parts]
    pairs = (rest, parts) if scheme == "usual" else (parts, rest)
    return list(zip(*pairs, strict=True))


def save_split(path: Path, train_ids: Sequence[str], validation_ids: Sequence[str]) -> None:
    """Write slice ids of both parts as JSON, whole or not at all.

    Raises:
        ValueError: an id is in both parts or twice in one, or a part is empty.
        OSError: the file cannot be written.
    """
    _check(path, train_ids, validation_ids)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(
                {"train": list(train_ids), "validation": list(validation_ids)}, file, indent=1
            )
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_split(path: Path) -> tuple[list[str], list[str]]:
    """Slice ids that train and that validate, as `save_split` wrote them.

    Raises:
        ValueError: the file is no such split, or an id is in both parts.
        OSError: the file cannot be read.
    """
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error}); write the split again") from None
    train, validation = (parts.get(name) if isinstance(parts, dict) else None for name in PARTS)
    if not _is_id_list(train) or not _is_id_list(validation):
        raise ValueError(f"{path}: expected lists of slice ids under {' and '.join(PARTS)}")
    _check(path, train, validation)
    return train, validation


def _is_id_list(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _check(path: Path, train_ids: Sequence[str], validation_ids: Sequence[str]) -> None:
    for name, ids in zip(PARTS, (train_ids, validation_ids), strict=True):
        if not ids:
            raise ValueError(f"{path}: the {name} part is empty; give it at least one slice")
        if len(set(ids)) != len(ids):
            raise ValueError(f"{path}: a slice is twice in the {name} part; list each slice once")
    both = sorted(set(train_ids) & set(validation_ids))
    if both:
        raise ValueError(
            f"{path}: {len(both)} slices are in both parts, {both[0]!r} first; "
            f"a slice must train or validate, not both"
        )
