"""3x3 convolution by minimal filtering (Winograd; Lavin and Gray, CVPR 2016), F(2x2, 3x3).

Four outputs of a 3x3 convolution take 36 multiplications per channel pair; transformed, 16, which
are 16 matmuls over all 2x2 tiles. XLA's matmuls on the CPU are fast whatever their width, its
convolutions only from 128 output channels on.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

Matrix = tuple[tuple[float, ...], ...]

# Lavin and Gray, section 4.1: Y = A^T [(G g G^T) . (B^T d B)] A.
INPUT: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B^T
KERNEL: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # G
OUTPUT: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))  # A^T
TILE = 2  # outputs of a tile along each axis
POINTS = 4  # products of a tile along each axis

Grid = list[list[Array]]  # by row and column of a tile or a kernel


@jax.custom_vjp
def conv3x3(x: Array, kernel: Array) -> Array:
    """3x3 convolution with stride 1 and zero padding 1.

    Args:
      x: `[B, H, W, C]`, H and W even.
      kernel: `[3, 3, C, F]`.

    Returns:
      `[B, H, W, F]`; rounding differs from a direct convolution's by a few parts in 10^7.
    """
    return _convolve(x, _transformed(KERNEL, _taps(kernel)), channels_axis=0)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv3x3(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    # The kernel turned by 180 degrees; contracting its outputs spares a copy with swapped axes.
    turned = _transformed(KERNEL, _taps(kernel[::-1, ::-1]))
    dx = _convolve(gradient, turned, channels_axis=1)
    products = _transformed(_transpose(OUTPUT), _pixels(gradient))
    of_points = [
        [_matmul(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]), 0, 0) for a, b in pairs]
        for pairs in map(zip, _transformed(INPUT, _windows(x)), products)
    ]
    taps = _transformed(_transpose(KERNEL), of_points)
    return dx, jnp.stack([jnp.stack(row) for row in taps])


conv3x3.defvjp(_forward, _backward)


def _convolve(x: Array, kernels: Grid, channels_axis: int) -> Array:
    """Multiply the transformed windows by the transformed kernels and transform back."""
    batch, height, width, channels = x.shape
    windows = _transformed(INPUT, _windows(x))
    products = [
        [_matmul(a.reshape(-1, channels), b, 1, channels_axis) for a, b in pairs]
        for pairs in map(zip, windows, kernels)
    ]
    rows = _transformed(OUTPUT, products)
    y = jnp.stack([jnp.stack(row, axis=1) for row in rows], axis=1)  # [tiles, 2, 2, F]
    tiles = (batch, height // TILE, width // TILE)
    y = y.reshape(*tiles, TILE, TILE, -1).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(batch, height, width, -1)


def _matmul(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())))


def _windows(x: Array) -> Grid:
    """Pixel (i, j) of the 4x4 window around each 2x2 tile: `[B, H/2, W/2, C]` each."""
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def pixel(i: int, j: int) -> Array:
        stop = (batch, i + height - 1, j + width - 1, channels)
        return lax.slice(padded, (0, i, j, 0), stop, (1, TILE, TILE, 1))

    return [[pixel(i, j) for j in range(POINTS)] for i in range(POINTS)]


def _pixels(y: Array) -> Grid:
    """Pixel (i, j) of each 2x2 tile: `[B, H/2, W/2, F]` each."""
    return [[y[:, i::TILE, j::TILE] for j in range(TILE)] for i in range(TILE)]


def _taps(kernel: Array) -> Grid:
    return [[kernel[i, j] for j in range(3)] for i in range(3)]


def _transformed(matrix: Matrix, grid: Grid) -> Grid:
    """`matrix @ grid @ matrix^T` for a grid of arrays."""
    columns = [[_combined(row, column) for column in zip(*grid, strict=True)] for row in matrix]
    return [[_combined(row, line) for row in matrix] for line in columns]


def _combined(factors: tuple[float, ...], arrays: Any) -> Array:
    """Sum of the arrays times their factors, most of which are 0, 1 or -1."""
    terms = [
        array if factor == 1 else -array if factor == -1 else factor * array
        for factor, array in zip(factors, arrays, strict=True)
        if factor
    ]
    return sum(terms[1:], start=terms[0])


def _transpose(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))
