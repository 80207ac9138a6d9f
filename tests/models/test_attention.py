"""Attention maps, their loss and its schedule, against NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssa_jax.models.attention import (
    NORMALIZATIONS,
    attention_loss_terms,
    attention_weight,
    energy,
    spatial_softmax,
)


def softmax(values):
    exp = np.exp(values - values.max())
    return exp / exp.sum()


def test_energy_is_the_sum_of_powers():
    features = np.array([[[[1.0, -2.0], [0.0, 3.0]]]], np.float32)
    np.testing.assert_allclose(energy(features), [[[5.0, 9.0]]])
    np.testing.assert_allclose(energy(features, 1.0), [[[3.0, 3.0]]])
    np.testing.assert_allclose(energy(features, 3.0), [[[9.0, 27.0]]], rtol=1e-6)
    assert energy(jnp.asarray(features, jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("power", [1.5, 2.0, 4.0])
def test_energy_of_silent_channels_has_a_gradient(power):
    # After a ReLU half of the features are exactly 0.
    features = np.array([[[[0.0, 2.0]]]], np.float32)
    gradient = jax.grad(lambda x: energy(x, power).sum())(features)
    np.testing.assert_allclose(gradient, [[[[0.0, power * 2 ** (power - 1)]]]], rtol=1e-6)


def test_energy_refuses_a_power_without_gradient_at_zero():
    with pytest.raises(ValueError, match=r"attention.power is 0.5; expected 1 or more"):
        energy(np.ones((1, 2, 2, 3), np.float32), 0.5)


def test_softmax_of_raw_sums():
    values = np.array([1.0, 2.0, 0.5, 4.0])
    softened = spatial_softmax(np.float32(values).reshape(1, 2, 2))
    np.testing.assert_allclose(softened.ravel(), softmax(values), rtol=1e-6)


def test_softmax_normalisations():
    values = np.array([1.0, 2.0, 0.5, 4.5])  # mean 2, variance 2.375
    maps = np.float32([values, 3 * values]).reshape(2, 2, 2)
    mean = spatial_softmax(maps, "mean").reshape(2, 4)
    np.testing.assert_allclose(mean, [softmax(values / 2)] * 2, rtol=1e-5)
    standard = spatial_softmax(maps, "standardize").reshape(2, 4)
    expected = softmax((values - 2) / np.sqrt(2.375))
    np.testing.assert_allclose(standard, [expected] * 2, rtol=1e-5)
    with pytest.raises(ValueError, match=r"attention.normalize is 'max'; expected one of"):
        spatial_softmax(maps, "max")


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("level", [0.0, 7.0])
def test_a_constant_map_has_a_uniform_softmax_and_a_finite_gradient(normalize, level):
    maps = np.full((1, 2, 3), level, np.float32)
    np.testing.assert_allclose(spatial_softmax(maps, normalize), 1 / 6, rtol=1e-6)
    gradient = jax.grad(lambda m: spatial_softmax(m, normalize)[0, 0, 0])(maps)
    assert np.isfinite(gradient).all()


def bilinear_twice(x):
    """`[H, W]` to twice its size, half-pixel centres, edges repeated."""
    for axis in (0, 1):
        before = np.concatenate([x.take([0], axis), x.take(range(x.shape[axis] - 1), axis)], axis)
        after = np.concatenate([x.take(range(1, x.shape[axis]), axis), x.take([-1], axis)], axis)
        pair = np.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.reshape(*(2 * n if i == axis else n for i, n in enumerate(x.shape)))
    return x


def test_pair_losses_against_numpy():
    rng = np.random.default_rng(0)
    energies = [rng.random((2, 8 // s, 12 // s)).astype(np.float32) * 3 for s in (1, 2, 4)]
    expected = []
    for shallow, deep in itertools.pairwise(energies):
        pairs = [
            (softmax(s.astype(np.float64)), softmax(bilinear_twice(d.astype(np.float64))))
            for s, d in zip(shallow, deep, strict=True)
        ]
        expected.append(np.mean([np.mean((s - d) ** 2) for s, d in pairs]))
    np.testing.assert_allclose(attention_loss_terms(energies), expected, rtol=1e-4)


@pytest.mark.slow
def test_stop_gradient_leaves_the_deeper_map_alone():
    rng = np.random.default_rng(0)
    energies = [rng.random((2, n, n)).astype(np.float32) * 3 for n in (8, 4, 2)]

    def gradients(stop):
        return jax.grad(
            lambda maps: attention_loss_terms(maps, stop_gradient=stop)[1]  # stages 2 and 3
        )(energies)

    first, second, third = gradients(stop=True)
    assert not np.any(first) and not np.any(third) and np.all(np.isfinite(second))
    free = gradients(stop=False)
    np.testing.assert_array_equal(free[1], second)  # the learner's gradient is the same
    assert np.abs(second).max() > 1e-6 and np.abs(free[2]).max() > 1e-6


@pytest.mark.parametrize(
    ("epoch", "start", "ramp", "expected"),
    [
        (9.99, 10.0, 0.0, 0.0),
        (10.0, 10.0, 0.0, 0.1),
        (0.0, 0.0, 0.0, 0.1),
        (10.0, 10.0, 4.0, 0.0),
        (11.0, 10.0, 4.0, 0.025),
        (14.0, 10.0, 4.0, 0.1),
        (99.0, 10.0, 4.0, 0.1),
    ],
)
def test_weight_of_the_attention_loss(epoch, start, ramp, expected):
    for given in (epoch, jnp.float32(epoch)):
        weight = attention_weight(given, alpha=0.1, start_epoch=start, ramp_epochs=ramp)
        assert weight == pytest.approx(expected, abs=1e-6)
