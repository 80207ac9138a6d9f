"""Calibration of probabilities by temperature (Guo et al., ICML 2017), and how good it is."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

BINS = 20  # of the confidence, for the reliability
RANGE = (0.25, 8.0)  # of temperatures
TINY = 1e-7  # smallest probability


class Reliability(NamedTuple):
    """How often the most probable class is right, by its probability.

    Attributes:
        confidence: mean probability in each bin; nan where it is empty.
        accuracy: share of right pixels in each bin; nan where it is empty.
        pixels: number of pixels in each bin.
        error: expected calibration error, the mean of |confidence - accuracy| over pixels.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    pixels: np.ndarray
    error: float


def tempered(prob: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the logarithms of probabilities by a temperature, and normalise again.

    Args:
        prob: `[..., K]` in [0, 1], sums to 1 over K.
        temperature: above 0; 1 changes nothing, more makes them less sure. The most probable class
            stays the same.

    Returns:
        `[..., K]` float32.
    """
    if temperature == 1:
        return prob
    log_prob = np.log(np.maximum(prob, TINY)) / np.float32(temperature)
    powers = np.exp(log_prob - log_prob.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


def suspected(prob: np.ndarray) -> np.ndarray:
    """Return the pixels that tell about calibration: those with a lesion's probability of 1%.

    The others, nearly all of a slice, would hide them. The truth takes no part in the choice, as
    it would bias what is measured.

    Args:
        prob: `[..., K]` in [0, 1], background first.

    Returns:
        bool `[...]`.
    """
    return 1 - prob[..., 0] >= 0.01


def fit_temperature(predictions: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Fit the temperature that makes the truth most likely.

    Args:
        predictions: of each labelled slice, probabilities `[H, W, K]` and mask `[H, W]`.

    Returns:
        In [0.25, 8]; 1 where no pixel is suspected.
    """
    logs, truths = [], []
    for prob, mask in predictions:
        chosen = suspected(prob)
        logs.append(np.log(np.maximum(prob[chosen], TINY)).astype(np.float64))
        truths.append(mask[chosen].astype(np.intp))
    log_prob, truth = np.concatenate(logs), np.concatenate(truths)
    if not len(truth):
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = log_prob / np.exp(log_temperature)
        scaled -= scaled.max(axis=-1, keepdims=True)
        total = np.log(np.exp(scaled).sum(axis=-1))
        return float(np.mean(total - np.take_along_axis(scaled, truth[:, None], axis=-1)[:, 0]))

    bounds = tuple(np.log(RANGE))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def reliability(
    predictions: Iterable[tuple[np.ndarray, np.ndarray]], temperature: float = 1.0
) -> Reliability:
    """Compare confidence and accuracy on the suspected pixels of labelled slices.

    Args:
        predictions: of each slice, probabilities `[H, W, K]` and mask `[H, W]`.
        temperature: see `tempered`.
    """
    pixels, sure, right = np.zeros(BINS), np.zeros(BINS), np.zeros(BINS)
    for prob, mask in predictions:
        chosen = suspected(prob)
        made, truth = tempered(prob[chosen], temperature), mask[chosen]
        confidence = made.max(axis=-1)
        place = np.minimum((confidence * BINS).astype(int), BINS - 1)
        pixels += np.bincount(place, minlength=BINS)
        sure += np.bincount(place, confidence, minlength=BINS)
        right += np.bincount(place, made.argmax(axis=-1) == truth, minlength=BINS)
    with np.errstate(invalid="ignore"):
        confidence, accuracy = sure / pixels, right / pixels
    error = float(np.abs(sure - right).sum() / max(pixels.sum(), 1))
    return Reliability(confidence, accuracy, pixels, error)
