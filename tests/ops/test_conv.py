"""Hand-written convolutions against the library forms that they replace, and against loops."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssa_jax.models.layers import TransposedConv
from ssa_jax.ops import conv, tuning
from ssa_jax.ops.conv import convolution, double_resolution, max_pool


def scatter(x, kernel):
    """Transposed convolution as PyTorch defines it: tap (i, j) of input (r, c) lands on output
    (2r - 1 + i, 2c - 1 + j)."""
    batch, height, width, _ = x.shape
    y = np.zeros((batch, 2 * height, 2 * width, kernel.shape[-1]))
    for r in range(height):
        for c in range(width):
            for i in range(kernel.shape[0]):
                for j in range(kernel.shape[1]):
                    row, column = 2 * r - 1 + i, 2 * c - 1 + j
                    if 0 <= row < 2 * height and 0 <= column < 2 * width:
                        y[:, row, column] += x[:, r, c] @ kernel[i, j]
    return y


def library(x, kernel):
    """The same through `lax.conv_general_dilated` on an input with zeros in between."""
    size = kernel.shape[0]
    # PyTorch's padding 1; for size 3 one more row at the end (output padding 1).
    low, high = size - 2, size - 2 + (size == 3)
    return jax.lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        window_strides=(1, 1),
        padding=((low, high), (low, high)),
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


FORMS = ("filtered", "_by_taps", "_by_windows")


@pytest.fixture
def forms(monkeypatch):
    """The names of the forms that ran; their thresholds are lowered to the sizes below."""
    used = []

    def watched(name, form):
        return lambda *given: used.append(name) or form(*given)

    for name in FORMS:
        monkeypatch.setattr(conv, name, watched(name, getattr(conv, name)))
    monkeypatch.setattr(tuning, "CONV_NARROW", 2)
    monkeypatch.setattr(tuning, "CONV_FILTERED_POSITIONS", 4 * 8 * 8)
    monkeypatch.setattr(tuning, "CONV_FILTERED_WORK", 4 * 8 * 8 * 2 * 3)
    return used


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "narrow", "implementation", "form"),
    [
        ((2, 3, 5, 4), 2, "matmul", "_by_windows"),
        ((2, 3, 5, 4), 100, "matmul", "_by_taps"),
        ((2, 3, 5, 4), 5, "matmul", None),  # narrow input, wide output
        ((2, 4, 6, 4), 2, "matmul", "filtered"),
        ((2, 3, 5, 4), 2, "xla", None),
    ],
)
@pytest.mark.parametrize("size", [3, 4])
def test_double_resolution(monkeypatch, forms, size, shape, narrow, implementation, form):
    monkeypatch.setattr(tuning, "CONV_NARROW", narrow)
    monkeypatch.setattr(tuning, "CONV_FILTERED_POSITIONS", 0)
    monkeypatch.setattr(tuning, "CONV_FILTERED_WORK", 0)
    rng = np.random.default_rng(size)
    x = rng.standard_normal(shape, np.float32)
    kernel = rng.standard_normal((size, size, 4, 6), np.float32)
    y, pullback = jax.vjp(partial(double_resolution, implementation=implementation), x, kernel)
    assert forms == ([form] if form else [])
    np.testing.assert_allclose(y, scatter(x, kernel), rtol=1e-5, atol=1e-5)
    expected, library_pullback = jax.vjp(library, x, kernel)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    cotangent = jnp.asarray(rng.standard_normal(y.shape, np.float32))
    for ours, theirs in zip(pullback(cotangent), library_pullback(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "features", "size", "stride", "dtype", "form"),
    [
        ((4, 8, 8, 2), 3, 3, 1, np.float32, "filtered"),
        ((3, 8, 8, 4), 3, 3, 1, np.float32, "_by_windows"),  # few positions
        ((4, 8, 8, 2), 2, 3, 1, np.float32, "_by_windows"),  # little work
        ((4, 9, 8, 2), 3, 3, 1, np.float32, "_by_windows"),
        ((4, 8, 9, 2), 3, 3, 1, np.float32, "_by_windows"),
        ((4, 8, 8, 2), 3, 3, 2, np.float32, "_by_windows"),
        ((4, 9, 7, 2), 3, 3, 2, np.float32, "_by_windows"),
        ((4, 8, 8, 2), 3, 5, 1, np.float32, "_by_windows"),
        ((4, 8, 8, 2), 1, 3, 1, np.float32, "_by_taps"),
        ((2, 5, 4, 3), 1, 5, 1, np.float32, "_by_taps"),
        ((4, 8, 8, 2), 1, 3, 2, np.float32, "_by_windows"),
        ((4, 8, 8, 1), 3, 7, 2, np.float32, None),  # narrow input
        ((4, 8, 8, 2), 3, 3, 1, jnp.bfloat16, None),
        ((4, 8, 8, 2), 3, 1, 2, np.float32, None),
    ],
)
def test_convolution(forms, shape, features, size, stride, dtype, form):
    rng = np.random.default_rng(size)
    x = jnp.asarray(rng.standard_normal(shape), dtype)
    kernel = jnp.asarray(rng.standard_normal((size, size, shape[-1], features)), dtype)

    def library(x, kernel):
        edges, axes = ((size // 2,) * 2,) * 2, ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, edges, dimension_numbers=axes)

    ours = partial(convolution, stride=stride, implementation="matmul")
    y, pullback = jax.vjp(ours, x, kernel)
    assert forms == ([form] if form else [])
    expected, library_pullback = jax.vjp(library, x, kernel)
    tolerance = 1e-4 if dtype == np.float32 else 5e-2
    np.testing.assert_allclose(*map(np.float32, (y, expected)), rtol=tolerance, atol=tolerance)
    cotangent = jnp.cos(expected)
    for pair in zip(pullback(cotangent), library_pullback(cotangent), strict=True):
        np.testing.assert_allclose(*map(np.float32, pair), rtol=tolerance, atol=10 * tolerance)
    forms.clear()
    other = convolution(x, kernel, stride, implementation="xla")
    np.testing.assert_allclose(*map(np.float32, (other, expected)), rtol=tolerance, atol=tolerance)
    assert not forms


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


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("implementation", conv.IMPLEMENTATIONS)
def test_reflected_padding_mirrors_the_image(forms, size, stride, implementation):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 10, 3)).astype(np.float32)
    kernel = rng.standard_normal((size, size, 3, 4)).astype(np.float32)
    around = (size // 2, size // 2)
    mirrored = np.pad(x, ((0, 0), around, around, (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(mirrored, (size, size), (1, 2))
    expected = np.einsum("bhwcij,ijcf->bhwf", windows, kernel)[:, ::stride, ::stride]
    made = convolution(x, kernel, stride, padding="reflect", implementation=implementation)
    np.testing.assert_allclose(made, expected, atol=1e-4)
    if size > 1:  # else nothing is padded
        assert np.abs(made - convolution(x, kernel, stride)).max() > 0.1


def test_transposed_conv_adds_its_bias_and_refuses_other_sizes():
    x = np.random.default_rng(0).standard_normal((1, 2, 2, 3), np.float32)
    kernel, bias = np.ones((3, 3, 3, 2), np.float32), np.array([1.0, -2.0], np.float32)
    y = TransposedConv(2, 3).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(y, scatter(x, kernel) + bias[None, None, None], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="kernel_size is 5; expected 3 or 4"):
        TransposedConv(2, 5).init(jax.random.key(0), x)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, -10.0])
def test_max_pool(shift):
    # All negative in the second case: padding must not win.
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((2, 6, 8, 3), np.float32) + shift).astype(np.float32)

    def flax_pool(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    y, pullback = jax.vjp(max_pool, x)
    expected, flax_pullback = jax.vjp(flax_pool, x)
    np.testing.assert_array_equal(y, expected)
    cotangent = jnp.asarray(rng.standard_normal(y.shape, np.float32))
    np.testing.assert_allclose(
        pullback(cotangent)[0], flax_pullback(cotangent)[0], rtol=1e-6, atol=1e-6
    )


def test_unknown_implementations_are_refused():
    with pytest.raises(ValueError, match="padding is 'edge'; expected one of"):
        convolution(np.zeros((1, 4, 4, 1)), np.zeros((3, 3, 1, 1)), padding="edge")
    x, kernel = np.ones((1, 4, 4, 2), np.float32), np.ones((3, 3, 2, 2), np.float32)
    for function in (convolution, double_resolution):
        with pytest.raises(ValueError, match="convolution implementation is 'fast'; expected"):
            function(x, kernel, implementation="fast")
