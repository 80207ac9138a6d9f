"""Which slices are added when, and when the rounds end."""

import itertools
import math

import numpy as np
import pytest

from ssa_jax.semi_supervised.schedule import added_slices, best_round, is_over, run_rounds


def test_every_slice_is_added_once_and_the_last_ones_all_together():
    draws = added_slices(25, 10, seed=3, rounds=4)
    assert [len(drawn) for drawn in draws] == [10, 10, 5, 0]
    assert sorted(np.concatenate(draws).tolist()) == list(range(25))
    assert all(np.all(np.diff(drawn) > 0) for drawn in draws)


def test_a_draw_depends_on_seed_and_round_alone():
    draws = added_slices(100, 10, seed=0, rounds=3)
    again = added_slices(100, 10, seed=0, rounds=1)
    np.testing.assert_array_equal(draws[0], again[0])
    other = added_slices(100, 10, seed=1, rounds=1)
    assert draws[0].tolist() != other[0].tolist()
    assert draws[0].tolist() != list(range(10))


def test_a_round_that_adds_nothing_is_refused():
    with pytest.raises(ValueError, match="slices_per_round is 0"):
        added_slices(10, 0, seed=0, rounds=1)


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.5], 1), ([0.5, 0.6, 0.6], 2), ([math.nan, 0.1], 2), ([math.nan, math.nan], 1)],
)
def test_the_first_of_the_best(scores, best):
    assert best_round(scores) == best


def test_it_stops_when_the_score_no_longer_improves():
    assert not is_over([0.5], patience=1, max_rounds=9)
    assert not is_over([0.5, 0.6], patience=1, max_rounds=9)
    assert is_over([0.5, 0.6, 0.6], patience=1, max_rounds=9)
    assert not is_over([0.5, 0.6, 0.6], patience=2, max_rounds=9)
    assert is_over([0.5, 0.6], patience=1, max_rounds=2)
    assert is_over([math.nan, math.nan], patience=1, max_rounds=9)


@pytest.mark.parametrize(
    ("scores", "best", "done"),
    [
        ([0.5, 0.6, 0.55, 0.9], 2, "T1 L1 T2 L2 T3"),
        ([0.5, 0.4, 0.9], 1, "T1 L1 T2"),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 4, "T1 L1 T2 L2 T3 L3 T4"),
    ],
)
def test_rounds_take_turns(scores, best, done):
    log = []

    def train(number):
        log.append(f"T{number}")
        return scores[number - 1]

    rows = list(run_rounds(train, lambda k: log.append(f"L{k}"), float, patience=1, max_rounds=4))
    assert (best_round(rows), " ".join(log)) == (best, done)
    assert rows == scores[: len(rows)]


def test_a_row_is_there_before_its_round_is_labelled():
    log = []
    rows = run_rounds(lambda k: k / 10, lambda k: log.append(k), float, patience=1, max_rounds=2)
    assert next(rows) == 0.1 and log == []
    assert next(rows) == 0.2 and log == [1]


def test_started_again_after_a_kill_anywhere_it_does_each_thing_once():
    """What is done is on a stand-in for the disk; a kill strikes before or after it is there."""
    scores = [0.2, 0.4, 0.3]
    for moment in itertools.count():
        disk: list[str] = []
        left = moment

        def once(what, disk=disk):
            nonlocal left
            if what in disk:
                return
            for act in (lambda: None, lambda: disk.append(what)):
                if left == 0:
                    left = -1
                    raise KeyboardInterrupt
                left -= 1
                act()

        def train(number, once=once):
            once(f"T{number}")
            return scores[number - 1]

        def run(train=train, once=once):
            label, limits = (lambda k: once(f"L{k}")), {"patience": 1, "max_rounds": 9}
            return best_round(list(run_rounds(train, label, float, **limits)))

        try:
            best = run()
            killed = False
        except KeyboardInterrupt:
            best = run()
            killed = True
        assert (best, disk) == (2, ["T1", "L1", "T2", "L2", "T3"])
        if not killed:
            assert moment == 10  # two moments each
            return


@pytest.mark.parametrize("given", [{"patience": 0}, {"max_rounds": 0}])
def test_bad_numbers(given):
    with pytest.raises(ValueError, match="expected both to be 1 or more"):
        next(run_rounds(lambda _: 0.0, print, float, **({"patience": 1, "max_rounds": 1} | given)))
