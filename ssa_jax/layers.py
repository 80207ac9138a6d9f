"""Convolutions and pooling in the forms that are fast on the backend at hand.

On the CPU XLA runs transposed convolutions, 1x1 ones and the backward pass of `max_pool` on slow
paths; the forms here give the same numbers, up to rounding, from operations that are fast.
Elsewhere a convolution is XLA's own (`_on_cpu` is the one choice): cuDNN's kernels are fast, and
XLA for GPUs stumbles over the CPU's forms (docs/performance.md).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssa_jax.winograd import Padding, filtered

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


# Least map for `winograd.filtered` on the CPU (docs/performance.md). With fewer positions (pixels
# times batch) transforming the kernel costs more than it saves. With less work (multiplications of
# one kernel tap) the longer compilation is not worth it.
FILTERED_POSITIONS = 129
FILTERED_WORK = 2**22
# Channels below which a map counts as narrow: it tells the network's input and output (1 to 3
# channels measured) from everything between. XLA's convolutions leave most of the CPU idle where
# the output is narrow; gathered windows of a narrow input are mostly copying.
NARROW = 16


def convolution(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Convolution that keeps height and width, or divides them by the stride.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[k, k, C, F]`, k odd.
      stride: along both axes.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), F]`.
    """
    size = kernel.shape[0]
    if size == 1 and _on_cpu():
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    return _convolve(x, kernel, (size // 2, size // 2), stride)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _convolve(x: Array, kernel: Array, padding: Padding, stride: int = 1) -> Array:
    """With `padding` zeros before and after both axes, by the fastest way (docs/performance.md)."""
    if _on_cpu() and x.dtype != jnp.bfloat16:
        channels, features = kernel.shape[2:]
        if stride == 1 and features < NARROW:
            return _by_taps(x, kernel, padding)
        if stride == 1 and _minimal_filtering_pays(x, kernel):
            return filtered(x, kernel, padding)
        if channels >= NARROW:
            return _by_windows(x, kernel, padding, stride)
    if padding[0] != padding[1]:  # given to the convolution itself, it makes XLA's gradient slow
        x, padding = jnp.pad(x, ((0, 0), padding, padding, (0, 0))), (0, 0)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _minimal_filtering_pays(x: Array, kernel: Array) -> bool:
    batch, height, width, channels = x.shape
    positions = batch * height * width
    return (
        kernel.shape[0] in (2, 3)
        and height % 2 == 0
        and width % 2 == 0
        and positions >= FILTERED_POSITIONS
        and positions * channels * kernel.shape[-1] >= FILTERED_WORK
    )


def _by_taps(x: Array, kernel: Array, padding: Padding) -> Array:
    """One matmul that makes what every tap contributes, then a sum of shifted maps."""
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
    """One matmul over the gathered windows."""
    size, _, channels, features = kernel.shape
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    rows, columns = (side - size + 1 for side in x.shape[1:3])
    taps = [
        x[:, i : i + rows : stride, j : j + columns : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(taps, axis=-1) @ kernel.reshape(size * size * channels, features)


class Conv(nn.Module):
    """Convolution with an odd square kernel and zero padding of half its size, see `convolution`.

    Attributes:
      features: output channels.
      kernel_size: k.
      stride: along both axes.
      use_bias: whether a bias is added.
      dtype: type of the computation; parameters are float32.
    """

    features: int
    kernel_size: int
    stride: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Array] = he_normal

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, H / stride, W / stride, features]`."""
        size = self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (size, size, x.shape[-1], self.features))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        y = convolution(x, kernel, self.stride)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return y + bias.astype(y.dtype).reshape((1, 1, 1, -1))


def max_pool(x: Array) -> Array:
    """3x3 maximum over windows with stride 2 and padding 1.

    Args:
      x: `[B, H, W, C]`, H and W even.

    Returns:
      `[B, H/2, W/2, C]`.
    """
    rows = _max_of_three(x, axis=1)
    return _max_of_three(rows, axis=2)


def _max_of_three(x: Array, axis: int) -> Array:
    """Maximum of positions 2i-1, 2i, 2i+1 along `axis`, outside counted as -infinity."""
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


class TransposedConv(nn.Module):
    """Transposed convolution that doubles height and width (stride 2, padding 1).

    Four neighbouring input pixels make four output pixels: an ordinary 2x2 convolution with four
    times the channels, whose results are interleaved, see `double_resolution`.

    Attributes:
      features: output channels.
      kernel_size: 3 (with output padding 1, the decoder layers) or 4 (the head).
      dtype: type of the computation; parameters are float32.
    """

    features: int
    kernel_size: int
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Array] = he_normal

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, 2H, 2W, features]`."""
        if self.kernel_size not in (3, 4):
            raise ValueError(f"kernel_size is {self.kernel_size}; expected 3 or 4.")
        size = self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (size, size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = double_resolution(x, kernel)
        return y + bias.reshape((1, 1, 1, -1))


def double_resolution(x: Array, kernel: Array) -> Array:
    """Transposed convolution with stride 2 and padding 1.

    On the CPU it is a 2x2 convolution and an interleaving. Two neighbouring input rows j and j+1
    make two output rows, and those need no other input:

    - kernel size 4: 2j+1 = `x[j] k[2] + x[j+1] k[0]` and 2j+2 = `x[j] k[3] + x[j+1] k[1]`;
    - kernel size 3: 2j = `x[j] k[1]` and 2j+1 = `x[j] k[2] + x[j+1] k[0]`.

    The same holds for columns.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[3 or 4, 3 or 4, C, F]`, tap (i, j) adds input pixel (r, c) to output pixel
        (2r - 1 + i, 2c - 1 + j), PyTorch's convention.

    Returns:
      `[B, 2H, 2W, F]`.
    """
    if not _on_cpu():
        return _transposed(x, kernel)
    batch, height, width, channels = x.shape
    features = kernel.shape[-1]
    if kernel.shape[0] == 3:
        kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))  # tap 3 is zero
        taps, padding, first = np.array([[1, 2], [3, 0]]), (0, 1), 0
    else:  # one pair too many, so that their number is even; the ends are cut off below
        taps, padding, first = np.array([[2, 3], [0, 1]]), (1, 2), 1
    # From input j and j+1 (rows of `taps`) to the first and second output (columns).
    pairs = kernel[taps][:, :, taps].transpose(0, 2, 4, 1, 3, 5)
    y = _convolve(x, pairs.reshape(2, 2, channels, 4 * features), padding)
    rows, columns = y.shape[1:3]
    y = y.reshape(batch, rows, columns, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(batch, 2 * rows, 2 * columns, features)
    return y[:, first : first + 2 * height, first : first + 2 * width]


@jax.custom_vjp
def _transposed(x: Array, kernel: Array) -> Array:
    """`double_resolution` as the transpose of a convolution with stride 2.

    So are its gradients: XLA finds cuDNN's backward pass in none that JAX derives from a
    convolution over a map with zeros between its pixels (jaxlib 0.11.2).
    """
    batch, height, width, _ = x.shape
    doubled = jax.ShapeDtypeStruct((batch, 2 * height, 2 * width, kernel.shape[3]), x.dtype)
    return jax.linear_transpose(lambda y: _halve_resolution(y, kernel), doubled)(x)[0]


def _halve_resolution(y: Array, kernel: Array) -> Array:
    """`[B, 2H, 2W, F]` to `[B, H, W, C]` by a kernel `[k, k, C, F]`."""
    axes = ("NHWC", "HWOI", "NHWC")
    return lax.conv_general_dilated(y, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=axes)


def _transposed_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _transposed(x, kernel), (x, kernel)


def _transposed_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    of_kernel = jax.linear_transpose(lambda kernel: _halve_resolution(gradient, kernel), kernel)
    return _halve_resolution(gradient, kernel), of_kernel(x)[0]


_transposed.defvjp(_transposed_forward, _transposed_backward)
