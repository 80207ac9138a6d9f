"""The spatial convolution of section 3.1.2: messages passed row by row and column by column."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

# Order, axis of travel and direction of the four passes, as in the published code.
PASSES = (
    ("down", 1, False),
    ("up", 1, True),
    ("right", 2, False),
    ("left", 2, True),
)
IMPLEMENTATIONS = ("scan", "unrolled")

# Messages add up over the rows, so the start is small: a third of the variance that keeps the
# scale of one linear layer.
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def spatial_convolution(x: Array, kernels: dict[str, Array], impl: str = "scan") -> Array:
    """Pass messages downward, upward, rightward and leftward (equation 5).

    Within a pass, slice j becomes `x[j] + relu(conv(slice j-1 after its own update))`; the first
    slice stays as it is.

    Args:
      x: feature map `[B, H, W, C]`.
      kernels: one `[k, C, C]` (offset, from channel, to channel) for each of 'down', 'up',
        'right', 'left'; k odd.
      impl: 'scan' (`lax.scan`, compile time independent of H and W) or 'unrolled' (a Python
        loop); the same numbers.

    Returns:
      `[B, H, W, C]`.

    Raises:
      ValueError: an unknown implementation or an even k.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"Spatial convolution impl is {impl!r}; expected one of {IMPLEMENTATIONS}")
    for name, axis, reverse in PASSES:
        x = _one_pass(x, kernels[name], axis=axis, reverse=reverse, impl=impl)
    return x


def _one_pass(x: Array, kernel: Array, *, axis: int, reverse: bool, impl: str) -> Array:
    """One direction of equation 5 over `[B, H, W, C]`."""
    slices = jnp.moveaxis(x, axis, 0)  # [L, B, P, C]: L slices of P positions each
    weights, radius = _matmul_kernel(kernel, positions=slices.shape[2])

    def step(previous: Array, current: Array) -> tuple[Array, Array]:
        updated = current + nn.relu(_message(previous, weights, radius))
        return updated, updated

    first, rest = (slices[-1], slices[:-1]) if reverse else (slices[0], slices[1:])
    if impl == "scan":
        _, updated = lax.scan(step, first, rest, reverse=reverse)
    else:
        updated = _unrolled(step, first, rest, reverse)
    parts = (updated, first[None]) if reverse else (first[None], updated)
    return jnp.moveaxis(jnp.concatenate(parts, axis=0), 0, axis)


def _unrolled(step: Any, first: Array, rest: Array, reverse: bool) -> Array:
    """What `lax.scan(step, first, rest)` stacks, by a Python loop."""
    carry, outputs = first, [rest[:0]]
    for current in reversed(rest) if reverse else rest:
        carry, output = step(carry, current)
        outputs.append(output[None])
    return jnp.concatenate(outputs[::-1] if reverse else outputs, axis=0)


def _matmul_kernel(kernel: Array, positions: int) -> tuple[Array, int]:
    """The taps that can reach another position, as one `[taps * C, C]` matrix, and their radius."""
    size, channels_in, channels_out = kernel.shape
    if size % 2 == 0:
        raise ValueError(f"The spatial convolution's kernel width is {size}; expected an odd one.")
    radius = min(size // 2, positions - 1)
    used = kernel[size // 2 - radius : size // 2 + radius + 1]
    return used.reshape((2 * radius + 1) * channels_in, channels_out), radius


def _message(row: Array, weights: Array, radius: int) -> Array:
    """Convolution of one slice `[B, P, C]` as a single matmul over its shifted windows.

    XLA on the CPU runs a convolution inside a scan on a slow path; a matmul stays fast.
    """
    positions = row.shape[1]
    padded = jnp.pad(row, ((0, 0), (radius, radius), (0, 0)))
    windows = jnp.concatenate(
        [padded[:, n : n + positions] for n in range(2 * radius + 1)], axis=-1
    )
    return windows @ weights


class SpatialConv(nn.Module):
    """The feature re-extractor of section 3.1.2 with its four kernels, without bias.

    Attributes:
      kernel_size: k, the positions of the previous slice that a position hears from.
      impl: see `spatial_convolution`.
      dtype: type of the computation; parameters are float32.
    """

    kernel_size: int = 9
    impl: str = "scan"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, H, W, C]`."""
        shape = (self.kernel_size, x.shape[-1], x.shape[-1])
        kernels = {name: self.param(name, kernel_init, shape) for name, _, _ in PASSES}
        kernels = {name: kernel.astype(self.dtype) for name, kernel in kernels.items()}
        return spatial_convolution(x.astype(self.dtype), kernels, self.impl)
