"""The labels of probabilities."""

import numpy as np
import pytest

from ssa_jax.evaluation.inference import most_probable, without_rare_classes


@pytest.fixture
def prob():
    """20 pixels: 3 background, 16 of class 1, and 1 of class 2, 1/17 of the lesion."""
    prob = np.full((4, 5, 4), 0.1, np.float32)
    prob[..., 1] = 0.7
    prob[0, :3] = (0.7, 0.1, 0.1, 0.1)
    prob[2, 2] = (0.0, 0.1, 0.5, 0.4)
    return prob


def test_a_rare_class_is_given_to_the_others(prob):
    labels = most_probable(prob)
    made = without_rare_classes(labels, prob, 0.06)
    assert made.dtype == np.uint8 and (labels == 2).sum() == 1
    np.testing.assert_array_equal(made > 0, labels > 0)
    assert (made[labels > 0] == 1).all()  # not class 3, more probable there, but nowhere labelled


@pytest.mark.parametrize("least", [0.0, 0.058])
def test_a_class_that_is_not_rare_stays(prob, least):
    labels = most_probable(prob)
    np.testing.assert_array_equal(without_rare_classes(labels, prob, least), labels)


def test_an_equal_share_is_not_rare():
    prob = np.eye(3, dtype=np.float32)[[[1, 2], [2, 1]]]
    labels = most_probable(prob)
    np.testing.assert_array_equal(without_rare_classes(labels, prob, 0.5), labels)
    nothing = np.zeros((2, 2), np.uint8)
    np.testing.assert_array_equal(without_rare_classes(nothing, prob, 0.5), nothing)
