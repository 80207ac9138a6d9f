"""Losses against values computed by hand and by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssa_jax.training.losses import (
    class_weights,
    cross_entropy_loss,
    dice_loss,
    segmentation_losses,
)


def random_batch(classes, seed=0):
    """Logits `[3, 4, 5, K]`, mask and weights, one sample of which is half ignored."""
    rng = np.random.default_rng(seed)
    channels = classes if classes > 2 else 1
    logits = 2 * rng.standard_normal((3, 4, 5, channels), np.float32)
    mask = rng.integers(0, classes, (3, 4, 5)).astype(np.int32)
    weight = rng.random((3, 4, 5, 1)).astype(np.float32)
    weight[0, :2] = 0
    return logits, mask, weight


def test_dice_by_hand():
    # Sample 1: I = 0.5 + 0.25, A = 1.75, B = 2; sample 2: an empty slice and a timid prediction.
    prob = np.float32([[[0.5, 0.25], [0.0, 1.0]], [[0.0, 0.5], [0.0, 0.0]]])[..., None]
    target = np.float32([[[1, 1], [0, 0]], [[0, 0], [0, 0]]])[..., None]
    one = np.ones_like(prob)
    expected = np.mean([1 - (2 * 0.75 + 1) / (1.75 + 2 + 1), 1 - 1 / 1.5])
    np.testing.assert_allclose(dice_loss(prob, target, one), expected, rtol=1e-6)
    sharp = np.mean([1 - 2 * 0.75 / 3.75, 1])
    np.testing.assert_allclose(dice_loss(prob, target, one, smooth=1e-9), sharp, rtol=1e-6)


def test_dice_of_an_empty_slice_and_of_a_perfect_prediction_is_zero():
    empty = np.zeros((1, 2, 2, 1), np.float32)
    full = empty + 1
    assert dice_loss(empty, empty, full) == 0
    np.testing.assert_allclose(dice_loss(full, full, full), 0, atol=1e-6)
    np.testing.assert_allclose(dice_loss(full, empty, full), 1 - 1 / 5, rtol=1e-6)


def test_dice_may_leave_out_a_class_that_a_sample_lacks():
    """The empty second sample of `test_dice_by_hand` gives nothing, its prediction no gradient."""
    prob = np.float32([[[0.5, 0.25], [0.0, 1.0]], [[0.0, 0.5], [0.0, 0.0]]])[..., None]
    target = np.float32([[[1, 1], [0, 0]], [[0, 0], [0, 0]]])[..., None]
    one = np.ones_like(prob)
    expected = (1 - (2 * 0.75 + 1) / (1.75 + 2 + 1)) / 2
    np.testing.assert_allclose(dice_loss(prob, target, one, absent=False), expected, rtol=1e-6)
    gradient = jax.grad(dice_loss)(prob, target, one, absent=False)
    assert np.all(gradient[1] == 0) and np.any(gradient[0] != 0)
    hidden = one * (1 - target)  # its pixels do not count, so the class is absent there too
    assert dice_loss(prob, target, hidden, absent=False) == 0


def test_dice_averages_over_samples_and_classes():
    prob, target, weight = np.random.default_rng(0).random((3, 2, 3, 3, 2)).astype(np.float32)
    target, weight = target.round(), weight[..., :1]
    one = [np.s_[i : i + 1, ..., c : c + 1] for i in range(2) for c in range(2)]
    single = [dice_loss(prob[k], target[k], weight[k[0:1]]) for k in one]
    np.testing.assert_allclose(dice_loss(prob, target, weight), np.mean(single), rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_cross_entropy_against_numpy(classes):
    logits, mask, weight = random_batch(classes)
    class_weight = np.float32([1.0, 3.0, 0.5])[:classes]
    full = logits if classes > 2 else np.concatenate([0 * logits, logits], axis=-1)
    prob = np.exp(full.astype(np.float64))
    prob /= prob.sum(axis=-1, keepdims=True)
    expected = []
    for p, m, w in zip(prob, mask, weight[..., 0], strict=True):
        pixels = [-w[i] * class_weight[m[i]] * np.log(p[(*i, m[i])]) for i in np.ndindex(m.shape)]
        expected.append(sum(pixels) / w.sum())
    loss = cross_entropy_loss(logits, mask, weight, class_weight)
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)


def test_binary_cross_entropy_is_that_of_two_classes():
    logits, mask, weight = random_batch(2)
    two = np.concatenate([0.3 - logits / 2, 0.3 + logits / 2], axis=-1)
    class_weight = np.float32([1.0, 2.0])
    losses = [cross_entropy_loss(x, mask, weight, class_weight) for x in (logits, two)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_cross_entropy_of_a_sample_without_weight_is_zero():
    logits, mask, weight = random_batch(2)
    loss = cross_entropy_loss(logits, mask, 0 * weight, np.ones(2, np.float32))
    assert loss == 0


@pytest.mark.parametrize("classes", [2, 3])
def test_pixels_without_weight_change_nothing(classes):
    logits, mask, weight = random_batch(classes)
    ignored = weight[..., 0] == 0
    class_weight = np.float32([1.0, 3.0, 0.5])[:classes]

    @jax.jit
    def losses_and_gradients(logits, mask):
        def losses(logits):
            return segmentation_losses(logits, mask, jnp.asarray(weight), class_weight)

        return losses(logits), jax.jacobian(losses)(logits)

    other_logits, other_mask = logits.copy(), mask.copy()
    other_logits[ignored] = 50.0
    other_mask[ignored] = (mask[ignored] + 1) % classes
    values, gradients = losses_and_gradients(logits, mask)
    other_values, other_gradients = losses_and_gradients(other_logits, other_mask)
    assert set(values) == {"dice_loss", "cross_entropy_loss"}
    for name in values:
        assert values[name] == other_values[name]
        np.testing.assert_array_equal(gradients[name], other_gradients[name])
        assert not np.any(gradients[name][ignored])
        assert np.all(gradients[name][~ignored] != 0)


def test_segmentation_losses_leave_the_background_out_of_dice():
    logits, mask, weight = random_batch(3)
    prob = jax.nn.softmax(logits, axis=-1)
    losses = segmentation_losses(logits, mask, weight, np.ones(3, np.float32))
    lesions = np.stack([mask == 1, mask == 2], axis=-1).astype(np.float32)
    np.testing.assert_allclose(
        losses["dice_loss"], dice_loss(prob[..., 1:], lesions, weight), rtol=1e-6
    )


def test_class_weights_of_equation_8():
    pixels = [900, 60, 40]
    # Lesion pixels: 100, C = 2; P is 0.6 and 0.4.
    over_lesion = class_weights(pixels, over="lesion", clip=0)
    np.testing.assert_allclose(over_lesion, [1, 1 / (2 * 0.6), 1 / (2 * 0.4)], rtol=1e-6)
    over_all = class_weights(pixels, over="all", clip=0)
    np.testing.assert_allclose(over_all, [1 / 2.7, 1 / 0.18, 1 / 0.12], rtol=1e-6)
    clipped = class_weights(pixels, over="all", clip=6.0)
    np.testing.assert_allclose(clipped, [1 / 2.7, 1 / 0.18, 6], rtol=1e-6)
    np.testing.assert_array_equal(class_weights(pixels, over="none", clip=0.0), [1, 1, 1])
    np.testing.assert_array_equal(class_weights([10, 3], over="lesion", clip=0.0), [1, 1])
    assert over_all.dtype == clipped.dtype == np.float32


def test_a_class_without_pixels_cannot_be_weighted():
    with pytest.raises(ValueError, match=r"\[900, 60, 0\] pixels.*class_weight_over='none'"):
        class_weights([900, 60, 0], over="lesion", clip=0.0)
    with pytest.raises(ValueError, match=r"\[0, 60, 9\] pixels"):
        class_weights([0, 60, 9], over="all", clip=0.0)
    class_weights([0, 60, 9], over="lesion", clip=0.0)
    with pytest.raises(ValueError, match=r"class_weight_over is 'lesions'; expected one of"):
        class_weights([9, 6], over="lesions", clip=0.0)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_weight_of_a_sample_scales_its_part_of_both_losses(classes):
    """Batches of one sample each give the parts."""
    logits, mask, weight = random_batch(classes)
    class_weight, factors = jnp.arange(1.0, classes + 1), np.float32([1.0, 0.25, 0.0])
    whole = segmentation_losses(logits, mask, weight, class_weight, sample_weight=factors)
    parts = [
        segmentation_losses(logits[k : k + 1], mask[k : k + 1], weight[k : k + 1], class_weight)
        for k in range(3)
    ]
    for name, value in whole.items():
        expected = sum(f * part[name] for f, part in zip(factors, parts, strict=True)) / 3
        np.testing.assert_allclose(value, expected, rtol=1e-5)
