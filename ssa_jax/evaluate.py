"""Predictions on the slices' own grids, and their scores."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from ssa_jax.inference import Predict, most_probable
from ssa_jax.metrics import CaseRow, case_rows, dice_score

# Brings `[S, S, C]` on the network's grid back to a slice's own grid `[H, W, C]`.
FromGrid = Callable[[np.ndarray, Any], np.ndarray]


class Batch(Protocol):
    """A batch to predict: network input, and the slices and grids it came from."""

    @property
    def image(self) -> np.ndarray:
        """`[B, S, S, C]`; places after the last slice are padding."""

    @property
    def slices(self) -> Sequence[Any]:
        """At most B, with image, mask, id, patient and spacing."""

    @property
    def grids(self) -> Sequence[Any]:
        """One for each slice, as `FromGrid` takes it."""


class SlicePrediction(NamedTuple):
    """One slice, predicted, on its own grid.

    Attributes:
      slice: the slice it was made from.
      prob: `[H, W, K]` float32, background first.
      labels: `[H, W]` uint8 class index.
      attention: gives the energies of the encoder stages (equation 1), `[H, W, 4]`; they are
        resized when asked for, since neither scores nor pseudo-labels need them.
    """

    slice: Any
    prob: np.ndarray
    labels: np.ndarray
    attention: Callable[[], np.ndarray]


def predict_slices(
    predict: Predict, batches: Iterable[Batch], from_grid: FromGrid
) -> Iterator[SlicePrediction]:
    """Predict every slice of `batches`, in order, on its own grid.

    The probabilities are resized, then the class is chosen.
    """
    for batch in batches:
        output = predict(batch.image)
        rows = zip(batch.slices, batch.grids, output.prob, output.attention, strict=False)
        for item, grid, prob, attention in rows:
            own = np.clip(from_grid(prob, grid), 0.0, 1.0)
            maps = partial(from_grid, attention, grid)
            yield SlicePrediction(item, own, most_probable(own), maps)


def score(
    prediction: SlicePrediction, class_names: Sequence[str], tolerance: float
) -> list[CaseRow]:
    """Both blocks of metrics of one labelled slice, a row for each class."""
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
    """The `standard` block over whole volumes, gathered from slices that come one after another.

    Args:
      class_names: of the classes 1, 2, ...
      tolerance: of NSD, in mm, or in pixels where a case's spacing is unknown.
    """

    def __init__(self, class_names: Sequence[str], tolerance: float) -> None:
        self._names = class_names
        self._tolerance = tolerance
        self._rows: list[CaseRow] = []
        self._open: list[tuple[Any, np.ndarray]] = []  # slices of the volume that is coming in
        self._closed: set[str] = set()

    def add(self, prediction: SlicePrediction) -> None:
        """Take the next slice; a lone one only ends the volume before it.

        Raises:
          ValueError: the slices of a volume do not come one after another.
        """
        item = prediction.slice
        if self._open and item.volume != self._open[0][0].volume:
            self._close()
        if item.volume in self._closed:
            raise ValueError(f"slices of {item.volume} do not come one after another")
        if item.volume is not None:
            self._open.append((item, prediction.labels))

    def rows(self) -> list[CaseRow]:
        """A row for each volume and class, without `paper_compat`."""
        if self._open:
            self._close()
        return self._rows

    def _close(self) -> None:
        """Score the volume that has come in."""
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


def mean_dsc(predictions: Iterable[SlicePrediction], classes: int) -> float:
    """DSC per slice and class, averaged over slices, then over the lesion classes.

    Slices without the class in truth and prediction are left out.

    Args:
      predictions: of labelled slices.
      classes: number of lesion classes.

    Returns:
      In [0, 1]; nan where no slice defines it.
    """
    scores: list[list[float]] = [[] for _ in range(classes)]
    for prediction in predictions:
        for index in range(classes):
            pair = prediction.slice.mask == index + 1, prediction.labels == index + 1
            value = dice_score(*pair)
            if value is not None:
                scores[index].append(value)
    means = [float(np.mean(values)) if values else float("nan") for values in scores]
    return float(np.mean(means))
