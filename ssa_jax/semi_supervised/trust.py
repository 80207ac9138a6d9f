"""The trust module (section 3.2.2, equation 9): pseudo-labels from probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssa_jax.evaluation.inference import most_probable

LOW_CONFIDENCE = ("background", "ignore")
BINS = 1000  # of a histogram of the highest probability


@dataclass(frozen=True)
class Trust:
    """Options of the trust module, which decides the label of a pixel. The defaults are equation 9.

    Attributes:
        eta: in [0, 1). A pixel is labelled with its most probable class where the probability
            exceeds eta; 0 labels every pixel, which is no trust module at all.
        low_confidence: label of the other pixels: 'background' (the paper), or 'ignore', which
            gives weight 0 to them, background included.
        adaptive_share: in [0, 1]. The threshold of a lesion class is lowered from eta until this
            share of the pixels for which it is the most probable class exceeds it (class-balanced
            self-training, Zou et al., ECCV 2018); 0 keeps eta.
        soft: whether a pixel's weight in the loss is the probability of its pseudo-label.
        temperature: of the probabilities, see `calibration.tempered`; 0 fits it on the validation
            slices of each round.
        leave_out_doubtful: whether slices are left out on which a lesion class is the most probable
            one somewhere, but exceeds its threshold nowhere: they would teach that there is none.

    Raises:
        ValueError: a field outside its range.
    """

    eta: float = 0.95
    low_confidence: str = "background"
    adaptive_share: float = 0.0
    soft: bool = False
    temperature: float = 1.0
    leave_out_doubtful: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.eta < 1:
            raise ValueError(
                f"self_train.eta is {self.eta}; expected 0 (no trust module) or more, and below 1"
            )
        if self.low_confidence not in LOW_CONFIDENCE:
            raise ValueError(
                f"self_train.low_confidence is {self.low_confidence!r}; expected one of "
                f"{LOW_CONFIDENCE}"
            )
        if not 0 <= self.adaptive_share <= 1:
            raise ValueError(f"self_train.adaptive_share is {self.adaptive_share}; expected 0 to 1")
        if self.temperature < 0:
            raise ValueError(f"self_train.temperature is {self.temperature}; expected 0 or more")
        if self.leave_out_doubtful and self.low_confidence != "ignore":
            raise ValueError(
                f"self_train.low_confidence is {self.low_confidence!r}; expected 'ignore' with "
                "self_train.leave_out_doubtful, as 'background' forgets what was doubted"
            )


def pseudo_label(
    prob: np.ndarray, thresholds: Sequence[float], trust: Trust
) -> tuple[np.ndarray, np.ndarray]:
    """Label the pixels of a slice by their probabilities (equation 9).

    Args:
        prob: `[H, W, K]` in [0, 1], background first.
        thresholds: of the K classes, see `class_thresholds`.
        trust: options of the trust module.

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


def is_doubtful(mask: np.ndarray, weight: np.ndarray) -> bool:
    """Return whether a pseudo-label is empty because of doubt, not because of confidence.

    Args:
        mask: `[H, W]` most probable class of each pixel.
        weight: `[H, W]`, 0 where it was not trusted.
    """
    lesion = mask > 0
    return bool(lesion.any() and not weight[lesion].any())


def confidence_sums(prob: np.ndarray) -> np.ndarray:
    """Sum the highest probability over the pixels of each most probable class.

    Args:
        prob: `[H, W, K]` in [0, 1], background first.

    Returns:
        float64 `[K, 2]`: the sum of the probabilities, and the number of the pixels.
    """
    classes, labels = prob.shape[-1], most_probable(prob).ravel()
    highest = np.max(prob, axis=-1).ravel().astype(np.float64)
    sums = np.bincount(labels, highest, minlength=classes)
    return np.stack([sums, np.bincount(labels, minlength=classes)], axis=-1)


def confidence_histogram(prob: np.ndarray) -> np.ndarray:
    """Count pixels by their most probable class and its probability.

    Args:
        prob: `[H, W, K]` in [0, 1], background first.

    Returns:
        int64 `[K, BINS]`.
    """
    classes = prob.shape[-1]
    place = np.minimum((np.max(prob, axis=-1) * BINS).astype(np.int64), BINS - 1)
    both = most_probable(prob).astype(np.int64) * BINS + place
    return np.bincount(both.ravel(), minlength=classes * BINS).reshape(classes, BINS)


def class_thresholds(trust: Trust, histogram: np.ndarray) -> list[float]:
    """Choose the threshold of each class.

    Args:
        trust: options of the trust module.
        histogram: `[K, BINS]`, the sum of `confidence_histogram` over all slices; only K is used
            where `adaptive_share` is 0.

    Returns:
        K thresholds in [0, 1), background first.
    """
    thresholds = [trust.eta] * len(histogram)
    for index in range(1, len(histogram) if trust.adaptive_share > 0 else 0):
        above = np.cumsum(histogram[index][::-1])[::-1]  # pixels at or above each bin's lower edge
        enough = np.flatnonzero(above >= trust.adaptive_share * above[0])
        thresholds[index] = min(trust.eta, float(enough[-1]) / BINS)
    return thresholds
