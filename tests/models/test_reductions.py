"""Sums over whole maps of a bfloat16 network, against the same in float64 by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssa_jax.models.attention import energy, spatial_softmax
from ssa_jax.models.ssa_net import SSANet
from ssa_jax.training.losses import segmentation_losses

SIDE = 512


def halved(shape, seed, *, mean=0.0, scale=1.0):
    """Values that bfloat16 holds exactly, in bfloat16 and in float64."""
    drawn = mean + scale * np.random.default_rng(seed).standard_normal(shape, np.float32)
    values = jnp.asarray(drawn, jnp.bfloat16)
    return values, np.asarray(values, np.float64)


def test_statistics_of_batch_norm():
    values, exact = halved((4, SIDE // 4, SIDE // 4, 8), 0, mean=3.0)
    norm = SSANet(dtype=jnp.bfloat16).norm(train=True)()
    variables = norm.init(jax.random.key(0), values)
    out, updates = norm.apply(variables, values, mutable=["batch_stats"])
    assert out.dtype == jnp.bfloat16
    axes = (0, 1, 2)
    found = updates["batch_stats"]
    np.testing.assert_allclose(found["mean"], 0.1 * exact.mean(axes), rtol=1e-5)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * exact.var(axes), rtol=1e-5)


@pytest.mark.parametrize("normalize", ["none", "standardize"])
def test_attention_maps_and_their_softmax(normalize):
    features, exact = halved((2, SIDE // 4, SIDE // 4, 64), 1, scale=0.2)
    maps = energy(features)
    flat = (exact**2).sum(-1).reshape(2, -1)
    np.testing.assert_allclose(maps.reshape(2, -1), flat, rtol=1e-5)
    if normalize == "standardize":
        mean, variance = flat.mean(1, keepdims=True), flat.var(1, keepdims=True)
        flat = (flat - mean) / np.sqrt(variance + 1e-6)
    powers = np.exp(flat - flat.max(1, keepdims=True))
    expected = powers / powers.sum(1, keepdims=True)
    found = spatial_softmax(maps, normalize).reshape(2, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-5)


def test_dice_and_cross_entropy_over_many_pixels():
    """Of three classes, one of them rare, from logits as the network returns them."""
    logits, exact = halved((2, SIDE, SIDE, 3), 2, scale=4.0)
    mask = np.random.default_rng(3).choice(3, (2, SIDE, SIDE), p=[0.95, 0.049, 0.001])
    weight = np.ones((*mask.shape, 1))
    class_weight = np.array([1.0, 2.0, 10.0])
    found = segmentation_losses(
        logits.astype(jnp.float32),
        jnp.asarray(mask),
        jnp.asarray(weight, jnp.float32),
        jnp.asarray(class_weight, jnp.float32),
    )
    log_prob = exact - np.log(np.exp(exact).sum(-1, keepdims=True))
    prob, target = np.exp(log_prob), np.eye(3)[mask]
    pixel = -(class_weight * target * log_prob).sum(-1)
    np.testing.assert_allclose(found["cross_entropy_loss"], pixel.mean(), rtol=1e-5)
    both, sizes = ((a.sum((1, 2)))[:, 1:] for a in (prob * target, prob + target))
    dice = np.mean((2 * both + 1) / (sizes + 1))
    np.testing.assert_allclose(found["dice_loss"], 1 - dice, rtol=1e-6)
