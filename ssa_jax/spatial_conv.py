"""The spatial convolution of section 3.1.2: messages passed row by row and column by column."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

# Order, axis of travel and direction of the four passes, as in the published code.
PASSES = (
    ("down", 1, False),
    ("up", 1, True),
    ("right", 2, False),
    ("left", 2, True),
)
IMPLEMENTATIONS = ("custom_vjp", "scan", "unrolled")
# What 'auto' means: measured on two CPU cores (docs/performance.md). On other backends nothing was
# measured, and JAX differentiates.
FASTEST = {"cpu": "custom_vjp"}
OTHERWISE = "scan"
# Slices that one iteration of the scans takes. Four make the hand-written backward pass up to a
# fifth faster on the CPU and never slower, and a scan that JAX differentiates slower (same page).
UNROLL = {"custom_vjp": 4, "scan": 1}

# Messages add up over the rows, so the start is small: a third of the variance that keeps the
# scale of one linear layer.
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def spatial_convolution(
    x: Array, kernels: dict[str, Array], impl: str = "auto", *, unroll: int | None = None
) -> Array:
    """Pass messages downward, upward, rightward and leftward (equation 5).

    Within a pass, slice j becomes `x[j] + relu(conv(slice j-1 after its own update))`; the first
    slice stays as it is.

    Args:
      x: feature map `[B, H, W, C]`.
      kernels: one `[k, C, C]` (offset, from channel, to channel) for each of 'down', 'up',
        'right', 'left'; k odd.
      impl: 'auto' (see `FASTEST`), 'custom_vjp' (`lax.scan` with a backward pass written by hand;
        no forward-mode derivative), 'scan' (`lax.scan`, differentiated by JAX) or 'unrolled' (a
        Python loop, compile time grows with H and W); the same numbers up to rounding.
      unroll: slices that one iteration of the two scans takes; None takes `UNROLL`'s.

    Returns:
      `[B, H, W, C]`.

    Raises:
      ValueError: an unknown implementation or an even k.
    """
    if impl == "auto":
        impl = FASTEST.get(jax.default_backend(), OTHERWISE)
    if impl not in IMPLEMENTATIONS:
        expected = ("auto", *IMPLEMENTATIONS)
        raise ValueError(f"Spatial convolution impl is {impl!r}; expected one of {expected}")
    steps = UNROLL.get(impl, 1) if unroll is None else unroll
    for name, axis, reverse in PASSES:
        slices = jnp.moveaxis(x, axis, 0)  # [L, B, P, C]: L slices of P positions each
        kernel = _reachable(kernels[name], positions=slices.shape[2])
        if impl == "custom_vjp":
            updated = _scan_custom_vjp(slices, kernel, reverse, steps)
        elif impl == "scan":
            updated, _ = _walk(slices, kernel, reverse, steps)
        else:
            updated = _unrolled(slices, kernel, reverse)
        x = jnp.moveaxis(updated, 0, axis)
    return x


def _reachable(kernel: Array, positions: int) -> Array:
    """The taps of `[k, C, C]` that can reach another position of the same slice."""
    size = kernel.shape[0]
    if size % 2 == 0:
        raise ValueError(f"The spatial convolution's kernel width is {size}; expected an odd one.")
    radius = min(size // 2, positions - 1)
    return kernel[size // 2 - radius : size // 2 + radius + 1]


def _walk(slices: Array, kernel: Array, reverse: bool, unroll: int) -> tuple[Array, Array]:
    """One pass over `[L, B, P, C]` by `lax.scan`.

    Returns:
      The updated slices `[L, B, P, C]`, and where messages were positive `[L - 1, B, P, C]`.
    """

    def step(previous: Array, current: Array) -> tuple[Array, tuple[Array, Array]]:
        message = _message(previous, kernel)
        updated = current + nn.relu(message)
        return updated, (updated, message > 0)

    first, rest = _split_first(slices, reverse)
    _, (updated, positive) = lax.scan(step, first, rest, reverse=reverse, unroll=unroll)
    return _join_first(first, updated, reverse), positive


def _unrolled(slices: Array, kernel: Array, reverse: bool) -> Array:
    """What `_walk` computes, by a Python loop."""
    first, rest = _split_first(slices, reverse)
    done = [first]
    for current in reversed(rest) if reverse else rest:
        done.append(current + nn.relu(_message(done[-1], kernel)))
    return jnp.stack(done[::-1] if reverse else done)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _scan_custom_vjp(slices: Array, kernel: Array, reverse: bool, unroll: int) -> Array:
    """`_walk` with a backward pass whose scan carries no gradient of the kernel.

    JAX's own would add a `[k C, C]` matrix to a running sum at every slice and keep every slice's
    windows; here the kernel's gradient is one matmul over all slices after the scan.
    """
    return _walk(slices, kernel, reverse, unroll)[0]


def _forward(
    slices: Array, kernel: Array, reverse: bool, unroll: int
) -> tuple[Array, tuple[Array, Array, Array]]:
    updated, positive = _walk(slices, kernel, reverse, unroll)
    return updated, (updated, positive, kernel)


def _backward(
    reverse: bool, unroll: int, saved: tuple[Array, Array, Array], gradient: Array
) -> tuple[Array, Array]:
    updated, positive, kernel = saved

    def step(from_later: Array, here: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        own, on = here
        total = own + from_later
        message = jnp.where(on, total, jnp.zeros_like(total))
        return _message_transposed(message, kernel), (total, message)

    first, rest = _split_first(gradient, reverse)
    from_second, (totals, messages) = lax.scan(
        step, jnp.zeros_like(first), (rest, positive), reverse=not reverse, unroll=unroll
    )
    sources = _windows(updated[1:] if reverse else updated[:-1], kernel.shape[0] // 2)
    kernel_gradient = lax.dot_general(sources, messages, (((0, 1, 2), (0, 1, 2)), ((), ())))
    return (
        _join_first(first + from_second, totals, reverse),
        kernel_gradient.reshape(kernel.shape),
    )


_scan_custom_vjp.defvjp(_forward, _backward)


def _split_first(slices: Array, reverse: bool) -> tuple[Array, Array]:
    """The slice where the pass starts, and the others."""
    return (slices[-1], slices[:-1]) if reverse else (slices[0], slices[1:])


def _join_first(first: Array, others: Array, reverse: bool) -> Array:
    """The reverse of `_split_first`."""
    return jnp.concatenate((others, first[None]) if reverse else (first[None], others))


def _windows(rows: Array, radius: int) -> Array:
    """`[..., P, C]` to `[..., P, (2 radius + 1) C]`: each position's neighbourhood, 0 outside."""
    positions = rows.shape[-2]
    padded = jnp.pad(rows, [(0, 0)] * (rows.ndim - 2) + [(radius, radius), (0, 0)])
    shifted = [padded[..., n : n + positions, :] for n in range(2 * radius + 1)]
    return jnp.concatenate(shifted, axis=-1)


def _message(row: Array, kernel: Array) -> Array:
    """Convolution of one slice `[B, P, C]` as a single matmul over its shifted windows.

    XLA on the CPU runs a convolution inside a scan on a slow path; a matmul stays fast.
    """
    return _windows(row, kernel.shape[0] // 2) @ kernel.reshape(-1, kernel.shape[-1])


def _message_transposed(gradient: Array, kernel: Array) -> Array:
    """What a gradient `[B, P, C]` of `_message` gives its slice: one matmul, then shifted sums.

    The kernel is the matmul's left side, so that it is read as it lies in memory; with the gradient
    on the left, XLA on the CPU was seen to copy the kernel anew for every slice.
    """
    size, channels = kernel.shape[:2]
    batch, positions = gradient.shape[:2]
    by_tap = lax.dot_general(
        kernel.reshape(size * channels, -1),
        gradient.reshape(batch * positions, -1),
        (((1,), (1,)), ((), ())),
    ).reshape(size, channels, batch, positions)
    by_tap = jnp.pad(by_tap, ((0, 0), (0, 0), (0, 0), (size // 2, size // 2)))
    shifted = [by_tap[n, ..., size - 1 - n : size - 1 - n + positions] for n in range(size)]
    return sum(shifted[1:], start=shifted[0]).transpose(1, 2, 0)


class SpatialConv(nn.Module):
    """The feature re-extractor of section 3.1.2 with its four kernels, without bias.

    Attributes:
      kernel_size: k, the positions of the previous slice that a position hears from.
      impl: see `spatial_convolution`.
      dtype: type of the computation; parameters are float32.
    """

    kernel_size: int = 9
    impl: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, H, W, C]`."""
        shape = (self.kernel_size, x.shape[-1], x.shape[-1])
        kernels = {name: self.param(name, kernel_init, shape) for name, _, _ in PASSES}
        kernels = {name: kernel.astype(self.dtype) for name, kernel in kernels.items()}
        return spatial_convolution(x.astype(self.dtype), kernels, self.impl)
