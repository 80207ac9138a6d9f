"""Convolutions by minimal filtering (Winograd; Lavin and Gray, CVPR 2016).

Four outputs of a 3x3 convolution take 36 multiplications for each pair of channels; transformed,
they take 16, which are 16 matmuls over all 2x2 tiles: F(2x2, 3x3). With a 2x2 kernel 9 replace 16:
F(2x2, 2x2). Kernel gradients of large maps take 36 instead of 144: F(4x4, 3x3). On the CPU, XLA's
matmuls are fast at any width, its convolutions only with long rows or many channels
(docs/performance.md).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

Matrix = tuple[tuple[float, ...], ...]
Padding = tuple[int, int]  # rows (and columns) of zeros before and after

# Y = A^T [(G g G^T) . (B^T d B)] A (Lavin and Gray, section 4.1). Keys: outputs of a tile along
# each axis, and kernel size.
INPUT: dict[tuple[int, int], Matrix] = {  # B^T
    (2, 2): ((1, -1, 0), (0, 1, 0), (0, -1, 1)),
    (2, 3): ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    (4, 3): (
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
}
KERNEL: dict[tuple[int, int], Matrix] = {  # G
    (2, 2): ((1, 0), (1, 1), (0, 1)),
    (2, 3): ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    (4, 3): (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
}
OUTPUT: dict[tuple[int, int], Matrix] = {  # A^T
    (2, 2): ((1, 1, 0), (0, 1, 1)),
    (2, 3): ((1, 1, 1, 0), (0, 1, -1, -1)),
    (4, 3): (
        (1, 1, 1, 1, 1, 0),
        (0, 1, -1, 2, -2, 0),
        (0, 1, 1, 4, 4, 0),
        (0, 1, -1, 8, -8, 1),
    ),
}
TILE = 2  # outputs of a tile along each axis
LARGE_TILE = 4

Grid = list[list[Array]]  # by row and column of a tile or a kernel


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def filtered(x: Array, kernel: Array, padding: Padding) -> Array:
    """Convolve with stride 1 by minimal filtering.

    Args:
        x: `[B, H, W, C]`, H and W even.
        kernel: `[k, k, C, F]`, k = 2 or 3.
        padding: zeros before and after along both axes; H + before + after - k + 1 must be even.

    Returns:
        `[B, H + before + after - k + 1, W + before + after - k + 1, F]`. It differs from a direct
        convolution by rounding, a few parts in 10^7; a kernel gradient with large tiles by a few
        parts in 10^6.
    """
    return _by_matmuls(
        _padded(x, padding), transformed(KERNEL[TILE, kernel.shape[0]], _taps(kernel)), 0
    )


def _forward(x: Array, kernel: Array, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
    return filtered(x, kernel, padding), (x, kernel)


def _backward(padding: Padding, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    size = kernel.shape[0]
    # The kernel rotated by 180 degrees; contracting its outputs avoids a copy with swapped axes.
    rotated = transformed(KERNEL[TILE, size], _taps(kernel[::-1, ::-1]))
    before, after = (size - 1 - zeros for zeros in padding)
    dx = _by_matmuls(_padded(gradient, (before, after)), rotated, 1)
    return dx, _kernel_gradient(_padded(x, padding), gradient, size)


def _kernel_gradient(x: Array, gradient: Array, size: int) -> Array:
    """Compute the gradient of the kernel from padded `x`, with large tiles where that is faster.

    With fewer tiles than output channels, writing the 36 products takes longer than it saves.
    """
    batch, height, width, features = gradient.shape
    divides = height % LARGE_TILE == width % LARGE_TILE == 0
    tiles = batch * (height // LARGE_TILE) * (width // LARGE_TILE)
    tile = LARGE_TILE if size == 3 and divides and tiles >= features else TILE
    products = transformed(transpose(OUTPUT[tile, size]), _pixels(gradient, tile))
    windows = transformed(INPUT[tile, size], _windows(x, size, tile))
    of_points = [
        [_matmul(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]), 0, 0) for a, b in pairs]
        for pairs in map(zip, windows, products)
    ]
    taps = transformed(transpose(KERNEL[tile, size]), of_points)
    return jnp.stack([jnp.stack(row) for row in taps])


filtered.defvjp(_forward, _backward)


def _by_matmuls(x: Array, kernels: Grid, channels_axis: int) -> Array:
    """Multiply transformed windows of padded `x` by transformed kernels; transform the result."""
    size = len(kernels) + 1 - TILE
    batch, rows, columns, channels = x.shape
    windows = transformed(INPUT[TILE, size], _windows(x, size, TILE))
    products = [
        [_matmul(a.reshape(-1, channels), b, 1, channels_axis) for a, b in pairs]
        for pairs in map(zip, windows, kernels)
    ]
    made = transformed(OUTPUT[TILE, size], products)
    y = jnp.stack([jnp.stack(row, axis=1) for row in made], axis=1)  # [tiles, 2, 2, F]
    height, width = rows - size + 1, columns - size + 1
    y = y.reshape(batch, height // TILE, width // TILE, TILE, TILE, -1)
    return y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, -1)


def _matmul(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())))


def _padded(x: Array, padding: Padding) -> Array:
    """Pad both axes with zeros; a negative number crops."""
    edge = (*padding, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), edge, edge, (0, 0, 0)))


def _windows(x: Array, size: int, tile: int) -> Grid:
    """Return pixel (i, j) of the window of every tile, each `[B, rows, columns, C]`."""
    batch, height, width, channels = x.shape
    points = size + tile - 1

    def pixel(i: int, j: int) -> Array:
        stop = (batch, height - points + i + 1, width - points + j + 1, channels)
        return lax.slice(x, (0, i, j, 0), stop, (1, tile, tile, 1))

    return [[pixel(i, j) for j in range(points)] for i in range(points)]


def _pixels(y: Array, tile: int) -> Grid:
    """Return pixel (i, j) of every tile, each `[B, H / tile, W / tile, F]`."""
    return [[y[:, i::tile, j::tile] for j in range(tile)] for i in range(tile)]


def _taps(kernel: Array) -> Grid:
    size = kernel.shape[0]
    return [[kernel[i, j] for j in range(size)] for i in range(size)]


def transformed(matrix: Matrix, grid: Grid) -> Grid:
    """Compute `matrix @ grid @ matrix^T` for a grid of arrays.

    Args:
        matrix: `[m, n]`.
        grid: n rows of n arrays of equal shape.

    Returns:
        m rows of m arrays.
    """
    columns = [[combined(row, column) for column in zip(*grid, strict=True)] for row in matrix]
    return [[combined(row, line) for row in matrix] for line in columns]


def combined(factors: tuple[float, ...], arrays: Any) -> Array:
    """Sum arrays times their factors.

    Args:
        factors: one for each array; 0 skips it, 1 and -1 multiply nothing.
        arrays: of equal shape.
    """
    terms = [
        array if factor == 1 else -array if factor == -1 else factor * array
        for factor, array in zip(factors, arrays, strict=True)
        if factor
    ]
    return sum(terms[1:], start=terms[0])


def transpose(matrix: Matrix) -> Matrix:
    """Transpose a matrix of numbers."""
    return tuple(zip(*matrix, strict=True))
