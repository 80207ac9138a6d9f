"""The schedule of the rounds (section 3.2.2, figure 4): slices to add, and when to stop."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

Row = TypeVar("Row")


def added_slices(count: int, per_round: int, *, seed: int, rounds: int) -> list[np.ndarray]:
    """Draw the unlabelled slices that are added to the training set after each round.

    The seed and the number of the round determine a draw. Where fewer than `per_round` slices
    remain, all of them are added.

    Args:
        count: number of unlabelled slices.
        per_round: t of section 3.2.2, 1 or more.
        seed: 0 or more.
        rounds: number of rounds to draw for.

    Returns:
        For each round the indices of the slices added after it, ascending int64.

    Raises:
        ValueError: `per_round` is below 1.
    """
    check_rounds(patience=1, max_rounds=1, per_round=per_round)
    remaining = np.arange(count)
    draws = []
    for number in range(1, rounds + 1):
        rng = np.random.default_rng((seed, number))
        drawn = np.sort(rng.choice(remaining, min(per_round, len(remaining)), replace=False))
        remaining = np.setdiff1d(remaining, drawn)
        draws.append(drawn)
    return draws


def best_round(scores: Sequence[float]) -> int:
    """Return the number of the best round.

    Args:
        scores: validation DSC of each round; nan counts as the lowest.

    Returns:
        1 or more; of equal rounds the first.
    """
    return 1 + int(np.argmax([-math.inf if math.isnan(score) else score for score in scores]))


def is_over(scores: Sequence[float], *, patience: int, max_rounds: int) -> bool:
    """Return whether no further round is to be trained.

    Args:
        scores: validation DSC of each round.
        patience: rounds without a better DSC after which to stop.
        max_rounds: most rounds.
    """
    return len(scores) >= max_rounds or len(scores) - best_round(scores) >= patience


def check_rounds(*, patience: int, max_rounds: int, per_round: int = 1) -> None:
    """Check the settings of the rounds.

    Args:
        patience: see `run_rounds`.
        max_rounds: see `run_rounds`.
        per_round: see `added_slices`.

    Raises:
        ValueError: one of them is below 1.
    """
    if patience < 1 or max_rounds < 1:
        raise ValueError(
            f"self_train.patience is {patience} and self_train.max_rounds is {max_rounds}; "
            "expected both to be 1 or more"
        )
    if per_round < 1:
        raise ValueError(f"self_train.slices_per_round is {per_round}; expected 1 or more")


def run_rounds(
    train: Callable[[int], Row],
    label: Callable[[int], None],
    score: Callable[[Row], float],
    *,
    patience: int,
    max_rounds: int,
) -> Iterator[Row]:
    """Train a network and label slices with it, round by round, until the DSC no longer improves.

    Args:
        train: trains and scores the network of a round (1, 2, ...) and returns its row.
        label: labels the slices that the next round trains on, with the network of a round.
        score: returns the validation DSC of a row.
        patience: rounds without a better DSC after which to stop, 1 or more; the paper's is 1.
        max_rounds: most rounds, 1 or more.

    Yields:
        The row of each round, before its network labels slices.

    Raises:
        ValueError: `patience` or `max_rounds` is below 1.
    """
    check_rounds(patience=patience, max_rounds=max_rounds)
    scores: list[float] = []
    while True:
        row = train(len(scores) + 1)
        scores.append(score(row))
        yield row
        if is_over(scores, patience=patience, max_rounds=max_rounds):
            return
        label(len(scores))
