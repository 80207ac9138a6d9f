"""Layers of SSA-Net with float32 parameters and a chosen type of the computation."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssa_jax.ops.blocks import SIDE, convolution_in_blocks, double_resolution_in_blocks
from ssa_jax.ops.conv import convolution, double_resolution
from ssa_jax.ops.spatial_conv import PASSES, spatial_convolution

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Messages add up over the rows, so the initial kernels are small: a third of the variance that
# preserves the scale through one linear layer.
message_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Conv(nn.Module):
    """Convolution with an odd square kernel and padding of half its size (`ops.conv`).

    Attributes:
        features: output channels.
        kernel_size: k.
        stride: along both axes.
        use_bias: whether a bias is added.
        padding: see `ops.conv.convolution`.
        dtype: type of the computation; parameters are float32.
        implementation: see `ops.conv.convolution`.
        kernel_init: initialiser of the kernel.
        in_blocks: whether the map comes and goes in blocks of 2x2 pixels, see `ops.blocks`; for
            3x3 kernels with stride 1 and zeros as padding.
    """

    features: int
    kernel_size: int
    stride: int = 1
    use_bias: bool = True
    padding: str = "zeros"
    dtype: Any = jnp.float32
    implementation: str | None = None
    kernel_init: Callable[..., Array] = he_normal
    in_blocks: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), features]`."""
        size, pixels = self.kernel_size, SIDE**2 if self.in_blocks else 1
        shape = (size, size, x.shape[-1] // pixels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        if self.in_blocks:
            y = convolution_in_blocks(x, kernel, implementation=self.implementation)
        else:
            y = convolution(
                x, kernel, self.stride, padding=self.padding, implementation=self.implementation
            )
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return y + jnp.tile(bias, pixels).astype(y.dtype).reshape((1, 1, 1, -1))


class TransposedConv(nn.Module):
    """Transposed convolution that doubles height and width (stride 2, padding 1).

    It equals a 2x2 convolution with four times the channels whose outputs are interleaved, see
    `ops.conv.double_resolution`.

    Attributes:
        features: output channels.
        kernel_size: 3 (with output padding 1, in the decoder layers) or 4 (in the head).
        dtype: type of the computation; parameters are float32.
        implementation: see `ops.conv.convolution`.
        kernel_init: initialiser of the kernel.
        in_blocks: whether the result is in blocks of 2x2 pixels, see `ops.blocks`; for size 4.
    """

    features: int
    kernel_size: int
    dtype: Any = jnp.float32
    implementation: str | None = None
    kernel_init: Callable[..., Array] = he_normal
    in_blocks: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, 2H, 2W, features]`.

        Raises:
            ValueError: `kernel_size` is not 3 or 4.
        """
        if self.kernel_size not in (3, 4):
            raise ValueError(f"kernel_size is {self.kernel_size}; expected 3 or 4")
        size = self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (size, size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if self.in_blocks:
            y = double_resolution_in_blocks(x, kernel, implementation=self.implementation)
            bias = jnp.tile(bias, SIDE**2)
        else:
            y = double_resolution(x, kernel, implementation=self.implementation)
        return y + bias.reshape((1, 1, 1, -1))


class SpatialConv(nn.Module):
    """The feature re-extractor of section 3.1.2 (equation 5), with four kernels and no bias.

    Attributes:
        kernel_size: k, odd; number of positions of the previous slice that send messages to one.
        implementation: see `ops.spatial_conv.spatial_convolution`.
        dtype: type of the computation; parameters are float32.
    """

    kernel_size: int = 9
    implementation: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, H, W, C]`.

        Raises:
            ValueError: an even `kernel_size`, or an unknown implementation.
        """
        shape = (self.kernel_size, x.shape[-1], x.shape[-1])
        kernels = {name: self.param(name, message_init, shape) for name, _, _ in PASSES}
        kernels = {name: kernel.astype(self.dtype) for name, kernel in kernels.items()}
        return spatial_convolution(x.astype(self.dtype), kernels, self.implementation)
