"""One pass of the spatial convolution as one program for TPUs in Pallas, forward and backward.

The recurrence of a pass needs the same kernel `[k, C, C]` at every slice (4.7 MB in bfloat16 at
k = 9, C = 512). Here it is copied to the core's own memory, VMEM, once in a pass and stays there,
while the grid goes over the slices and Pallas moves the next one in and the last one out. Slices
are matrices `[P Z, C]` of Z images, whose rows are ordered by position, then by image, so that the
neighbours of all rows at distance n are n Z rows on: with rows of zeros around the matrix, the
message of a slice is k matmuls of windows of one buffer, whatever P, Z and C are.

A batch is cut into blocks of Z images, each of them a recurrence of its own. Matmuls add up in
float32, and what is stored has the type of the map. A TPU multiplies float32 matrices with the
precision of `jax.default_matmul_precision`, as in the other implementations; Mosaic, which compiles
the program, has 'default' and 'highest'.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# Rows of a slice's matrix beyond which a batch is cut: enough to keep the matrix units busy while
# they load the next weights. The program of a grid step grows with the rows.
ROWS = 256
# A core's VMEM has 128 MiB on v5e and v6e, 64 on v5p and v7, 16 before. The rest is left to XLA.
VMEM_LIMIT = 48 * 2**20
VMEM_SPARE = 4 * 2**20  # for what the compiler keeps there beside what we count
LANES, TILE_BYTES = 128, 4096  # an array in VMEM is stored as tiles of 128 lanes, 4 KiB each


class Sizes(NamedTuple):
    """Sizes of a pass.

    Attributes:
        blocks: N, into which the batch is cut.
        length: L, slices.
        positions: P of a slice.
        images: Z of a block.
        channels: C.
        taps: k of the kernel, odd.
        dtype: of the map.
    """

    blocks: int
    length: int
    positions: int
    images: int
    channels: int
    taps: int
    dtype: Any

    @property
    def rows(self) -> int:
        """Rows of a slice's matrix, P Z."""
        return self.positions * self.images

    @property
    def border(self) -> int:
        """Rows of zeros on either side of it."""
        return self.taps // 2 * self.images


def sizes_of(slices: Any, kernel: Any) -> Sizes:
    """Return the sizes of a pass, with the largest blocks of at most `ROWS` rows (or one image).

    Args:
        slices: `[L, B, P, C]`, or its shape and type.
        kernel: `[k, C, C]`, or its shape and type.
    """
    length, batch, positions, channels = slices.shape
    fitting = [n for n in range(1, batch + 1) if batch % n == 0 and n * positions <= ROWS]
    images = max(fitting, default=1)
    return Sizes(
        batch // images, length, positions, images, channels, kernel.shape[0], slices.dtype
    )


def vmem_bytes(sizes: Sizes) -> dict[str, int]:
    """Compute what a pass with its backward pass holds in VMEM, by the name of each part.

    Args:
        sizes: of the pass.

    Returns:
        Bytes. Slices that Pallas streams have two buffers, the kernel has one.
    """
    rows, channels, padded = sizes.rows, sizes.channels, sizes.rows + 2 * sizes.border
    return {
        "kernel": sizes.taps * _tiled(channels, channels, sizes.dtype),
        "streamed slices": 4 * _tiled(rows, channels, sizes.dtype),
        "streamed signs": 2 * _tiled(rows, channels, jnp.int8),
        "padded slice": _tiled(padded, channels, sizes.dtype),
        "sum and product": 2 * _tiled(rows, channels, jnp.float32),
    }


def _tiled(rows: int, columns: int, dtype: Any) -> int:
    """Return the bytes of a matrix in tiles."""
    itemsize = jnp.dtype(dtype).itemsize
    sublanes = TILE_BYTES // (LANES * itemsize)
    return TILE_BYTES * pl.cdiv(rows, sublanes) * pl.cdiv(columns, LANES)


def _check_vmem(sizes: Sizes) -> None:
    """Refuse sizes that VMEM is too small for."""
    used = vmem_bytes(sizes)
    if sum(used.values()) > VMEM_LIMIT:
        parts = ", ".join(f"{name} {size:,}" for name, size in used.items())
        raise ValueError(
            f"the spatial convolution's Pallas kernel would hold {sum(used.values()):,} bytes in "
            f"VMEM ({parts}); expected {VMEM_LIMIT:,} at most: take another implementation "
            "(model.spatial_conv_impl) or a narrower kernel"
        )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def pallas_pass(reverse: bool, interpret: bool, slices: Array, kernel: Array) -> Array:
    """Make one pass over the slices.

    Args:
        reverse: whether the pass starts at the last slice.
        interpret: whether to run the kernels in Pallas's interpreter, on any backend, instead of
            compiling them for a TPU.
        slices: `[L, B, P, C]`.
        kernel: `[k, C, C]` (offset, from channel, to channel); k odd.

    Returns:
        The updated slices `[L, B, P, C]`.

    Raises:
        ValueError: the kernel and the slices do not fit into VMEM.
    """
    sizes = sizes_of(slices, kernel)
    return _from_blocks(_run_forward(sizes, reverse, interpret, False, slices, kernel)[0], sizes)


def _forward(
    reverse: bool, interpret: bool, slices: Array, kernel: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    sizes = sizes_of(slices, kernel)
    updated, positive = _run_forward(sizes, reverse, interpret, True, slices, kernel)
    return _from_blocks(updated, sizes), (updated, positive, kernel)


def _backward(
    reverse: bool, interpret: bool, saved: tuple[Array, Array, Array], gradient: Array
) -> tuple[Array, Array]:
    updated, positive, kernel = saved
    sizes = sizes_of(gradient, kernel)
    totals = _run_backward(sizes, reverse, interpret, gradient, positive, kernel)
    receivers = slice(None, -1) if reverse else slice(1, None)
    senders = slice(1, None) if reverse else slice(None, -1)
    sent = jnp.where(positive[:, receivers] > 0, totals[:, receivers], 0)
    return _from_blocks(totals, sizes), _kernel_gradient(sizes, updated[:, senders], sent)


pallas_pass.defvjp(_forward, _backward)


def _to_blocks(slices: Array, sizes: Sizes) -> Array:
    """Turn `[L, B, P, C]` to the matrices `[N, L, P Z, C]`."""
    n, length, positions, images, channels = sizes[:5]
    cut = slices.reshape(length, n, images, positions, channels).transpose(1, 0, 3, 2, 4)
    return cut.reshape(n, length, sizes.rows, channels)


def _from_blocks(blocks: Array, sizes: Sizes) -> Array:
    """Undo `_to_blocks`."""
    n, length, positions, images, channels = sizes[:5]
    cut = blocks.reshape(n, length, positions, images, channels).transpose(1, 0, 3, 2, 4)
    return cut.reshape(length, n * images, positions, channels)


def _run_forward(
    sizes: Sizes, reverse: bool, interpret: bool, signs: bool, slices: Array, kernel: Array
) -> list[Array]:
    """Return the updated slices `[N, L, P Z, C]` and, if asked, where messages were positive."""

    def step(current: Any, kernel: Any, updated: Any, *rest: Any) -> None:
        *positive, padded = rest

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            padded[...] = jnp.zeros_like(padded)
            updated[...] = current[...]
            for to in positive:
                to[...] = jnp.zeros_like(to)

        @pl.when(pl.program_id(1) > 0)
        def _() -> None:
            sent = _message(sizes, padded, kernel)
            added = current[...].astype(jnp.float32) + jnp.maximum(sent, 0)
            updated[...] = added.astype(updated.dtype)
            for to in positive:
                to[...] = (sent > 0).astype(to.dtype)

        padded[pl.ds(sizes.border, sizes.rows), :] = updated[...]

    types = [sizes.dtype, jnp.int8] if signs else [sizes.dtype]
    return _call(sizes, step, reverse, interpret, types, [_to_blocks(slices, sizes)], kernel)


def _run_backward(
    sizes: Sizes, reverse: bool, interpret: bool, gradient: Array, positive: Array, kernel: Array
) -> Array:
    """Return the gradient of the slices `[N, L, P Z, C]`, against the direction of the pass."""

    def step(own: Any, positive: Any, kernel: Any, total: Any, padded: Any) -> None:
        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            padded[...] = jnp.zeros_like(padded)
            total[...] = own[...]

        @pl.when(pl.program_id(1) > 0)
        def _() -> None:
            from_later = _message(sizes, padded, kernel, transposed=True)
            total[...] = (own[...].astype(jnp.float32) + from_later).astype(total.dtype)

        # In float32, as vector units before v6e have no other.
        on = positive[...].astype(jnp.float32) > 0
        sent = jnp.where(on, total[...].astype(jnp.float32), 0)
        padded[pl.ds(sizes.border, sizes.rows), :] = sent.astype(padded.dtype)

    blocks = [_to_blocks(gradient, sizes), positive]
    return _call(sizes, step, not reverse, interpret, [sizes.dtype], blocks, kernel)[0]


def _message(sizes: Sizes, padded: Any, kernel: Any, *, transposed: bool = False) -> Array:
    """Convolve the slice in a padded buffer: `[P Z, C]` in float32.

    Transposed, it is the gradient of the slice that sent the message whose gradient is there.
    """
    total = jnp.zeros((sizes.rows, sizes.channels), jnp.float32)
    for tap in range(sizes.taps):
        offset = sizes.taps - 1 - tap if transposed else tap
        window = padded[pl.ds(offset * sizes.images, sizes.rows), :]
        total += lax.dot_general(
            window,
            kernel[tap],
            (((1,), (1 if transposed else 0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
    return total


def _call(
    sizes: Sizes,
    step: Any,
    reverse: bool,
    interpret: bool,
    types: list[Any],
    blocks: list[Array],
    kernel: Array,
) -> list[Array]:
    """Run a step for each slice of each block, from slices `[N, L, P Z, C]` and the kernel.

    The grid's last axis is the sequential one, so that the buffer `padded` holds the slice before.
    """
    _check_vmem(sizes)
    shape = (sizes.rows, sizes.channels)
    place = (lambda n, j: (n, sizes.length - 1 - j, 0, 0)) if reverse else lambda n, j: (n, j, 0, 0)
    one = pl.BlockSpec((None, None, *shape), place)
    resident = pl.BlockSpec(memory_space=pltpu.VMEM)  # whole, copied before the first step
    made = [jax.ShapeDtypeStruct((sizes.blocks, sizes.length, *shape), dtype) for dtype in types]
    arrays: list[Any] = [*blocks, kernel, *made]
    moved = sum(array.size * array.dtype.itemsize for array in arrays)
    multiplied = sizes.taps * sizes.rows * sizes.channels**2
    return pl.pallas_call(
        step,
        grid=(sizes.blocks, sizes.length),
        in_specs=[*[one] * len(blocks), resident],
        out_specs=[one] * len(types),
        out_shape=made,
        scratch_shapes=[
            pltpu.VMEM((sizes.rows + 2 * sizes.border, sizes.channels), sizes.dtype),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"),
            vmem_limit_bytes=sum(vmem_bytes(sizes).values()) + VMEM_SPARE,
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * sizes.blocks * (sizes.length - 1) * multiplied,
            bytes_accessed=moved,
            transcendentals=0,
        ),
        interpret=interpret,
        name="spatial_conv_pass",
    )(*blocks, kernel)


def _kernel_gradient(sizes: Sizes, senders: Array, sent: Array) -> Array:
    """Compute the gradient of the kernel, `[k, C, C]`, from all messages `[N, L - 1, P Z, C]`.

    XLA's own convolution reads each slice once; as a matmul it would read k shifted copies.
    """

    def messages(kernel: Array) -> Array:
        return lax.conv_general_dilated(
            senders.reshape(-1, sizes.rows, sizes.channels),
            kernel,
            window_strides=(1,),
            padding=[(sizes.border, sizes.border)],
            rhs_dilation=(sizes.images,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )

    shape = (sizes.taps, sizes.channels, sizes.channels)
    pullback = jax.linear_transpose(messages, jax.ShapeDtypeStruct(shape, sizes.dtype))
    return pullback(sent.reshape(-1, sizes.rows, sizes.channels))[0]
