"""SSA-Net: encoder with attention maps, spatial convolution, decoder (figure 2)."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from ssa_jax.attention import energy
from ssa_jax.decoder import Decoder
from ssa_jax.resnet import ResNet34
from ssa_jax.spatial_conv import SpatialConv

STRIDE = 32  # the encoder halves height and width five times


class Prediction(NamedTuple):
    """What the network says about a batch.

    Attributes:
      logits: `[B, H, W, K]` float32; K is 1 (sigmoid gives the probability of a lesion) or the
        number of classes with background (softmax).
      attention: energies of the four encoder stages, `[B, H/4, W/4]` to `[B, H/32, W/32]`.
    """

    logits: Array
    attention: tuple[Array, ...]


class SSANet(nn.Module):
    """The network of section 3.1.

    Attributes:
      outputs: 1 for one lesion class (sigmoid), C + 1 for C lesion classes (softmax).
      encoder: 'published' or 'torchvision', see `ResNet34`.
      skip: 'concat' (the paper) or 'add' (the published code).
      spatial_conv: whether the spatial convolution is there (table 3's "SC").
      kernel_size: k of the spatial convolution.
      spatial_conv_impl: see `spatial_conv.spatial_convolution`.
      attention_power: z of equation 1.
      dtype: type of the computation; parameters and logits are float32.
      axis_name: mapped axis over which BatchNorm's statistics are averaged, None for one device.
    """

    outputs: int = 1
    encoder: str = "published"
    skip: str = "concat"
    spatial_conv: bool = True
    kernel_size: int = 9
    spatial_conv_impl: str = "auto"
    attention_power: float = 2.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Prediction:
        """Segment a batch.

        Args:
          image: `[B, H, W, C]`: intensity in [0, 1] and, where C is 2, the lung mask. H and W are
            multiples of 32.
          train: whether BatchNorm uses the batch's statistics (and updates its own).

        Raises:
          ValueError: height or width is not a multiple of 32.
        """
        height, width = image.shape[1:3]
        if height % STRIDE or width % STRIDE:
            raise ValueError(
                f"The image is {height} x {width} pixels; SSA-Net needs multiples of {STRIDE}. "
                "Resize or pad it."
            )
        norm = self.norm(train)
        stages = ResNet34(self.encoder, norm, self.dtype, name="encoder")(image.astype(self.dtype))
        e1, e2, e3, deepest = stages
        self.sow("intermediates", "e4", deepest)
        attention = tuple(energy(stage, self.attention_power) for stage in stages)
        if self.spatial_conv:
            deepest = SpatialConv(
                self.kernel_size, self.spatial_conv_impl, self.dtype, name="spatial_conv"
            )(deepest)
        self.sow("intermediates", "e4_after_spatial_conv", deepest)
        logits = Decoder(self.outputs, self.skip, norm, self.dtype, name="decoder")(
            (e1, e2, e3, deepest)
        )
        return Prediction(logits, attention)

    def norm(self, train: bool) -> Any:
        """Constructor of the network's BatchNorm layers."""
        return partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )


def probabilities(logits: Array) -> Array:
    """Probability of each class.

    Args:
      logits: `[B, H, W, K]`.

    Returns:
      `[B, H, W, max(K, 2)]` with the background first; sums to 1 over the classes.
    """
    if logits.shape[-1] == 1:
        lesion = jax.nn.sigmoid(logits)
        return jnp.concatenate([1 - lesion, lesion], axis=-1)
    return jax.nn.softmax(logits, axis=-1)
