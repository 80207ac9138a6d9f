"""Predictions on the slices' own grids, and their scores."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ssa_jax.inference import Predict, labels
from ssa_jax.metrics import CaseRow, case_rows, dice_score
from ssa_jax.state import Variables

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
      attention: `[H, W, 4]` energies of the encoder stages (equation 1).
    """

    slice: Any
    prob: np.ndarray
    labels: np.ndarray
    attention: np.ndarray


def predict_slices(
    predict: Predict, variables: Variables, batches: Iterable[Batch], from_grid: FromGrid
) -> Iterator[SlicePrediction]:
    """Predict every slice of `batches`, in order, on its own grid.

    The probabilities are resized, then the class is chosen.
    """
    for batch in batches:
        output = predict(variables, batch.image)
        rows = zip(batch.slices, batch.grids, output.prob, output.attention, strict=False)
        for item, grid, prob, attention in rows:
            own = np.clip(from_grid(prob, grid), 0.0, 1.0)
            yield SlicePrediction(item, own, labels(own), from_grid(attention, grid))


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
