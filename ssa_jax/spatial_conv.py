"""The spatial convolution of section 3.1.2: messages passed row by row and column by column."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from ssa_jax.messages import Direct, Form, kernel_gradient, message, message_transposed, minimal

# Order, axis of travel and direction of the four passes, as in the published code.
PASSES = (
    ("down", 1, False),
    ("up", 1, True),
    ("right", 2, False),
    ("left", 2, True),
)
IMPLEMENTATIONS = ("filtered", "custom_vjp", "scan", "unrolled")
# What 'auto' means by backend, and how many slices one iteration takes: measured on two CPU cores
# and on an H200 (docs/performance.md). On other backends nothing was measured, and JAX
# differentiates.
FASTEST = {"cpu": ("filtered", 1), "gpu": ("custom_vjp", 8)}
OTHERWISE = ("scan", 1)
# Positions of a slice, times batch, from which 'filtered' filters: with fewer, reading the larger
# matrices costs more than multiplying less saves (same page).
FILTERED_POSITIONS = 16

# Messages add up over the rows, so the start is small: a third of the variance that keeps the
# scale of one linear layer.
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def spatial_convolution(
    x: Array, kernels: dict[str, Array], impl: str = "auto", *, unroll: int = 1
) -> Array:
    """Pass messages downward, upward, rightward and leftward (equation 5).

    Within a pass, slice j becomes `x[j] + relu(conv(slice j-1 after its own update))`; the first
    slice stays as it is.

    Args:
      x: feature map `[B, H, W, C]`.
      kernels: one `[k, C, C]` (offset, from channel, to channel) for each of 'down', 'up',
        'right', 'left'; k odd.
      impl: 'auto' (see `FASTEST`), 'filtered' (as 'custom_vjp', where it pays by minimal
        filtering, see `messages.minimal`), 'custom_vjp' (`lax.scan` with a backward pass written
        by hand; no forward-mode derivative), 'scan' (`lax.scan`, differentiated by JAX) or
        'unrolled' (a Python loop, compile time grows with H and W); the same numbers up to
        rounding.
      unroll: slices that one iteration of a scan takes; 'auto' has its own (see `FASTEST`).

    Returns:
      `[B, H, W, C]`.

    Raises:
      ValueError: an unknown implementation or an even k.
    """
    if impl == "auto":
        impl, unroll = FASTEST.get(jax.default_backend(), OTHERWISE)
    if impl not in IMPLEMENTATIONS:
        expected = ("auto", *IMPLEMENTATIONS)
        raise ValueError(f"Spatial convolution impl is {impl!r}; expected one of {expected}")
    for name, axis, reverse in PASSES:
        slices = jnp.moveaxis(x, axis, 0)  # [L, B, P, C]: L slices of P positions each
        kernel = _reachable(kernels[name], positions=slices.shape[2])
        form = _form(kernel, slices, filtered=impl == "filtered")
        if impl == "unrolled":
            updated = _unrolled(form, slices, kernel, reverse)
        elif impl == "scan":
            updated, _ = _walk(form, slices, form.matrices(kernel), reverse, unroll)
        else:
            updated = _scan_custom_vjp(form, reverse, unroll, slices, kernel)
        x = jnp.moveaxis(updated, 0, axis)
    return x


def _reachable(kernel: Array, positions: int) -> Array:
    """The taps of `[k, C, C]` that can reach another position of the same slice."""
    size = kernel.shape[0]
    if size % 2 == 0:
        raise ValueError(f"The spatial convolution's kernel width is {size}; expected an odd one.")
    radius = min(size // 2, positions - 1)
    return kernel[size // 2 - radius : size // 2 + radius + 1]


def _form(kernel: Array, slices: Array, *, filtered: bool) -> Form:
    """How a message is computed; not filtered in bfloat16, which rounds too much."""
    size, (batch, positions) = kernel.shape[0], slices.shape[1:3]
    if filtered and slices.dtype != jnp.bfloat16 and batch * positions >= FILTERED_POSITIONS:
        return minimal(size, positions)
    return Direct(size)


def _walk(
    form: Form, slices: Array, matrices: list[Array], reverse: bool, unroll: int
) -> tuple[Array, Array]:
    """One pass over `[L, B, P, C]` by `lax.scan`.

    Returns:
      The updated slices `[L, B, P, C]`, and where messages were positive `[L - 1, B, P, C]`.
    """

    def step(previous: Array, current: Array) -> tuple[Array, tuple[Array, Array]]:
        sent = message(form, previous, matrices)
        updated = current + nn.relu(sent)
        return updated, (updated, sent > 0)

    first, rest = _split_first(slices, reverse)
    _, (updated, positive) = lax.scan(step, first, rest, reverse=reverse, unroll=unroll)
    return _join_first(first, updated, reverse), positive


def _unrolled(form: Form, slices: Array, kernel: Array, reverse: bool) -> Array:
    """What `_walk` computes, by a Python loop."""
    matrices = form.matrices(kernel)
    first, rest = _split_first(slices, reverse)
    done = [first]
    for current in reversed(rest) if reverse else rest:
        done.append(current + nn.relu(message(form, done[-1], matrices)))
    return jnp.stack(done[::-1] if reverse else done)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _scan_custom_vjp(form: Form, reverse: bool, unroll: int, slices: Array, kernel: Array) -> Array:
    """`_walk` with a backward pass whose scan carries no gradient of the kernel.

    JAX's own would add a `[k C, C]` matrix to a running sum at every slice and keep every slice's
    windows; here the kernel's gradient is one matmul (for each point) over all slices after the
    scan. The scan's slices are `[C, P, B]`, see `ssa_jax.messages`.
    """
    return _walk(form, slices, form.matrices(kernel), reverse, unroll)[0]


def _forward(
    form: Form, reverse: bool, unroll: int, slices: Array, kernel: Array
) -> tuple[Array, Any]:
    matrices = form.matrices(kernel)
    updated, positive = _walk(form, slices, matrices, reverse, unroll)
    return updated, (updated, positive, matrices)


def _backward(
    form: Form, reverse: bool, unroll: int, saved: Any, gradient: Array
) -> tuple[Array, Array]:
    updated, positive, matrices = saved

    def step(from_later: Array, here: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        own, on = here
        total = own + from_later
        sent = jnp.where(on, total, jnp.zeros_like(total))
        return message_transposed(form, sent, matrices), (total, sent)

    first, rest = _split_first(_channels_first(gradient), reverse)
    from_second, (totals, sent) = lax.scan(
        step,
        jnp.zeros_like(first),
        (rest, _channels_first(positive)),
        reverse=not reverse,
        unroll=unroll,
    )
    senders = updated[1:] if reverse else updated[:-1]
    return (
        _channels_first(_join_first(first + from_second, totals, reverse)),
        kernel_gradient(form, senders, sent),
    )


_scan_custom_vjp.defvjp(_forward, _backward)


def _channels_first(slices: Array) -> Array:
    """`[L, B, P, C]` to `[L, C, P, B]`, and back."""
    return slices.transpose(0, 3, 2, 1)


def _split_first(slices: Array, reverse: bool) -> tuple[Array, Array]:
    """The slice where the pass starts, and the others."""
    return (slices[-1], slices[:-1]) if reverse else (slices[0], slices[1:])


def _join_first(first: Array, others: Array, reverse: bool) -> Array:
    """The reverse of `_split_first`."""
    return jnp.concatenate((others, first[None]) if reverse else (first[None], others))


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
