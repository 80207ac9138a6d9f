"""Convolution of one slice, the message of the spatial convolution, by matrix multiplications.

A slice is one row (or column) of a feature map, with P positions. All algorithms have the same
steps: compute windows of the slice and matrices of the kernel, multiply the windows by the matrix
at every point, and combine the products to the outputs. The direct algorithm has one point, whose
windows are the neighbourhoods. Minimal filtering (`ops.winograd`) has several points and fewer
multiplications in all.

Slices have the shape `[A, P, Z]`, with the positions in the middle: `[B, P, C]`, whose windows are
the left factor of a matmul, or `[C, P, B]`, whose windows are the right factor. So the matrices are
used in both directions as they are stored; XLA on the CPU copies a transposed one for every slice.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array

from ssa_jax.ops.winograd import INPUT, KERNEL, OUTPUT, combined, transformed, transpose

Windows = list[list[Array]]  # for each point, one array for each tap that its matrix stacks


class Algorithm(Protocol):
    """Linear functions that compose a convolution; their transposes compose its gradients."""

    def matrices(self, kernel: Array) -> list[Array]:
        """Turn a kernel `[k, C, C]` (offset, from, to channel) into `[G C, C]` for each point."""

    def taps(self, matrices: list[Array]) -> Array:
        """Apply the transpose of `matrices`; the one that JAX derives would add padded kernels."""

    def windows(self, x: Array) -> Windows:
        """Turn a slice `[A, P, Z]` into G arrays `[A, T, Z]` for each point, T tiles of outputs."""

    def outputs(self, products: list[Array]) -> Array:
        """Combine the products `[A, T, Z]` of all points to `[A, P, Z]`."""


@dataclass(frozen=True)
class Direct:
    """Direct convolution: one point, k P multiplications for each pair of channels.

    Attributes:
        size: k.
    """

    size: int

    def matrices(self, kernel: Array) -> list[Array]:
        """See `Algorithm`."""
        return [kernel.reshape(-1, kernel.shape[-1])]

    def taps(self, matrices: list[Array]) -> Array:
        """See `Algorithm`."""
        channels = matrices[0].shape[-1]
        return matrices[0].reshape(self.size, channels, channels)

    def windows(self, x: Array) -> Windows:
        """See `Algorithm`."""
        radius, positions = self.size // 2, x.shape[1]
        padded = jnp.pad(x, ((0, 0), (radius, radius), (0, 0)))
        return [[padded[:, n : n + positions] for n in range(self.size)]]

    def outputs(self, products: list[Array]) -> Array:
        """See `Algorithm`."""
        return products[0]


@dataclass(frozen=True)
class Winograd1D:
    """F(2, 3) for every three taps, P even: four points, 2/3 of `Direct`'s multiplications.

    Attributes:
        size: k, a multiple of 3.
    """

    size: int

    def matrices(self, kernel: Array) -> list[Array]:
        """See `Algorithm`."""
        triples = kernel.reshape(self.size // 3, 3, *kernel.shape[1:])
        taps = [triples[:, n] for n in range(3)]
        return [combined(row, taps).reshape(-1, kernel.shape[-1]) for row in KERNEL[2, 3]]

    def taps(self, matrices: list[Array]) -> Array:
        """See `Algorithm`."""
        channels = matrices[0].shape[-1]
        triples = [m.reshape(-1, channels, channels) for m in matrices]
        taps = [combined(row, triples) for row in transpose(KERNEL[2, 3])]
        return jnp.stack(taps, axis=1).reshape(self.size, channels, channels)

    def windows(self, x: Array) -> Windows:
        """See `Algorithm`."""
        first, positions, last = x.shape
        radius = self.size // 2
        padded = jnp.pad(x, ((0, 0), (radius, radius + 2), (0, 0)))
        pairs = padded.reshape(first, -1, 2, last)  # no strides: their transposes are slow

        def pixels(start: int) -> list[Array]:
            """Return the four pixels of each tile's window for the triple of taps from `start`."""
            places = range(start, start + 4)
            return [pairs[:, n // 2 : n // 2 + positions // 2, n % 2] for n in places]

        starts = range(0, self.size, 3)
        return [[combined(row, pixels(start)) for start in starts] for row in INPUT[2, 3]]

    def outputs(self, products: list[Array]) -> Array:
        """See `Algorithm`."""
        first, tiles, last = products[0].shape
        both = [combined(row, products) for row in OUTPUT[2, 3]]
        return jnp.stack(both, axis=2).reshape(first, 2 * tiles, last)


@dataclass(frozen=True)
class Winograd2D:
    """F(2x2, 2x2) for slices of four positions and k = 7: 9 multiplications instead of 28.

    Tap 2 (c - a + 1) + (d - b + 1) connects input position 2c + d to output position 2a + b. That
    is a 2x2 filter, the slice, over a 3x3 image, the taps 2u + v, with reversed outputs. The taps
    are the image, so that the slice has the small transforms.
    """

    def matrices(self, kernel: Array) -> list[Array]:
        """See `Algorithm`."""
        image = [[kernel[2 * u + v] for v in range(3)] for u in range(3)]
        return list(chain(*transformed(INPUT[2, 2], image)))

    def taps(self, matrices: list[Array]) -> Array:
        """See `Algorithm`."""
        image = transformed(transpose(INPUT[2, 2]), [matrices[n : n + 3] for n in (0, 3, 6)])
        (t0, t1, t2), (t3, t4, t5), (t6, t7, t8) = image  # 2u + v: t2 and t3 are one tap
        return jnp.stack([t0, t1, t2 + t3, t4, t5 + t6, t7, t8])

    def windows(self, x: Array) -> Windows:
        """See `Algorithm`."""
        filters = [[x[:, n : n + 1] for n in pair] for pair in ((0, 1), (2, 3))]
        return [[point] for point in chain(*transformed(KERNEL[2, 2], filters))]

    def outputs(self, products: list[Array]) -> Array:
        """See `Algorithm`."""
        made = transformed(OUTPUT[2, 2], [products[n : n + 3] for n in (0, 3, 6)])
        return jnp.concatenate(list(chain(*made))[::-1], axis=1)


def fewest_multiplications(size: int, positions: int) -> Algorithm:
    """Choose the algorithm with the fewest multiplications.

    Args:
        size: k, number of taps, odd.
        positions: P of a slice.
    """
    if (size, positions) == (7, 4):
        return Winograd2D()
    return Winograd1D(size) if size % 3 == positions % 2 == 0 else Direct(size)


def convolve_slice(algorithm: Algorithm, row: Array, matrices: list[Array]) -> Array:
    """Convolve a slice.

    Args:
        algorithm: of the convolution.
        row: the slice `[B, P, C]`.
        matrices: of the kernel, see `Algorithm.matrices`.

    Returns:
        `[B, P, C]`.
    """
    windows = [jnp.concatenate(window, axis=-1) for window in algorithm.windows(row)]
    return algorithm.outputs([w @ m for w, m in zip(windows, matrices, strict=True)])


def slice_gradient(algorithm: Algorithm, gradient: Array, matrices: list[Array]) -> Array:
    """Compute the gradient of a slice from that of its convolution.

    Args:
        algorithm: of the convolution.
        gradient: of the convolution's output, `[C, P, B]`.
        matrices: of the kernel, see `Algorithm.matrices`.

    Returns:
        `[C, P, B]`.
    """
    channels, _, batch = gradient.shape
    of_products = _of_products(algorithm, gradient)
    of_windows = [
        list((m @ p.reshape(channels, -1)).reshape(-1, channels, p.shape[1], batch))
        for m, p in zip(matrices, of_products, strict=True)
    ]
    return jax.linear_transpose(algorithm.windows, gradient)(of_windows)[0]


def kernel_gradient(algorithm: Algorithm, rows: Array, gradients: Array) -> Array:
    """Compute the gradient of the kernel from those of the convolutions of all slices.

    Args:
        algorithm: of the convolution.
        rows: slices `[L, B, P, C]`.
        gradients: of their convolutions, `[L, C, P, B]`.

    Returns:
        `[k, C, C]`.
    """
    positions, channels = rows.shape[2:]
    windows = algorithm.windows(rows.transpose(3, 2, 0, 1).reshape(channels, positions, -1))
    of_products = _of_products(algorithm, gradients.transpose(2, 0, 3, 1).reshape(1, positions, -1))
    of_matrices = [
        jnp.concatenate(w).reshape(len(w) * channels, -1) @ p.reshape(-1, channels)
        for w, p in zip(windows, of_products, strict=True)
    ]
    return algorithm.taps(of_matrices)


def _of_products(algorithm: Algorithm, gradient: Array) -> list[Array]:
    """Compute the gradients of the products from that of the outputs, `[A, P, Z]`."""
    products = [window[0] for window in jax.eval_shape(algorithm.windows, gradient)]
    return jax.linear_transpose(algorithm.outputs, products)(gradient)[0]
