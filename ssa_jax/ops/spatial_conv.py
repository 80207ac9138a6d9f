"""The spatial convolution of section 3.1.2: messages passed row by row and column by column."""

from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssa_jax.ops import tuning
from ssa_jax.ops.slice_conv import (
    Algorithm,
    Direct,
    convolve_slice,
    fewest_multiplications,
    kernel_gradient,
    slice_gradient,
)

# Name, axis and whether it is reversed, of each pass, in the published code's order.
PASSES = (
    ("down", 1, False),
    ("up", 1, True),
    ("right", 2, False),
    ("left", 2, True),
)
Kernel = TypeVar("Kernel", Array, np.ndarray)
ON_ANY_BACKEND = ("filtered", "custom_vjp", "scan", "unrolled")
IMPLEMENTATIONS = (*ON_ANY_BACKEND, "pallas")


def spatial_convolution(
    x: Array,
    kernels: dict[str, Array],
    implementation: str | None = None,
    *,
    unroll: int | None = None,
    interpret: bool | None = None,
) -> Array:
    """Pass messages downward, upward, rightward and leftward (equation 5).

    Within a pass, slice j becomes `x[j] + relu(conv(slice j-1 after its own update))`; the first
    slice is unchanged. A slice is a row (down, up) or a column (right, left) of the map.

    Args:
        x: feature map `[B, H, W, C]`.
        kernels: one `[k, C, C]` (offset, from channel, to channel) for each of 'down', 'up',
            'right', 'left'; k odd.
        implementation: 'filtered' ('custom_vjp' with minimal filtering where that is faster, see
            `slice_conv.fewest_multiplications`), 'custom_vjp' (`lax.scan` with a backward pass
            written by hand; no forward-mode derivative), 'scan' (`lax.scan`, differentiated by
            JAX), 'unrolled' (a Python loop, whose compile time grows with H and W) or, on a TPU,
            'pallas' (one kernel for each pass, see `pallas_spatial_conv`; no forward-mode
            derivative). All give the same numbers up to rounding. None takes the backend's choice
            in `ops.tuning`.
        unroll: slices computed in one iteration of a scan; None takes the backend's choice if
            `implementation` is None too, else 1.
        interpret: whether 'pallas' runs in Pallas's interpreter, slowly, instead of being compiled
            for a TPU; None takes what `ops.tuning` says of the backend.

    Returns:
        `[B, H, W, C]`.

    Raises:
        ValueError: an unknown implementation or an even k; 'pallas' on another backend than a
            TPU, or with kernels and slices that do not fit into its VMEM.

    Example:
        >>> import jax.numpy as jnp
        >>> kernels = {name: jnp.ones((3, 1, 1)) for name in ("down", "up", "right", "left")}
        >>> spatial_convolution(jnp.ones((1, 1, 3, 1)), kernels, "scan").ravel().tolist()
        [6.0, 5.0, 3.0]
    """
    if implementation is None:
        choice = tuning.for_backend()
        implementation = choice.spatial_conv
        unroll = choice.unroll if unroll is None else unroll
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"spatial convolution implementation is {implementation!r}; expected one of "
            f"{IMPLEMENTATIONS}"
        )
    for name, axis, reverse in PASSES:
        slices = jnp.moveaxis(x, axis, 0)  # [L, B, P, C]: L slices of P positions each
        kernel = reachable(kernels[name], positions=slices.shape[2])
        algorithm = _algorithm(kernel, slices, filtered=implementation == "filtered")
        if implementation == "unrolled":
            updated = _unrolled_pass(algorithm, slices, kernel, reverse)
        elif implementation == "scan":
            matrices = algorithm.matrices(kernel)
            updated, _ = _scan_pass(algorithm, slices, matrices, reverse, unroll or 1)
        elif implementation == "pallas":
            updated = _pallas_pass(slices, kernel, reverse, interpret)
        else:
            updated = _scan_custom_vjp(algorithm, reverse, unroll or 1, slices, kernel)
        x = jnp.moveaxis(updated, 0, axis)
    return x


def _pallas_pass(slices: Array, kernel: Array, reverse: bool, interpret: bool | None) -> Array:
    """Update the slices `[L, B, P, C]` in one pass by a kernel for TPUs."""
    # Imported here because only this implementation needs Pallas, which takes a while to import.
    from ssa_jax.ops.pallas_spatial_conv import pallas_pass

    if interpret is None:
        interpret = tuning.pallas_interpreted()
    dtype = jnp.result_type(slices, kernel)
    return pallas_pass(reverse, interpret, slices.astype(dtype), kernel.astype(dtype))


def reachable(kernel: Kernel, positions: int) -> Kernel:
    """Drop the taps of a kernel that fall outside a slice of so many positions.

    Args:
        kernel: `[k, C, C]`, k odd.
        positions: of a slice, P.

    Returns:
        `[min(k, 2 P - 1), C, C]`.

    Raises:
        ValueError: an even k.
    """
    size = kernel.shape[0]
    if size % 2 == 0:
        raise ValueError(f"the spatial convolution's kernel width is {size}; expected an odd one")
    radius = min(size // 2, positions - 1)
    return kernel[size // 2 - radius : size // 2 + radius + 1]


def _algorithm(kernel: Array, slices: Array, *, filtered: bool) -> Algorithm:
    """Choose how a slice is convolved; bfloat16 rounds too coarsely for minimal filtering."""
    size, (batch, positions) = kernel.shape[0], slices.shape[1:3]
    if (
        filtered
        and slices.dtype != jnp.bfloat16
        and batch * positions >= tuning.SLICE_FILTERED_POSITIONS
    ):
        return fewest_multiplications(size, positions)
    return Direct(size)


def _scan_pass(
    algorithm: Algorithm, slices: Array, matrices: list[Array], reverse: bool, unroll: int
) -> tuple[Array, Array]:
    """Update the slices `[L, B, P, C]` in one pass by `lax.scan`.

    Returns:
        The updated slices `[L, B, P, C]`, and where the messages were positive, bool
        `[L - 1, B, P, C]`.
    """

    def step(previous: Array, current: Array) -> tuple[Array, tuple[Array, Array]]:
        sent = convolve_slice(algorithm, previous, matrices)
        updated = current + jax.nn.relu(sent)
        return updated, (updated, sent > 0)

    first, rest = _split_first(slices, reverse)
    _, (updated, positive) = lax.scan(step, first, rest, reverse=reverse, unroll=unroll)
    return _concatenate_first(first, updated, reverse), positive


def _unrolled_pass(algorithm: Algorithm, slices: Array, kernel: Array, reverse: bool) -> Array:
    """Update the slices `[L, B, P, C]` in one pass by a Python loop."""
    matrices = algorithm.matrices(kernel)
    first, rest = _split_first(slices, reverse)
    done = [first]
    for current in reversed(rest) if reverse else rest:
        done.append(current + jax.nn.relu(convolve_slice(algorithm, done[-1], matrices)))
    return jnp.stack(done[::-1] if reverse else done)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _scan_custom_vjp(
    algorithm: Algorithm, reverse: bool, unroll: int, slices: Array, kernel: Array
) -> Array:
    """Make one pass, with a backward pass whose scan carries no gradient of the kernel.

    The backward pass that JAX derives adds a `[k C, C]` matrix to a running sum at every slice and
    stores the windows of every slice. Here the kernel's gradient is one matmul for each point over
    all slices after the scan, whose slices are `[C, P, B]` (see `ops.slice_conv`).
    """
    return _scan_pass(algorithm, slices, algorithm.matrices(kernel), reverse, unroll)[0]


def _forward(
    algorithm: Algorithm, reverse: bool, unroll: int, slices: Array, kernel: Array
) -> tuple[Array, Any]:
    matrices = algorithm.matrices(kernel)
    updated, positive = _scan_pass(algorithm, slices, matrices, reverse, unroll)
    return updated, (updated, positive, matrices)


def _backward(
    algorithm: Algorithm, reverse: bool, unroll: int, saved: Any, gradient: Array
) -> tuple[Array, Array]:
    updated, positive, matrices = saved

    def step(from_later: Array, here: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        own, on = here
        total = own + from_later
        sent = jnp.where(on, total, jnp.zeros_like(total))
        return slice_gradient(algorithm, sent, matrices), (total, sent)

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
        _channels_first(_concatenate_first(first + from_second, totals, reverse)),
        kernel_gradient(algorithm, senders, sent),
    )


_scan_custom_vjp.defvjp(_forward, _backward)


def _channels_first(slices: Array) -> Array:
    """Transpose `[L, B, P, C]` to `[L, C, P, B]`, or back."""
    return slices.transpose(0, 3, 2, 1)


def _split_first(slices: Array, reverse: bool) -> tuple[Array, Array]:
    """Separate the slice where the pass starts from the others."""
    return (slices[-1], slices[:-1]) if reverse else (slices[0], slices[1:])


def _concatenate_first(first: Array, others: Array, reverse: bool) -> Array:
    """Undo `_split_first`."""
    return jnp.concatenate((others, first[None]) if reverse else (first[None], others))
