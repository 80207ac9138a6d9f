"""A message of the spatial convolution: the convolution of one slice, as matmuls.

All forms have one shape: a slice gives windows, a kernel gives matrices, one of each is multiplied
at every point, and the products are joined to outputs. The direct form has a single point, whose
windows are the neighbourhoods. Minimal filtering (`ssa_jax/winograd.py`) has several points and in
all fewer multiplications.

Slices come as `[A, P, Z]`, the P positions in the middle: as `[B, P, C]`, whose windows are the
left side of a matmul, or as `[C, P, B]`, whose windows are the right side. The matrices of the two
directions are then read as they lie in memory; XLA on the CPU copies a turned one for every slice.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array

from ssa_jax.winograd import INPUT, KERNEL, OUTPUT, combined, transformed, transpose

Windows = list[list[Array]]  # for each point, one array for each tap that its matrix stacks


class Form(Protocol):
    """Linear functions that make a convolution; their transposes make its gradients."""

    def matrices(self, kernel: Array) -> list[Array]:
        """Kernel `[k, C, C]` (offset, from, to channel) to `[G C, C]` for each point."""

    def taps(self, matrices: list[Array]) -> Array:
        """The transpose of `matrices`; JAX's own would add up padded kernels."""

    def windows(self, x: Array) -> Windows:
        """Slice `[A, P, Z]` to G arrays `[A, T, Z]` for each point, T tiles of outputs."""

    def outputs(self, products: list[Array]) -> Array:
        """Products `[A, T, Z]`, one for each point, to `[A, P, Z]`."""


@dataclass(frozen=True)
class Direct:
    """Every tap times every position: one point, k P multiplications for two channels."""

    size: int  # k

    def matrices(self, kernel: Array) -> list[Array]:
        return [kernel.reshape(-1, kernel.shape[-1])]

    def taps(self, matrices: list[Array]) -> Array:
        channels = matrices[0].shape[-1]
        return matrices[0].reshape(self.size, channels, channels)

    def windows(self, x: Array) -> Windows:
        radius, positions = self.size // 2, x.shape[1]
        padded = jnp.pad(x, ((0, 0), (radius, radius), (0, 0)))
        return [[padded[:, n : n + positions] for n in range(self.size)]]

    def outputs(self, products: list[Array]) -> Array:
        return products[0]


@dataclass(frozen=True)
class Triples:
    """F(2, 3) for every three taps, P even: four points, 2/3 of `Direct`'s multiplications."""

    size: int  # k, a multiple of 3

    def matrices(self, kernel: Array) -> list[Array]:
        triples = kernel.reshape(self.size // 3, 3, *kernel.shape[1:])
        taps = [triples[:, n] for n in range(3)]
        return [combined(row, taps).reshape(-1, kernel.shape[-1]) for row in KERNEL[2, 3]]

    def taps(self, matrices: list[Array]) -> Array:
        channels = matrices[0].shape[-1]
        triples = [m.reshape(-1, channels, channels) for m in matrices]
        taps = [combined(row, triples) for row in transpose(KERNEL[2, 3])]
        return jnp.stack(taps, axis=1).reshape(self.size, channels, channels)

    def windows(self, x: Array) -> Windows:
        first, positions, last = x.shape
        radius = self.size // 2
        padded = jnp.pad(x, ((0, 0), (radius, radius + 2), (0, 0)))
        pairs = padded.reshape(first, -1, 2, last)  # no strides: their transposes are slow

        def pixels(start: int) -> list[Array]:
            """Of every tile's window of four, for the triple at this tap."""
            places = range(start, start + 4)
            return [pairs[:, n // 2 : n // 2 + positions // 2, n % 2] for n in places]

        starts = range(0, self.size, 3)
        return [[combined(row, pixels(start)) for start in starts] for row in INPUT[2, 3]]

    def outputs(self, products: list[Array]) -> Array:
        first, tiles, last = products[0].shape
        both = [combined(row, products) for row in OUTPUT[2, 3]]
        return jnp.stack(both, axis=2).reshape(first, 2 * tiles, last)


@dataclass(frozen=True)
class Fours:
    """Slices of four positions, k = 7: nine points and multiplications instead of 28.

    Position 2a + b hears from position 2c + d by tap 2 (c - a + 1) + (d - b + 1). That is a 2x2
    filter, the slice, over a 3x3 image, the taps 2u + v, with the outputs turned round: F(2x2, 2x2)
    with the taps as image, so that the slice has the small transforms.
    """

    def matrices(self, kernel: Array) -> list[Array]:
        image = [[kernel[2 * u + v] for v in range(3)] for u in range(3)]
        return list(chain(*transformed(INPUT[2, 2], image)))

    def taps(self, matrices: list[Array]) -> Array:
        image = transformed(transpose(INPUT[2, 2]), [matrices[n : n + 3] for n in (0, 3, 6)])
        (t0, t1, t2), (t3, t4, t5), (t6, t7, t8) = image  # 2u + v: t2 and t3 are one tap
        return jnp.stack([t0, t1, t2 + t3, t4, t5 + t6, t7, t8])

    def windows(self, x: Array) -> Windows:
        filters = [[x[:, n : n + 1] for n in pair] for pair in ((0, 1), (2, 3))]
        return [[point] for point in chain(*transformed(KERNEL[2, 2], filters))]

    def outputs(self, products: list[Array]) -> Array:
        made = transformed(OUTPUT[2, 2], [products[n : n + 3] for n in (0, 3, 6)])
        return jnp.concatenate(list(chain(*made))[::-1], axis=1)


def minimal(size: int, positions: int) -> Form:
    """The form with fewest multiplications for k = `size` taps."""
    if (size, positions) == (7, 4):
        return Fours()
    return Triples(size) if size % 3 == positions % 2 == 0 else Direct(size)


def message(form: Form, row: Array, matrices: list[Array]) -> Array:
    """The convolution of a slice `[B, P, C]`."""
    windows = [jnp.concatenate(window, axis=-1) for window in form.windows(row)]
    return form.outputs([w @ m for w, m in zip(windows, matrices, strict=True)])


def message_transposed(form: Form, gradient: Array, matrices: list[Array]) -> Array:
    """What a message's gradient `[C, P, B]` gives its slice, `[C, P, B]`."""
    channels, _, batch = gradient.shape
    of_products = _of_products(form, gradient)
    of_windows = [
        list((m @ p.reshape(channels, -1)).reshape(-1, channels, p.shape[1], batch))
        for m, p in zip(matrices, of_products, strict=True)
    ]
    return jax.linear_transpose(form.windows, gradient)(of_windows)[0]


def kernel_gradient(form: Form, rows: Array, gradients: Array) -> Array:
    """What all messages' gradients give the kernel.

    Args:
      form: of the convolution.
      rows: slices `[L, B, P, C]`.
      gradients: of their messages, `[L, C, P, B]`.

    Returns:
      `[k, C, C]`.
    """
    positions, channels = rows.shape[2:]
    windows = form.windows(rows.transpose(3, 2, 0, 1).reshape(channels, positions, -1))
    of_products = _of_products(form, gradients.transpose(2, 0, 3, 1).reshape(1, positions, -1))
    of_matrices = [
        jnp.concatenate(w).reshape(len(w) * channels, -1) @ p.reshape(-1, channels)
        for w, p in zip(windows, of_products, strict=True)
    ]
    return form.taps(of_matrices)


def _of_products(form: Form, gradient: Array) -> list[Array]:
    """What a gradient `[A, P, Z]` of the outputs gives the products."""
    products = [window[0] for window in jax.eval_shape(form.windows, gradient)]
    return jax.linear_transpose(form.outputs, products)(gradient)[0]
