"""Scores of predictions on the slices' own grids."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssa_jax.evaluation.metrics import CaseRow, case_rows, dice_score


class SlicePrediction(NamedTuple):
    """The prediction of one slice on its own grid.

    Attributes:
        slice: the slice that was predicted.
        prob: `[H, W, K]` float32 in [0, 1], background first.
        labels: `[H, W]` uint8 class index.
        attention: returns the energies of the encoder stages (equation 1), `[H, W, 4]` float32.
            They are resized by the call, since neither scores nor pseudo-labels need them.
    """

    slice: Any
    prob: np.ndarray
    labels: np.ndarray
    attention: Callable[[], np.ndarray]


def score(
    prediction: SlicePrediction, class_names: Sequence[str], tolerance: float
) -> list[CaseRow]:
    """Score one labelled slice by both blocks of metrics.

    Args:
        prediction: of the slice.
        class_names: of the classes 1, 2, ...
        tolerance: of NSD, in mm, or in pixels where the spacing is unknown.

    Returns:
        A row for each class.
    """
    item = prediction.slice
    return case_rows(
        item.mask,
        prediction.labels,
        prediction.prob[..., 1:],
        case=item.id,
        patient=item.patient,
        class_names=class_names,
        spacing=item.spacing,
        tolerance=tolerance,
    )


class VolumeScores:
    """The `standard` block of whole volumes, from their slices in order.

    Args:
        class_names: of the classes 1, 2, ...
        tolerance: of NSD, in mm, or in pixels where the spacing is unknown.
    """

    def __init__(self, class_names: Sequence[str], tolerance: float) -> None:
        self._names = class_names
        self._tolerance = tolerance
        self._rows: list[CaseRow] = []
        # Slices of the volume that is not complete yet, and their labels.
        self._open: list[tuple[Any, np.ndarray]] = []
        self._closed: set[str] = set()

    def add(self, prediction: SlicePrediction) -> None:
        """Add the next slice; one that belongs to no volume only completes the volume before it.

        Args:
            prediction: of a labelled slice.

        Raises:
            ValueError: the slices of a volume are not consecutive.
        """
        item = prediction.slice
        if self._open and item.volume != self._open[0][0].volume:
            self._close()
        if item.volume in self._closed:
            raise ValueError(f"slices of {item.volume} are not consecutive; sort them by volume")
        if item.volume is not None:
            self._open.append((item, prediction.labels))

    def rows(self) -> list[CaseRow]:
        """Return a row for each volume and class, without `paper_compat`."""
        if self._open:
            self._close()
        return self._rows

    def _close(self) -> None:
        """Score the volume, which is complete."""
        first = self._open[0][0]
        spacing = None
        if first.spacing is not None and first.slice_spacing is not None:
            spacing = (first.slice_spacing, *first.spacing)
        self._rows += case_rows(
            np.stack([item.mask for item, _ in self._open]),
            np.stack([labels for _, labels in self._open]),
            None,
            case=first.volume,
            patient=first.patient,
            class_names=self._names,
            spacing=spacing,
            tolerance=self._tolerance,
        )
        self._closed.add(first.volume)
        self._open = []


def volume_part(count: int, volume_of: Callable[[int], str | None], part: int, parts: int) -> range:
    """Choose the slices of one of several parts of about the same size, whole volumes each.

    Args:
        count: number of slices; those of a volume are consecutive.
        volume_of: returns the volume of a slice, None for a single slice; called for few of them.
        part: number of the part, from 0.
        parts: their number.

    Returns:
        The indices of the part's slices.
    """

    def start(number: int) -> int:
        place = count * number // parts
        if 0 < place < count:
            before = volume_of(place - 1)
            while before is not None and place < count and volume_of(place) == before:
                place += 1
        return place

    return range(start(part), start(part + 1))


def slice_dsc(predictions: Iterable[SlicePrediction], classes: int) -> list[list[float | None]]:
    """Compute the DSC of each lesion class in each slice.

    Args:
        predictions: of labelled slices.
        classes: number of lesion classes.

    Returns:
        For each slice the DSC of the classes; None where one is in neither truth nor prediction.
    """
    numbers = range(1, classes + 1)
    return [
        [dice_score(made.slice.mask == number, made.labels == number) for number in numbers]
        for made in predictions
    ]


def mean_dsc(scores: Sequence[Sequence[float | None]], classes: int) -> float:
    """Average the DSC over the slices of each class, then over the lesion classes.

    Args:
        scores: of each slice, see `slice_dsc`.
        classes: number of lesion classes.

    Returns:
        The mean in [0, 1] over the defined ones; nan where a class is defined in no slice.
    """
    columns = [[row[k] for row in scores] for k in range(classes)]
    known = [[value for value in column if value is not None] for column in columns]
    means = [float(np.mean(values)) if values else float("nan") for values in known]
    return float(np.mean(means))
