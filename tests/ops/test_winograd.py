"""Convolutions by minimal filtering against a direct one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssa_jax.ops import winograd
from ssa_jax.ops.winograd import filtered

pytestmark = pytest.mark.slow


def direct(x, kernel, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def case(shape, size, features, dtype=np.float64):
    rng = np.random.default_rng(sum(shape) + size)
    x = rng.standard_normal(shape).astype(dtype)
    return x, rng.standard_normal((size, size, shape[-1], features)).astype(dtype)


@pytest.mark.parametrize(("size", "padding"), [(3, (1, 1)), (2, (0, 1)), (2, (1, 2)), (2, (1, 0))])
@pytest.mark.parametrize(("shape", "features"), [((2, 4, 6, 3), 5), ((1, 2, 2, 4), 1)])
def test_value_and_gradients_in_float64(shape, features, size, padding):
    with jax.enable_x64(True):
        x, kernel = map(jnp.asarray, case(shape, size, features))
        y, pullback = jax.vjp(lambda x, kernel: filtered(x, kernel, padding), x, kernel)
        expected, their_pullback = jax.vjp(lambda x, kernel: direct(x, kernel, padding), x, kernel)
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
        cotangent = jnp.cos(expected)
        for ours, theirs in zip(pullback(cotangent), their_pullback(cotangent), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "padding"), [(3, (1, 1)), (2, (1, 2))])
def test_rounding_in_float32_is_that_of_a_direct_convolution(size, padding):
    x, kernel = case((2, 16, 16, 32), size, 32)
    with jax.enable_x64(True):
        exact = np.asarray(direct(x, kernel, padding))
    single = [
        np.asarray(conv(x.astype(np.float32), kernel.astype(np.float32), padding), np.float64)
        for conv in (filtered, direct)
    ]
    ours, plain = (np.linalg.norm(y - exact) / np.linalg.norm(exact) for y in single)
    assert ours < 1e-6
    assert ours < 10 * plain


@pytest.mark.parametrize(("side", "limit"), [(16, 1e-6), (32, 5e-6)])  # small and large tiles
def test_rounding_of_the_kernel_gradient(side, limit):
    x, kernel = case((2, side, side, 40), 3, 40)
    cotangent = np.random.default_rng(0).standard_normal(x.shape)

    def gradient(conv, dtype):
        pullback = jax.vjp(lambda k: conv(x.astype(dtype), k, (1, 1)), kernel.astype(dtype))[1]
        return np.asarray(pullback(jnp.asarray(cotangent, dtype))[0], np.float64)

    with jax.enable_x64(True):
        exact = gradient(direct, np.float64)
    error = np.linalg.norm(gradient(filtered, np.float32) - exact) / np.linalg.norm(exact)
    assert 1e-8 < error < limit


@pytest.mark.parametrize(
    ("shape", "features", "tile"),
    [
        ((2, 8, 4, 3), 4, 4),  # four large tiles
        ((2, 8, 4, 3), 5, 2),  # fewer than output channels
        ((2, 6, 8, 3), 2, 2),  # the height is no multiple of 4
        ((2, 8, 6, 3), 2, 2),
    ],
)
def test_the_kernel_gradient_takes_large_tiles_where_they_pay(monkeypatch, shape, features, tile):
    sizes = []
    windows = winograd._windows
    monkeypatch.setattr(
        winograd, "_windows", lambda *given: sizes.append(given[-1]) or windows(*given)
    )
    with jax.enable_x64(True):
        x, kernel = map(jnp.asarray, case(shape, 3, features))
        gradient = jax.vjp(lambda kernel: filtered(x, kernel, (1, 1)), kernel)[1]
        their_gradient = jax.vjp(lambda kernel: direct(x, kernel, (1, 1)), kernel)[1]
        cotangent = jnp.cos(direct(x, kernel, (1, 1)))
        (ours,), (theirs,) = gradient(cotangent), their_gradient(cotangent)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    assert sizes[-1] == tile
