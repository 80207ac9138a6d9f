"""Convolutions by minimal filtering against a direct one, and when it is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssa_jax import layers
from ssa_jax.layers import convolution
from ssa_jax.winograd import NARROW, filtered


def direct(x, kernel, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def case(shape, size, features, dtype=np.float64):
    rng = np.random.default_rng(sum(shape) + size)
    x = rng.standard_normal(shape).astype(dtype)
    return x, rng.standard_normal((size, size, shape[-1], features)).astype(dtype)


@pytest.mark.parametrize(("size", "padding"), [(3, (1, 1)), (2, (0, 1)), (2, (1, 2)), (2, (1, 0))])
@pytest.mark.parametrize(("shape", "features"), [((2, 4, 6, 3), NARROW), ((1, 2, 2, 4), 1)])
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


@pytest.mark.parametrize("features", [NARROW - 1, NARROW])
def test_few_outputs_are_made_directly(features):
    x, kernel = case((1, 4, 4, 2), 3, features, np.float32)
    program = str(jax.make_jaxpr(lambda x, kernel: filtered(x, kernel, (1, 1)))(x, kernel))
    assert ("conv_general_dilated" in program) == (features < NARROW)


@pytest.mark.parametrize(
    ("shape", "size", "stride", "dtype", "chosen"),
    [
        ((4, 8, 8, 2), 3, 1, np.float32, True),
        ((3, 8, 8, 2), 3, 1, np.float32, False),
        ((4, 9, 8, 2), 3, 1, np.float32, False),
        ((4, 8, 9, 2), 3, 1, np.float32, False),
        ((4, 8, 8, 2), 3, 2, np.float32, False),
        ((4, 8, 8, 2), 5, 1, np.float32, False),
        ((4, 8, 8, 2), 3, 1, jnp.bfloat16, False),
    ],
)
def test_it_is_chosen_for_large_even_float32_maps_on_the_cpu(
    monkeypatch, shape, size, stride, dtype, chosen
):
    calls = []
    monkeypatch.setattr(layers, "MINIMAL_FILTERING_WORK", 4 * 8 * 8 * 2 * 3)
    monkeypatch.setattr(layers, "filtered", lambda *given: calls.append(1) or filtered(*given))
    x, kernel = jnp.ones(shape, dtype), jnp.ones((size, size, shape[-1], 3), dtype)
    convolution(x, kernel, stride)
    assert bool(calls) == chosen
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    calls.clear()
    convolution(x, kernel, stride)
    assert not calls


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 2), (7, 2)])
def test_other_convolutions_keep_the_size_or_divide_it(size, stride):
    rng = np.random.default_rng(size)
    x = rng.standard_normal((1, 6, 4, 3), np.float32)
    kernel = rng.standard_normal((size, size, 3, 2), np.float32)
    padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    expected = [
        [
            np.einsum("bijc,ijcf->bf", padded[:, r : r + size, c : c + size], kernel)
            for c in range(0, 4, stride)
        ]
        for r in range(0, 6, stride)
    ]
    y = convolution(jnp.asarray(x), jnp.asarray(kernel), stride)
    np.testing.assert_allclose(y, np.moveaxis(expected, 2, 0), rtol=1e-5, atol=1e-5)
