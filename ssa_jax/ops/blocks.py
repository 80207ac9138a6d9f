"""Convolutions of maps that are kept in blocks of 2x2 pixels, each block one position.

A map of few channels and many pixels wastes a TPU's memory, which pads channels to 128: with the
four pixels of a block as channels, 32 become 128. The numbers are those of `ops.conv` up to
rounding; the kernels get zeros where a block has no part in a pixel.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from ssa_jax.ops.conv import convolution

SIDE = 2  # of a block in pixels


def convolution_in_blocks(x: Array, kernel: Array, *, implementation: str | None = None) -> Array:
    """Convolve 3x3 with padding 1, as `conv.convolution` does.

    Args:
        x: map in blocks `[B, H/2, W/2, 4C]`.
        kernel: `[3, 3, C, F]`.
        implementation: see `conv.convolution`.

    Returns:
        In blocks, `[B, H/2, W/2, 4F]`.
    """
    # Pixel r of the block at distance d - 1 is tap 2 (d - 1) + r - p + 1 of pixel p of this one.
    distance, pixel_in, pixel_out = np.ogrid[:3, :SIDE, :SIDE]
    taps = _or_zero(SIDE * (distance - 1) + pixel_in - pixel_out + 1, size=3)
    all_taps = _with_zero_tap(kernel)[taps][:, :, :, taps]  # [d, r, p, d', r', p', C, F]
    channels, features = kernel.shape[2:]
    of_blocks = all_taps.transpose(0, 3, 1, 4, 6, 2, 5, 7)
    of_blocks = of_blocks.reshape(3, 3, SIDE**2 * channels, SIDE**2 * features)
    return convolution(x, of_blocks, implementation=implementation)


def double_resolution_in_blocks(
    x: Array, kernel: Array, *, implementation: str | None = None
) -> Array:
    """Apply a transposed 4x4 convolution with stride 2 and padding 1.

    Args:
        x: an ordinary map `[B, H, W, C]`.
        kernel: `[4, 4, C, F]`, see `conv.double_resolution`.
        implementation: see `conv.convolution`.

    Returns:
        In blocks, `[B, H, W, 4F]`, one for each pixel of `x`.
    """
    # Pixel p of a block takes the pixel of x at distance d - 1 by tap p + 1 - 2 (d - 1).
    distance, pixel = np.ogrid[:3, :SIDE]
    taps = _or_zero(pixel + 1 - SIDE * (distance - 1), size=4)
    all_taps = _with_zero_tap(kernel)[taps][:, :, taps]  # [d, p, d', p', C, F]
    channels, features = kernel.shape[2:]
    of_blocks = all_taps.transpose(0, 2, 4, 1, 3, 5).reshape(3, 3, channels, SIDE**2 * features)
    return convolution(x, of_blocks, implementation=implementation)


def pixels_of_blocks(x: Array) -> Array:
    """Return the ordinary map `[B, H, W, C]` of one in blocks, `[B, H/2, W/2, 4C]`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, SIDE, SIDE, channels // SIDE**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, SIDE * height, SIDE * width, -1)


def _or_zero(taps: np.ndarray, size: int) -> np.ndarray:
    """Replace taps outside a kernel by `size`, that of the tap which is zero."""
    return np.where((taps >= 0) & (taps < size), taps, size)


def _with_zero_tap(kernel: Array) -> Array:
    """Add a row and a column of zeros to `[k, k, C, F]`."""
    return jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
