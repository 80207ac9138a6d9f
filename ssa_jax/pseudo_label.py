"""Pseudo-labels: the trust module (equation 9, section 3.2.2) and what tells good ones from bad."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ssa_jax.inference import most_probable

LOW_CONFIDENCE = ("background", "ignore")
BINS = 1000  # of a histogram of confidence
NEARLY_EMPTY, NEARLY_FULL = 0.001, 0.5  # lesion's share of a slice


@dataclass(frozen=True)
class Trust:
    """How probabilities become labels to train on. The defaults are equation 9.

    Attributes:
      eta: the most probable class is taken where its probability exceeds eta, in [0, 1); 0 takes
        it everywhere, which is no trust module at all.
      low_confidence: what the other pixels become: 'background' (the paper) or 'ignore' (they
        count in no loss; neither does background that is not confident).
      adaptive_share: a lesion class's own threshold sinks below eta until this share of the pixels
        it is most probable for passes (class-balanced self-training, Zou et al., ECCV 2018);
        0 keeps eta.
      soft: a pixel counts in the loss by the probability of the label it got.

    Raises:
      ValueError: a field outside its range.
    """

    eta: float = 0.95
    low_confidence: str = "background"
    adaptive_share: float = 0.0
    soft: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.eta < 1:
            raise ValueError(f"self_train.eta is {self.eta}; expected 0 (no trust module) to 1")
        if self.low_confidence not in LOW_CONFIDENCE:
            raise ValueError(
                f"self_train.low_confidence is {self.low_confidence!r}; expected one of "
                f"{LOW_CONFIDENCE}"
            )
        if not 0 <= self.adaptive_share <= 1:
            raise ValueError(f"self_train.adaptive_share is {self.adaptive_share}; expected 0 to 1")


def pseudo_label(
    prob: np.ndarray, thresholds: Sequence[float], trust: Trust
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a slice and how much each counts (equation 9).

    Args:
      prob: `[H, W, K]` probabilities, background first.
      thresholds: of the K classes, see `class_thresholds`.
      trust: what becomes of low confidence.

    Returns:
      Class index `[H, W]` uint8, and weight `[H, W]` uint8 in 255ths.
    """
    labels = most_probable(prob)
    confident = np.max(prob, axis=-1) > np.asarray(thresholds)[labels]
    weight = np.ones(labels.shape)
    if trust.low_confidence == "ignore":
        weight *= confident
    else:
        labels[~confident] = 0
    if trust.soft:
        weight *= np.take_along_axis(prob, labels[..., None].astype(np.intp), axis=-1)[..., 0]
    return labels, np.rint(255 * weight).astype(np.uint8)


def confidence_histogram(prob: np.ndarray) -> np.ndarray:
    """Pixels by most probable class and its probability: `[H, W, K]` to int64 `[K, BINS]`."""
    classes = prob.shape[-1]
    place = np.minimum((np.max(prob, axis=-1) * BINS).astype(np.int64), BINS - 1)
    both = most_probable(prob).astype(np.int64) * BINS + place
    return np.bincount(both.ravel(), minlength=classes * BINS).reshape(classes, BINS)


def class_thresholds(trust: Trust, histogram: np.ndarray) -> list[float]:
    """The threshold of each class, background first.

    Args:
      trust: eta, and how far it may sink.
      histogram: `[K, BINS]`, the sum of `confidence_histogram` over all slices; of it only K is
        used where `adaptive_share` is 0.
    """
    thresholds = [trust.eta] * len(histogram)
    for index in range(1, len(histogram) if trust.adaptive_share > 0 else 0):
        above = np.cumsum(histogram[index][::-1])[::-1]  # pixels at or above each bin's lower edge
        enough = np.flatnonzero(above >= trust.adaptive_share * above[0])
        thresholds[index] = min(trust.eta, float(enough[-1]) / BINS)
    return thresholds


def class_pixels(
    labels: Iterable[tuple[np.ndarray, np.ndarray | None]], classes: int
) -> list[float]:
    """Pixels of each class, background first, each counted by its weight (P_c of equation 8).

    Args:
      labels: (mask `[H, W]`, weight `[H, W]` in 255ths or None for 255) of each slice.
      classes: K.
    """
    total = np.zeros(classes)
    for mask, weight in labels:
        if weight is None:
            total += np.bincount(mask.ravel(), minlength=classes)
        else:
            counted = weight.ravel().astype(np.float64)
            total += np.bincount(mask.ravel(), counted, minlength=classes) / 255
    return [float(pixels) for pixels in total]


def agreement(pairs: Iterable[tuple[np.ndarray, np.ndarray]], classes: int) -> list[float | None]:
    """DSC of each lesion class between two sets of labels, all slices pooled.

    Args:
      pairs: labels `[H, W]` of the same slice, before and after.
      classes: K, background included.

    Returns:
      K - 1 values in [0, 1]; None where neither set has the class.
    """
    both, sizes = np.zeros(classes), np.zeros(classes)
    for before, after in pairs:
        both += np.bincount(before[before == after], minlength=classes)
        sizes += np.bincount(before.ravel(), minlength=classes)
        sizes += np.bincount(after.ravel(), minlength=classes)
    return [float(2 * b / s) if s else None for b, s in zip(both[1:], sizes[1:], strict=True)]
