"""The slices of an experiment: building and opening the records, and splitting them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input_pipeline import splits
from input_pipeline.datasets import catalog
from input_pipeline.slices import Slice, Subset
from ssa_jax.experiment.settings import Settings
from ssa_jax.semi_supervised.quality import class_pixels

TRAIN, VALIDATION, TEST, UNLABELLED = "train", "validation", "test", catalog.UNLABELLED
SPLITS_FILE = "splits.json"


@dataclass(frozen=True)
class Pools:
    """The slices of a semi-supervised run.

    Attributes:
        training: labelled slices.
        validation: labelled slices whose scores decide the best round.
        unlabelled: slices to pseudo-label, at most `self_train.unlabelled_slices`.
    """

    training: Sequence[Slice]
    validation: Sequence[Slice]
    unlabelled: Sequence[Slice]


def build_records(settings: Settings) -> None:
    """Build the data set if it is not built yet, see `catalog.build`.

    Args:
        settings: whose data group is read.

    Raises:
        ValueError: the source is incomplete or damaged, or none was named.
        OSError: the records cannot be written.
    """
    source = Path(settings.data.source_dir) if settings.data.source_dir else None
    catalog.build(
        settings.data.name,
        source_dir=source,
        data_dir=Path(settings.data.data_dir),
        task=settings.data.task,
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


def training_slices(settings: Settings, workdir: Path) -> tuple[Sequence[Slice], Sequence[Slice]]:
    """Return training and validation slices; the split is stored in the workdir's `splits.json`.

    Where the user stated a split 'validation' for the data set, that one validates.

    In the training part `data.train_slices` selects patients, and `data.lesion_slices_only` removes
    slices without lesion.

    Args:
        settings: whose data group is read.
        workdir: of the training.

    Raises:
        ValueError: a part would be empty, or the stored split is of another data set.
        OSError: the split cannot be written or read.
    """
    training, validation = _parts(settings, workdir)
    if settings.data.train_slices:
        patients = [item.patient for item in training]
        count, seed = settings.data.train_slices, settings.data.split_seed
        training = Subset(training, splits.split_by_patient(patients, holdout=count, seed=seed)[1])
    if not settings.data.lesion_slices_only:
        return training, validation
    kept = [k for k, item in enumerate(training) if item.mask is not None and item.mask.any()]
    if not kept:
        raise ValueError(
            "data.lesion_slices_only is True; expected False, as no training slice has a lesion"
        )
    return Subset(training, kept), validation


def evaluation_slices(settings: Settings, workdir: Path, split: str) -> Sequence[Slice]:
    """Return the slices of a split; 'train' and 'validation' as in the training.

    Args:
        settings: whose data group is read.
        workdir: of the training.
        split: name of the split.

    Raises:
        ValueError: no such split, or one without labels to score.
    """
    try:
        if split in (TRAIN, VALIDATION):
            slices = training_slices(settings, workdir)[split == VALIDATION]
        else:
            slices = open_split(settings, split)
    except ValueError as error:
        if settings.data.validation_split or split in (TRAIN, VALIDATION):
            raise
        raise ValueError(f"{error}; {VALIDATION} is held out of {TRAIN}") from error
    if len(slices) == 0 or slices[0].mask is None:
        raise ValueError(f"split {split!r} has no labels to score; name a labelled split")
    return slices


def pools(settings: Settings, workdir: Path) -> Pools:
    """Return the slices of a semi-supervised run; unlabelled ones are drawn by the seed.

    Args:
        settings: whose data and self_train groups and seed are read.
        workdir: of the run.

    Raises:
        ValueError: as `training_slices`, or `self_train.unlabelled_slices` exceeds their number.
    """
    training, validation = training_slices(settings, workdir)
    unlabelled = open_split(settings, UNLABELLED)
    wanted = settings.self_train.unlabelled_slices
    if not 0 <= wanted <= len(unlabelled):
        raise ValueError(
            f"self_train.unlabelled_slices is {wanted}; expected 0 (all) to {len(unlabelled)}"
        )
    if wanted:
        rng = np.random.default_rng(settings.seed)
        chosen = np.sort(rng.choice(len(unlabelled), wanted, replace=False))
        unlabelled = Subset(unlabelled, chosen.tolist())
    return Pools(training, validation, unlabelled)


def check_pools(settings: Settings, slices: Pools) -> None:
    """Check the slices of a semi-supervised run.

    Args:
        settings: whose data group is read.
        slices: of the run.

    Raises:
        ValueError: no labelled training slice shows some class, or a patient of the validation or
            test split is also among the unlabelled.
    """
    names = ("background", *settings.class_names)
    counts = pixels_of(settings, slices.training)
    missing = [name for name, count in zip(names, counts, strict=True) if not count]
    if missing:
        raise ValueError(
            f"no labelled training slice shows {' or '.join(missing)}, expected every class in the "
            "first round (section 3.2.2); add slices, or choose others by data.split_seed"
        )
    held = {VALIDATION: slices.validation}
    if TEST in split_names(settings):
        held[TEST] = open_split(settings, TEST)
    unlabelled = {item.patient for item in slices.unlabelled}
    for split, labelled in held.items():
        both = sorted(unlabelled & {item.patient for item in labelled})
        if both:
            raise ValueError(
                f"{len(both)} patients of {split} are among the unlabelled too, {both[0]!r} first, "
                f"expected none, as the scores of {split} would be too high; remove them from one "
                "of the two"
            )


def pixels_of(settings: Settings, labelled: Sequence[Slice]) -> list[float]:
    """Sum the weights of the pixels of each class in labelled slices (P_c of equation 8).

    Args:
        settings: whose task is read.
        labelled: slices; those without mask are skipped.

    Returns:
        One sum for each class, background first.
    """
    labels = ((item.mask, item.weight) for item in labelled if item.mask is not None)
    return class_pixels(labels, len(settings.class_names) + 1)


def _parts(settings: Settings, workdir: Path) -> tuple[Sequence[Slice], Sequence[Slice]]:
    """Return all slices of the training and validation parts."""
    data = settings.data
    train = open_split(settings, TRAIN)
    path = workdir / SPLITS_FILE
    validation = data.validation_split
    if not validation and not path.exists():  # a cross-validation stores its folds there
        validation = catalog.validation_split(
            data.name, data_dir=Path(data.data_dir), task=data.task
        )
    if validation:
        return train, open_split(settings, validation)
    ids = [item.id for item in train]
    if not path.exists():
        kept, held = splits.split_by_patient(
            [item.patient for item in train], holdout=data.validation_slices, seed=data.split_seed
        )
        splits.save_split(path, [ids[i] for i in kept], [ids[i] for i in held])
    train_ids, validation_ids = splits.load_split(path)
    return Subset(train, _indices(ids, train_ids, path)), Subset(
        train, _indices(ids, validation_ids, path)
    )


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
