"""Maps in blocks of 2x2 pixels have the numbers of ordinary ones, and so have their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssa_jax.ops.blocks import (
    convolution_in_blocks,
    double_resolution_in_blocks,
    pixels_of_blocks,
)
from ssa_jax.ops.conv import convolution, double_resolution


def random(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def in_blocks(x):
    """`[B, H, W, C]` to `[B, H/2, W/2, 4C]`, pixel by pixel."""
    corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return np.concatenate(corners, axis=-1)


def test_pixels_of_blocks():
    (x,) = random((2, 6, 8, 3))
    np.testing.assert_array_equal(pixels_of_blocks(jnp.asarray(in_blocks(x))), x)


def compare(plain, blocked, x, kernel, of_x):
    """Outputs, and gradients of x and kernel for one random gradient of the output."""
    y, pullback = jax.vjp(plain, x, kernel)
    (gradient,) = random(y.shape)
    ours, our_pullback = jax.vjp(lambda x, k: pixels_of_blocks(blocked(x, k)), of_x(x), kernel)
    np.testing.assert_allclose(ours, y, rtol=1e-5, atol=1e-5)
    for found, expected in zip(our_pullback(gradient), pullback(gradient), strict=True):
        expected = of_x(expected) if expected.shape == x.shape else expected
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", ["xla", "matmul"])
def test_convolution(implementation):
    x, kernel = random((2, 6, 10, 5), (3, 3, 5, 3))
    compare(
        lambda x, k: convolution(x, k, implementation="xla"),
        lambda x, k: convolution_in_blocks(x, k, implementation=implementation),
        x,
        kernel,
        in_blocks,
    )


@pytest.mark.parametrize("implementation", ["xla", "matmul"])
def test_transposed_convolution(implementation):
    x, kernel = random((2, 5, 4, 6), (4, 4, 6, 3))
    compare(
        lambda x, k: double_resolution(x, k, implementation="xla"),
        lambda x, k: double_resolution_in_blocks(x, k, implementation=implementation),
        x,
        kernel,
        np.asarray,
    )
