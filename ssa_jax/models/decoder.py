"""The feature decoder (section 3.1.3), after LinkNet and CE-Net."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssa_jax.models.layers import Conv, TransposedConv
from ssa_jax.ops import tuning
from ssa_jax.ops.blocks import pixels_of_blocks

SKIPS = ("concat", "add")


class DecoderLayer(nn.Module):
    """1x1 convolution, 3x3 transposed convolution that doubles the size, 1x1 convolution.

    BatchNorm and ReLU follow each; the middle one has a quarter of the input's channels.

    Attributes:
        features: output channels.
        norm: constructor of BatchNorm.
        options: `dtype` and `implementation` of the convolutions, see `layers.Conv`.
    """

    features: int
    norm: Any
    options: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, 2H, 2W, features]`."""
        conv: Any = partial(Conv, kernel_size=1, **self.options)
        middle = x.shape[-1] // 4
        x = nn.relu(self.norm(name="norm1")(conv(middle, name="conv1")(x)))
        x = TransposedConv(middle, kernel_size=3, **self.options, name="deconv2")(x)
        x = nn.relu(self.norm(name="norm2")(x))
        return nn.relu(self.norm(name="norm3")(conv(self.features, name="conv3")(x)))


class Decoder(nn.Module):
    """Four decoder layers with skip connections, and the head.

    Attributes:
        outputs: channels of the logits.
        skip: 'concat' (the paper) or 'add' (the published code).
        norm: constructor of BatchNorm.
        dtype: type of the computation; logits are float32 or wider.
        conv_implementation: see `ops.conv.convolution`.
        head_in_blocks: whether the head keeps its full-size maps in blocks of 2x2 pixels, see
            `ops.blocks`; None takes the backend's choice in `ops.tuning`.
    """

    outputs: int
    skip: str
    norm: Any
    dtype: Any = jnp.float32
    conv_implementation: str | None = None
    head_in_blocks: bool | None = None

    @nn.compact
    def __call__(self, stages: tuple[Array, Array, Array, Array]) -> Array:
        """Map the four stages `[B, H/4..H/32, W/4..W/32, 64..512]` to logits `[B, H, W, outputs]`.

        Args:
            stages: outputs of the encoder's stages; the deepest one after the spatial convolution.

        Raises:
            ValueError: an unknown `skip`.
        """
        if self.skip not in SKIPS:
            raise ValueError(f"model.skip is {self.skip!r}; expected one of {SKIPS}")
        *shallow, x = stages
        for number, side in zip((4, 3, 2), reversed(shallow), strict=True):
            x = self._layer(number, side.shape[-1])(x)
            x = x + side if self.skip == "add" else jnp.concatenate([x, side], axis=-1)
        x = self._layer(1, 64)(x)
        return self._head(x)

    def _layer(self, number: int, features: int) -> DecoderLayer:
        return DecoderLayer(features, self.norm, self._options, name=f"layer{number}")

    @property
    def _options(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "implementation": self.conv_implementation}

    def _head(self, x: Array) -> Array:
        """Restore the full size: `[B, H/2, W/2, 64]` to `[B, H, W, outputs]`."""
        chosen = self.head_in_blocks
        in_blocks = tuning.for_backend().head_in_blocks if chosen is None else chosen
        options: Any = {**self._options, "in_blocks": in_blocks}
        conv: Any = partial(Conv, kernel_size=3, **options)
        x = TransposedConv(32, kernel_size=4, **options, name="head_deconv1")(x)
        x = nn.relu(x)
        x = nn.relu(conv(32, name="head_conv2")(x))
        logits = conv(self.outputs, name="head_conv3")(x)
        if in_blocks:
            logits = pixels_of_blocks(logits)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
