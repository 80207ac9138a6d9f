"""Convolutions and max pooling, with an implementation that is fast on each backend.

'xla' is XLA's own convolution. 'matmul' computes the same numbers, up to rounding, by matrix
multiplications: on the CPU XLA runs transposed convolutions, 1x1 ones and the backward pass of
`max_pool` on slow paths (docs/performance.md).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssa_jax.ops import tuning
from ssa_jax.ops.winograd import Padding, filtered

IMPLEMENTATIONS = ("matmul", "xla")
PADDINGS = ("zeros", "reflect")


def convolution(
    x: Array,
    kernel: Array,
    stride: int = 1,
    *,
    padding: str = "zeros",
    implementation: str | None = None,
) -> Array:
    """Convolve with padding of half the kernel's size.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[k, k, C, F]`, k odd.
        stride: along both axes.
        padding: 'zeros', or 'reflect' for the mirrored image.
        implementation: 'matmul' or 'xla'; None takes the backend's choice in `ops.tuning`.

    Returns:
        `[B, ceil(H / stride), ceil(W / stride), F]`.

    Raises:
        ValueError: an unknown implementation or padding.
    """
    if padding not in PADDINGS:
        raise ValueError(f"padding is {padding!r}; expected one of {PADDINGS}")
    size = kernel.shape[0]
    by_matmul = _by_matmul(implementation)
    if size == 1 and by_matmul:
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    if padding == "reflect":
        around = (size // 2, size // 2)
        x = jnp.pad(x, ((0, 0), around, around, (0, 0)), mode="reflect")
        return _convolve(x, kernel, (0, 0), stride, by_matmul=by_matmul)
    return _convolve(x, kernel, (size // 2, size // 2), stride, by_matmul=by_matmul)


def _by_matmul(implementation: str | None) -> bool:
    """Return whether the implementation is 'matmul'; None takes the backend's choice."""
    chosen = implementation or tuning.for_backend().convolution
    if chosen not in IMPLEMENTATIONS:
        raise ValueError(
            f"convolution implementation is {chosen!r}; expected one of {IMPLEMENTATIONS}"
        )
    return chosen == "matmul"


def _convolve(
    x: Array, kernel: Array, padding: Padding, stride: int = 1, *, by_matmul: bool
) -> Array:
    """Convolve with `padding` zeros before and after both axes."""
    if by_matmul and x.dtype != jnp.bfloat16:
        channels, features = kernel.shape[2:]
        if stride == 1 and features < tuning.CONV_NARROW:
            return _by_taps(x, kernel, padding)
        if stride == 1 and _minimal_filtering_pays(x, kernel):
            return filtered(x, kernel, padding)
        if channels >= tuning.CONV_NARROW:
            return _by_windows(x, kernel, padding, stride)
    if padding[0] != padding[1]:  # inside XLA's convolution it makes the gradient slow
        x, padding = jnp.pad(x, ((0, 0), padding, padding, (0, 0))), (0, 0)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _minimal_filtering_pays(x: Array, kernel: Array) -> bool:
    """Return whether minimal filtering is possible and, as measured, faster."""
    batch, height, width, channels = x.shape
    positions = batch * height * width
    return (
        kernel.shape[0] in (2, 3)
        and height % 2 == 0
        and width % 2 == 0
        and positions >= tuning.CONV_FILTERED_POSITIONS
        and positions * channels * kernel.shape[-1] >= tuning.CONV_FILTERED_WORK
    )


def _by_taps(x: Array, kernel: Array, padding: Padding) -> Array:
    """Compute the products of all taps in one matmul, then add the shifted maps."""
    size, _, channels, features = kernel.shape
    before, after = padding
    products = x.reshape(-1, channels) @ kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    products = products.reshape(*x.shape[:3], size, size, features)

    def shifted(i: int, j: int) -> Array:
        rows, columns = ((before - tap, after - size + 1 + tap, 0) for tap in (i, j))
        zero = jnp.zeros((), x.dtype)
        return lax.pad(products[:, :, :, i, j], zero, ((0, 0, 0), rows, columns, (0, 0, 0)))

    terms = [shifted(i, j) for i in range(size) for j in range(size)]
    return sum(terms[1:], start=terms[0])


def _by_windows(x: Array, kernel: Array, padding: Padding, stride: int) -> Array:
    """Gather the windows and multiply them in one matmul."""
    size, _, channels, features = kernel.shape
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    rows, columns = (side - size + 1 for side in x.shape[1:3])
    taps = [
        x[:, i : i + rows : stride, j : j + columns : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(taps, axis=-1) @ kernel.reshape(size * size * channels, features)


def max_pool(x: Array) -> Array:
    """Take the maximum of 3x3 windows with stride 2 and padding 1.

    Args:
        x: `[B, H, W, C]`, H and W even.

    Returns:
        `[B, H/2, W/2, C]`; pixels outside the map count as -infinity.
    """
    rows = _max_of_three(x, axis=1)
    return _max_of_three(rows, axis=2)


def _max_of_three(x: Array, axis: int) -> Array:
    """Compute the maximum of positions 2i-1, 2i and 2i+1 along `axis`, -infinity outside."""
    even = lax.slice_in_dim(x, 0, None, stride=2, axis=axis)
    odd = lax.slice_in_dim(x, 1, None, stride=2, axis=axis)
    padding = [(0, 0)] * x.ndim
    padding[axis] = (1, 0)
    before = jnp.pad(
        lax.slice_in_dim(odd, 0, odd.shape[axis] - 1, axis=axis),
        padding,
        constant_values=-jnp.inf,
    )
    return jnp.maximum(jnp.maximum(before, even), odd)


def double_resolution(x: Array, kernel: Array, *, implementation: str | None = None) -> Array:
    """Apply a transposed convolution with stride 2 and padding 1.

    'matmul' computes it as a 2x2 convolution whose outputs are interleaved. Two output rows depend
    on two neighbouring input rows j and j+1 alone:

    - kernel size 4: 2j+1 = `x[j] k[2] + x[j+1] k[0]` and 2j+2 = `x[j] k[3] + x[j+1] k[1]`;
    - kernel size 3: 2j = `x[j] k[1]` and 2j+1 = `x[j] k[2] + x[j+1] k[0]`.

    The same holds for columns.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[3 or 4, 3 or 4, C, F]`, tap (i, j) adds input pixel (r, c) to output pixel
            (2r - 1 + i, 2c - 1 + j), PyTorch's convention.
        implementation: as for `convolution`.

    Returns:
        `[B, 2H, 2W, F]`.

    Raises:
        ValueError: an unknown implementation.
    """
    if not _by_matmul(implementation):
        return _transposed(x, kernel)
    batch, height, width, channels = x.shape
    features = kernel.shape[-1]
    if kernel.shape[0] == 3:
        kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))  # tap 3 is zero
        taps, padding, first = np.array([[1, 2], [3, 0]]), (0, 1), 0
    else:  # one pair too many, so that their number is even; the ends are cropped below
        taps, padding, first = np.array([[2, 3], [0, 1]]), (1, 2), 1
    # From input j and j+1 (rows of `taps`) to the first and second output (columns).
    pairs = kernel[taps][:, :, taps].transpose(0, 2, 4, 1, 3, 5)
    y = _convolve(x, pairs.reshape(2, 2, channels, 4 * features), padding, by_matmul=True)
    rows, columns = y.shape[1:3]
    y = y.reshape(batch, rows, columns, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(batch, 2 * rows, 2 * columns, features)
    return y[:, first : first + 2 * height, first : first + 2 * width]


@jax.custom_vjp
def _transposed(x: Array, kernel: Array) -> Array:
    """Compute `double_resolution` as the transpose of a convolution with stride 2.

    The gradients are defined by the same convolution, because XLA does not map those that JAX
    derives from a convolution over a dilated map to cuDNN's backward pass (jaxlib 0.11.2).
    """
    batch, height, width, _ = x.shape
    doubled = jax.ShapeDtypeStruct((batch, 2 * height, 2 * width, kernel.shape[3]), x.dtype)
    return jax.linear_transpose(lambda y: _halve_resolution(y, kernel), doubled)(x)[0]


def _halve_resolution(y: Array, kernel: Array) -> Array:
    """Convolve `[B, 2H, 2W, F]` to `[B, H, W, C]` by a kernel `[k, k, C, F]`."""
    axes = ("NHWC", "HWOI", "NHWC")
    return lax.conv_general_dilated(y, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=axes)


def _transposed_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _transposed(x, kernel), (x, kernel)


def _transposed_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    of_kernel = jax.linear_transpose(lambda kernel: _halve_resolution(gradient, kernel), kernel)
    return _halve_resolution(gradient, kernel), of_kernel(x)[0]


_transposed.defvjp(_transposed_forward, _transposed_backward)
