"""The slices of a semi-supervised run: labelled, validation and unlabelled ones, apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from input_pipeline.slices import Slice, Subset, abouts
from ssa_jax.experiment import data
from ssa_jax.experiment.settings import Settings


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


def draw_pools(settings: Settings, labelled: data.Plan) -> Pools:
    """Return the slices of a semi-supervised run; unlabelled ones are drawn by the seed.

    Args:
        settings: whose data and self_train groups and seed are read.
        labelled: the labelled slices.

    Raises:
        ValueError: there are no unlabelled slices, or fewer than `self_train.unlabelled_slices`.
    """
    unlabelled = data.open_split(settings, data.UNLABELLED)
    wanted = settings.self_train.unlabelled_slices
    if not 0 <= wanted <= len(unlabelled):
        raise ValueError(
            f"self_train.unlabelled_slices is {wanted}; expected 0 (all) to {len(unlabelled)}"
        )
    if wanted:
        rng = np.random.default_rng(settings.seed)
        chosen = np.sort(rng.choice(len(unlabelled), wanted, replace=False))
        unlabelled = Subset(unlabelled, chosen.tolist())
    return Pools(labelled.training, labelled.validation, unlabelled)


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
    counts = data.pixels_of(settings, slices.training)
    missing = [name for name, count in zip(names, counts, strict=True) if not count]
    if missing:
        raise ValueError(
            f"no labelled training slice shows {' or '.join(missing)}, expected every class in the "
            "first round (section 3.2.2); add slices, or choose others by data.split_seed"
        )
    check_patients_apart(settings, slices)


def check_patients_apart(settings: Settings, slices: Pools) -> None:
    """Check that no patient of the validation or test split is among the unlabelled.

    Args:
        settings: whose data group is read.
        slices: of the run.

    Raises:
        ValueError: a patient is in both.
    """
    held = {data.VALIDATION: slices.validation}
    if data.TEST in data.split_names(settings):
        held[data.TEST] = data.open_split(settings, data.TEST)
    unlabelled = {item.patient for item in abouts(slices.unlabelled)}
    for split, labelled in held.items():
        both = sorted(unlabelled & {item.patient for item in abouts(labelled)})
        if both:
            raise ValueError(
                f"{len(both)} patients of {split} are among the unlabelled too, {both[0]!r} first, "
                f"expected none, as the scores of {split} would be too high; remove them from one "
                "of the two"
            )
