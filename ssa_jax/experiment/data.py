"""The slices of an experiment: building and opening the records, and splitting them."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from input_pipeline import splits
from input_pipeline.datasets import catalog
from input_pipeline.files import write_json
from input_pipeline.slices import Slice, Subset, abouts, known
from input_pipeline.verified import signed, value_sha256
from ssa_jax.experiment import data_changes, workdir
from ssa_jax.experiment.settings import Settings
from ssa_jax.semi_supervised.quality import class_pixels
from ssa_jax.training.distributed import decided, say

TRAIN, VALIDATION, TEST, UNLABELLED = "train", "validation", "test", catalog.UNLABELLED
SPLITS_FILE = "splits.json"


@dataclass(frozen=True)
class Plan:
    """The slices of a training, and what its workdir is to hold about them.

    Attributes:
        training: labelled slices.
        validation: labelled slices to score the network on.
        files: content of JSON files to be written in the workdir, by name.
        validated_on: hash of what the validation slices hold.
        note: the changes of the data set that the user accepted, or ''.
    """

    training: Sequence[Slice]
    validation: Sequence[Slice]
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    validated_on: str = ""
    note: str = ""


def build_records(
    settings: Settings, check: Callable[[Settings], Any] = lambda settings: None
) -> None:
    """Build the data set if it is not built yet, see `catalog.build`.

    Args:
        settings: whose data group is read.
        check: refuses records of a changed source before they replace the old ones, given settings
            with their temporary place.

    Raises:
        ValueError: the source is incomplete or damaged, or none was named, or as `check`.
        OSError: the records cannot be written.
    """
    source = Path(settings.data.source_dir) if settings.data.source_dir else None
    decided(
        lambda: catalog.build(
            settings.data.name,
            source_dir=source,
            data_dir=Path(settings.data.data_dir),
            task=settings.data.task,
            begin=lambda folder: say(f"{folder}: building the records"),
            accept=lambda data_dir: check(settings.replace({"data.data_dir": str(data_dir)})),
        )
    )


def open_split(settings: Settings, split: str) -> Sequence[Slice]:
    """Open a split of the data set as it was built.

    Args:
        settings: whose data group is read.
        split: name of the split.

    Raises:
        ValueError: it is not built, or has no such split.
    """
    data = settings.data
    return catalog.open_split(data.name, split, data_dir=Path(data.data_dir), task=data.task)


def split_names(settings: Settings) -> list[str]:
    """List the splits of the data set.

    Args:
        settings: whose data group is read.

    Raises:
        ValueError: it is not built.
    """
    data = settings.data
    return catalog.split_names(data.name, data_dir=Path(data.data_dir), task=data.task)


def compare(
    settings: Settings,
    folder: Path,
    names: Sequence[str],
    *,
    accept_changes: bool = False,
    way_out: str,
) -> tuple[data_changes.Hashes, str | None]:
    """Compare the slices with those that a training began with.

    Args:
        settings: whose data group is read.
        folder: workdir of the training.
        names: splits to compare.
        accept_changes: return changes instead of refusing them.
        way_out: what to do about changes, for the message.

    Returns:
        The hashes of the slices as they are now, and what changed: '' for nothing, None where no
        training began.

    Raises:
        ValueError: slices were added, gone or changed.
    """
    now = data_changes.hashes_of(settings, names)
    before = data_changes.stored_hashes(folder)
    if before is None:
        return now, None
    found = data_changes.changes(before, now)
    if found and not accept_changes:
        raise ValueError(
            f"{folder / data_changes.DATA_FILE}: the data set is another than this training began "
            f"with: {found}; {way_out}"
        )
    return now, found


def plan(
    settings: Settings,
    folder: Path,
    also: Sequence[str] = (),
    *,
    split_of: Path | None = None,
    accept_changes: bool = False,
    way_out: str = "name another --workdir",
) -> Plan:
    """Choose the slices of a training and check that they are those it began with; write nothing.

    Args:
        settings: whose data group is read.
        folder: workdir of the training.
        also: further splits whose slices are to be the same.
        split_of: workdir whose stored split a new training takes; None to draw one.
        accept_changes: take slices that were added or changed, and do without those that are gone.
        way_out: what to do about changed slices, for the message.

    Raises:
        ValueError: slices were added, gone or changed, a part would be empty, or the stored split
            is missing or damaged.
        OSError: a file cannot be read.
    """
    stated = _validation_split(settings, folder)
    names = [TRAIN, stated or TRAIN, *also]
    now, found = compare(settings, folder, names, accept_changes=accept_changes, way_out=way_out)
    files: dict[str, Mapping[str, Any]] = {}
    if found is None or found:
        files[data_changes.DATA_FILE] = now
    training, validation, parts = _parts(settings, folder, stated, split_of, follow=accept_changes)
    if parts is not None:
        files[SPLITS_FILE] = dict(zip(splits.PARTS, parts, strict=True))
    held = [item.id for item in abouts(validation)]
    hashes = now[stated or TRAIN]
    validated_on = value_sha256([[name, hashes[name]] for name in held])
    note = f"the data set is another than this training began with: {found}" if found else ""
    return Plan(_chosen(settings, training), validation, files, validated_on, note)


def write_plan(files: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write what a workdir is to hold about its slices.

    Args:
        files: of a plan.
        folder: the workdir.

    Raises:
        OSError: a file cannot be written.
    """
    for name, value in files.items():
        write_json(folder / name, signed(value))


def training_slices(settings: Settings, folder: Path) -> tuple[Sequence[Slice], Sequence[Slice]]:
    """Return training and validation slices; the split is stored in the workdir's `splits.json`.

    Where the user stated a split 'validation' for the data set, that one validates.

    In the training part `data.train_slices` selects patients, and `data.lesion_slices_only` removes
    slices without lesion.

    Args:
        settings: whose data group is read.
        folder: workdir of the training.

    Raises:
        ValueError: a part would be empty, or the stored split is missing, damaged or of another
            data set.
        OSError: the split cannot be written or read.
    """
    training, validation, parts = _parts(settings, folder, _validation_split(settings, folder))
    if parts is not None:
        write_plan({SPLITS_FILE: dict(zip(splits.PARTS, parts, strict=True))}, folder)
    return _chosen(settings, training), validation


def evaluation_slices(settings: Settings, folder: Path, split: str) -> Sequence[Slice]:
    """Return the slices of a split; 'train' and 'validation' as in the training.

    Args:
        settings: whose data group is read.
        folder: workdir of the training.
        split: name of the split.

    Raises:
        ValueError: no such split, or one without labels to score.
    """
    try:
        if split in (TRAIN, VALIDATION):
            slices = training_slices(settings, folder)[split == VALIDATION]
        else:
            slices = open_split(settings, split)
    except ValueError as error:
        if settings.data.validation_split or split in (TRAIN, VALIDATION):
            raise
        raise ValueError(f"{error}; {VALIDATION} is held out of {TRAIN}") from error
    if len(slices) == 0 or slices[0].mask is None:
        raise ValueError(f"split {split!r} has no labels to score; name a labelled split")
    return slices


def pixels_of(settings: Settings, labelled: Sequence[Slice]) -> list[float]:
    """Sum the weights of the pixels of each class in labelled slices (P_c of equation 8).

    Args:
        settings: whose task is read.
        labelled: slices; those without mask are skipped.

    Returns:
        One sum for each class, background first.
    """
    classes = len(settings.class_names) + 1
    total = [0.0] * classes
    for index in range(len(labelled)):
        found = known(labelled, index)
        if found is not None and found.pixels is not None:
            counts: Sequence[float] = found.pixels
        elif (item := labelled[index]).mask is not None:
            counts = class_pixels([(item.mask, item.weight)], classes)
        else:
            continue
        total = [a + b for a, b in itertools.zip_longest(total, counts, fillvalue=0.0)]
    return total


def _chosen(settings: Settings, training: Sequence[Slice]) -> Sequence[Slice]:
    """Leave out slices of the training part as the settings say."""
    if settings.data.train_slices:
        patients = [item.patient for item in abouts(training)]
        count, seed = settings.data.train_slices, settings.data.split_seed
        training = Subset(training, splits.split_by_patient(patients, holdout=count, seed=seed)[1])
    if not settings.data.lesion_slices_only:
        return training
    kept = [k for k, item in enumerate(abouts(training)) if any((item.pixels or ())[1:])]
    if not kept:
        raise ValueError(
            "data.lesion_slices_only is True; expected False, as no training slice has a lesion"
        )
    return Subset(training, kept)


def _validation_split(settings: Settings, folder: Path) -> str:
    """Return the split to validate on; '' if it is held out of the training split.

    A split that the user stated for the data set gives way to one that the workdir stores, as a
    cross-validation does.
    """
    data = settings.data
    if data.validation_split or (folder / SPLITS_FILE).exists():
        return data.validation_split
    return catalog.validation_split(data.name, data_dir=Path(data.data_dir), task=data.task)


def _parts(
    settings: Settings,
    folder: Path,
    stated: str,
    split_of: Path | None = None,
    *,
    follow: bool = False,
) -> tuple[Sequence[Slice], Sequence[Slice], tuple[list[str], list[str]] | None]:
    """Return the training and validation slices, and their ids if these are to be stored.

    Args:
        settings: whose data group is read.
        folder: the workdir.
        stated: see `_validation_split`.
        split_of: see `plan`.
        follow: adapt a stored split to slices that were added or are gone.
    """
    data = settings.data
    train = open_split(settings, TRAIN)
    path = folder / SPLITS_FILE
    if stated:
        return train, open_split(settings, stated), None
    patients = {item.id: item.patient for item in abouts(train)}
    stored = splits.load_split(path) if path.exists() else None
    if stored is None and workdir.has_checkpoints(folder, ["last"]):
        raise ValueError(
            f"{path}: not found, though a training is there, expected the slices it trained and "
            f"validated on; {splits.MEND}"
        )
    if stored is None and split_of is not None and (split_of / SPLITS_FILE).exists():
        parts = splits.load_split(split_of / SPLITS_FILE)
    elif stored is None:
        kept, held = splits.split_by_patient(
            list(patients.values()), holdout=data.validation_slices, seed=data.split_seed
        )
        ids = list(patients)
        parts = [ids[i] for i in kept], [ids[i] for i in held]
    else:
        parts = splits.updated_split(*stored, patients) if follow else stored
    splits.check_parts(path, *parts)
    training, validation = (_indices(list(patients), names, path) for names in parts)
    splits.require_patients_apart(path, patients, *parts)
    return Subset(train, training), Subset(train, validation), None if parts == stored else parts


def _indices(ids: Sequence[str], wanted: Sequence[str], path: Path) -> list[int]:
    """Return the indices of the slices of a stored split in the data set."""
    place = {name: index for index, name in enumerate(ids)}
    missing = [name for name in wanted if name not in place]
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} slices are not in the data set, {missing[0]!r} first; set "
            "data.data_dir to the data set this workdir was trained on"
        )
    return [place[name] for name in wanted]
