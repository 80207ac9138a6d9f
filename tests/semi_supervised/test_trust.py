"""The trust module by hand, and what is counted of its labels."""

import numpy as np
import pytest

from ssa_jax.evaluation.inference import most_probable
from ssa_jax.semi_supervised.quality import agreement, class_pixels, label_facts
from ssa_jax.semi_supervised.trust import (
    BINS,
    Trust,
    class_thresholds,
    confidence_histogram,
    confidence_sums,
    is_doubtful,
    pseudo_label,
)

# Four pixels: confident background, unsure background, confident class 1, unsure class 2.
PROB = np.array([[[0.97, 0.02, 0.01], [0.6, 0.3, 0.1], [0.02, 0.96, 0.02], [0.2, 0.1, 0.7]]])


@pytest.mark.parametrize(
    ("trust", "labels", "weight"),
    [
        (Trust(eta=0.0), [0, 0, 1, 2], [255, 255, 255, 255]),
        (Trust(), [0, 0, 1, 0], [255, 255, 255, 255]),
        (Trust(low_confidence="ignore"), [0, 0, 1, 2], [255, 0, 255, 0]),
        # 0.97, 0.6, 0.96 and 0.2 (the background that the last pixel became) of 255
        (Trust(soft=True), [0, 0, 1, 0], [247, 153, 245, 51]),
        (Trust(low_confidence="ignore", soft=True), [0, 0, 1, 2], [247, 0, 245, 0]),
    ],
)
def test_equation_9_and_its_options(trust, labels, weight):
    thresholds = class_thresholds(trust, np.zeros((3, 1)))
    assert thresholds == [trust.eta] * 3
    got = pseudo_label(PROB, thresholds, trust)
    assert [array.dtype for array in got] == [np.uint8, np.uint8]
    np.testing.assert_array_equal(got[0], [labels])
    np.testing.assert_array_equal(got[1], [weight])


def test_the_most_probable_class_and_ties():
    """Of quarters, which tie often; stored pixel by pixel and class by class."""
    prob = np.random.default_rng(0).integers(0, 5, (9, 11, 4)).astype(np.float32) / 4
    for stored in (prob, np.moveaxis(np.moveaxis(prob, -1, 0).copy(), 0, -1)):
        labels = most_probable(stored)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, np.argmax(prob, axis=-1))


def test_a_probability_of_exactly_eta_is_not_enough():
    prob = np.array([[[0.25, 0.75], [0.125, 0.875]]])
    np.testing.assert_array_equal(pseudo_label(prob, [0.75, 0.75], Trust(0.75))[0], [[0, 1]])


def test_a_threshold_sinks_for_the_class_that_needs_it():
    """Class 1 is confident everywhere; of class 2 the best third has 0.8 and more."""
    prob = np.zeros((1, 30, 3))
    prob[0, :15, 1] = 0.995
    prob[0, 15:, 2] = np.repeat([0.555, 0.655, 0.8055], 5)
    prob[..., 0] = 1 - prob.sum(axis=-1)
    trust = Trust(eta=0.95, adaptive_share=1 / 3)
    thresholds = class_thresholds(trust, confidence_histogram(prob))
    assert thresholds == [0.95, 0.95, 0.805]
    labels, _ = pseudo_label(prob, thresholds, trust)
    assert np.bincount(labels.ravel(), minlength=3).tolist() == [10, 15, 5]


def test_a_class_without_a_pixel_keeps_eta_or_less():
    histogram = np.zeros((3, BINS), np.int64)
    histogram[1, -1] = 7
    thresholds = class_thresholds(Trust(adaptive_share=0.5), histogram)
    assert thresholds == [0.95, 0.95, 0.95]


def test_the_histogram_counts_every_pixel_once():
    rng = np.random.default_rng(0)
    prob = rng.dirichlet([1, 1, 1], (20, 30))
    histogram = confidence_histogram(prob)
    assert histogram.shape == (3, BINS)
    counts = np.bincount(np.argmax(prob, axis=-1).ravel(), minlength=3)
    np.testing.assert_array_equal(histogram.sum(axis=1), counts)
    above = (np.argmax(prob, axis=-1) == 1) & (prob.max(axis=-1) >= 0.6)
    assert histogram[1, 600:].sum() == above.sum()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"eta": 1.0}, "eta is 1.0"),
        ({"eta": -0.1}, "eta is -0.1"),
        ({"low_confidence": "drop"}, "low_confidence is 'drop'"),
        ({"adaptive_share": 1.5}, "adaptive_share is 1.5"),
    ],
)
def test_bad_fields(fields, text):
    with pytest.raises(ValueError, match=text):
        Trust(**fields)


def test_pixels_count_by_their_weight():
    mask = np.array([[0, 1, 1, 2]], np.uint8)
    weight = np.array([[255, 51, 255, 0]], np.uint8)
    assert class_pixels([(mask, None), (mask, weight)], 4) == pytest.approx([2, 3.2, 1, 0])


def test_confidence_is_summed_over_the_pixels_of_each_class():
    sums = confidence_sums(np.concatenate([PROB, PROB]))
    np.testing.assert_allclose(sums, [[2 * (0.97 + 0.6), 4], [2 * 0.96, 2], [2 * 0.7, 2]])


def test_agreement_pools_all_slices():
    before = np.array([[0, 1, 1, 1]]), np.array([[2, 0]])
    after = np.array([[1, 1, 1, 0]]), np.array([[0, 0]])
    # class 1: 2 of both, 3 and 3; class 2: none of both, 1 and 0; class 3 nowhere
    assert agreement(zip(before, after, strict=True), 4) == [pytest.approx(2 / 3), 0.0, None]


def test_a_label_that_is_empty_by_doubt_is_told_from_one_that_is_empty_by_confidence():
    empty, doubted, sure = np.zeros((3, 3), np.uint8), np.eye(3, dtype=np.uint8), 255
    weight = np.full((3, 3), sure, np.uint8)
    assert not is_doubtful(empty, weight)
    assert not is_doubtful(doubted, weight)
    assert is_doubtful(doubted, weight * (doubted == 0))
    one_left = weight * (doubted == 0)
    one_left[0, 0] = 1
    assert not is_doubtful(doubted, one_left)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -1.0}, r"temperature is -1\.0; expected 0 or more"),
        ({"leave_out_doubtful": True}, "expected 'ignore' with"),
    ],
)
def test_new_options_outside_their_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Trust(**fields)


def test_pixels_that_do_not_count_are_no_lesion_in_the_warnings():
    mask = np.ones((40, 40), np.uint8)
    weight = np.zeros((40, 40), np.uint8)
    weight[0, 0] = 255
    trust = Trust(low_confidence="ignore")
    facts = label_facts([("a", mask, weight)], [None], ["lesion"], trust)
    assert facts["nearly_empty"] == ["a"] and facts["nearly_full"] == []
    facts = label_facts([("a", mask, np.full_like(weight, 255))], [None], ["lesion"], trust)
    assert facts["nearly_empty"] == [] and facts["nearly_full"] == ["a"]
