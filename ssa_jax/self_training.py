"""The rounds of semi-supervised training (section 3.2.2, figure 4): who joins, and when to stop."""

import math
from collections.abc import Callable, Sequence

import numpy as np


def moved_slices(count: int, per_round: int, *, seed: int, rounds: int) -> list[np.ndarray]:
    """Which unlabelled slices join the training set after each round.

    Every round draws `per_round` of those left, by the seed and its own number; fewer left: all;
    none left: none.

    Args:
      count: unlabelled slices in all.
      per_round: t of section 3.2.2.
      seed: 0 or more.
      rounds: how many rounds to draw for.

    Returns:
      For each round the indices that join after it, ascending int64.

    Raises:
      ValueError: `per_round` is below 1.
    """
    if per_round < 1:
        raise ValueError(f"self_train.move is {per_round}; expected 1 or more slices a round")
    left = np.arange(count)
    draws = []
    for number in range(1, rounds + 1):
        rng = np.random.default_rng((seed, number))
        drawn = np.sort(rng.choice(left, min(per_round, len(left)), replace=False))
        left = np.setdiff1d(left, drawn)
        draws.append(drawn)
    return draws


def best_round(scores: Sequence[float]) -> int:
    """Number of the first round with the highest validation DSC; nan is no score."""
    return 1 + int(np.argmax([-math.inf if math.isnan(score) else score for score in scores]))


def is_over(scores: Sequence[float], *, patience: int, max_rounds: int) -> bool:
    """Whether the validation DSC has not improved for `patience` rounds, or all rounds are done."""
    return len(scores) >= max_rounds or len(scores) - best_round(scores) >= patience


def run_rounds(
    train: Callable[[int], float],
    label: Callable[[int], None],
    *,
    patience: int,
    max_rounds: int,
) -> int:
    """Train, score, label, and again with what was labelled, until it no longer helps.

    Args:
      train: trains the network of a round (1, 2, ...) and gives its validation DSC.
      label: labels the slices that the next round trains on, with the network of a round.
      patience: rounds without a better DSC after which to stop; the paper's is 1.
      max_rounds: most rounds.

    Returns:
      The number of the best round.

    Raises:
      ValueError: `patience` or `max_rounds` is below 1.
    """
    if patience < 1 or max_rounds < 1:
        raise ValueError(
            f"self_train.patience is {patience} and self_train.max_rounds {max_rounds}; expected "
            "1 or more of both"
        )
    scores: list[float] = []
    while True:
        scores.append(train(len(scores) + 1))
        if is_over(scores, patience=patience, max_rounds=max_rounds):
            return best_round(scores)
        label(len(scores))
