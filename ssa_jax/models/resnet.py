"""The feature encoder: the four residual stages of ResNet34 (section 3.1.1, figure 2)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssa_jax.models.layers import Conv
from ssa_jax.ops.conv import max_pool

ENCODERS = ("published", "torchvision")
STAGE_SIZES = (3, 4, 6, 3)  # residual blocks of each stage of ResNet34
CHANNELS = (64, 128, 256, 512)  # of each stage


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al. 2016).

    Attributes:
        features: output channels.
        stride: of the first convolution and of the shortcut.
        project: whether the shortcut is a 1x1 convolution with BatchNorm.
        first_bias: whether the first convolution has a bias (the published code's has).
        norm: constructor of BatchNorm.
        conv: constructor of `layers.Conv` with dtype and implementation set.
    """

    features: int
    stride: int
    project: bool
    first_bias: bool
    norm: Any
    conv: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, H / stride, W / stride, features]`."""
        conv = partial(self.conv, self.features)
        y = conv(3, self.stride, use_bias=self.first_bias, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        y = conv(3, use_bias=False, name="conv2")(y)
        y = self.norm(name="norm2")(y)
        if self.project:
            x = conv(1, self.stride, use_bias=False, name="shortcut")(x)
            x = self.norm(name="shortcut_norm")(x)
        return nn.relu(y + x)


class ResNet34(nn.Module):
    """ResNet34 without its classifier, or a ResNet of other depth with the same blocks.

    Attributes:
        variant: 'published' (the authors' code: each block's first convolution has a bias and
            stage 1 starts with a projection) or 'torchvision' (which ImageNet weights fit).
        norm: constructor of BatchNorm.
        dtype: type of the computation.
        conv_implementation: see `ops.conv.convolution`.
        stage_sizes: residual blocks of each of the four stages; (2, 2, 2, 2) is ResNet18.
        padding: of the convolutions, see `ops.conv.convolution`.
    """

    variant: str
    norm: Any
    dtype: Any = jnp.float32
    conv_implementation: str | None = None
    stage_sizes: tuple[int, ...] = STAGE_SIZES
    padding: str = "zeros"

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array, Array, Array]:
        """Map `[B, H, W, C]` to the outputs of the four stages.

        Returns:
            `[B, H/4, W/4, 64]`, `[B, H/8, W/8, 128]`, `[B, H/16, W/16, 256]` and
            `[B, H/32, W/32, 512]`.

        Raises:
            ValueError: an unknown variant, or not four stages of one block or more.
        """
        if self.variant not in ENCODERS:
            raise ValueError(f"model.encoder is {self.variant!r}; expected one of {ENCODERS}")
        if len(self.stage_sizes) != len(CHANNELS) or min(self.stage_sizes) < 1:
            raise ValueError(
                f"model.stage_sizes is {self.stage_sizes}; expected four numbers of 1 or more"
            )
        published = self.variant == "published"
        conv = partial(
            Conv, dtype=self.dtype, padding=self.padding, implementation=self.conv_implementation
        )
        x = conv(64, 7, 2, use_bias=False, name="stem")(x)
        x = max_pool(nn.relu(self.norm(name="stem_norm")(x)))
        outputs = []
        for stage, (blocks, features) in enumerate(
            zip(self.stage_sizes, CHANNELS, strict=True), start=1
        ):
            for block in range(1, blocks + 1):
                x = ResidualBlock(
                    features,
                    stride=2 if block == 1 and stage > 1 else 1,
                    project=block == 1 and (stage > 1 or published),
                    first_bias=published,
                    norm=self.norm,
                    conv=conv,
                    name=f"stage{stage}_block{block}",
                )(x)
            outputs.append(x)
        return tuple(outputs)  # type: ignore[return-value]
