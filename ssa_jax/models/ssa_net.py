"""SSA-Net: encoder with attention maps, spatial convolution, decoder (figure 2)."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from ssa_jax.models.attention import energy
from ssa_jax.models.decoder import Decoder
from ssa_jax.models.layers import SpatialConv
from ssa_jax.models.resnet import STAGE_SIZES, ResNet34

STRIDE = 32  # the encoder halves height and width five times
NORM_EPSILON = 1e-5  # added to BatchNorm's variances


class Prediction(NamedTuple):
    """Output of the network for a batch.

    Attributes:
        logits: `[B, H, W, K]` float32; K is 1 (its sigmoid is the probability of lesion) or the
            number of classes with background (softmax).
        attention: energies of the four encoder stages (equation 1), `[B, H/4, W/4]` to
            `[B, H/32, W/32]`, float32.
    """

    logits: Array
    attention: tuple[Array, ...]


class SSANet(nn.Module):
    """SSA-Net, the network of section 3.1.

    Attributes:
        outputs: 1 for one lesion class (sigmoid), C + 1 for C lesion classes (softmax).
        encoder: 'published' or 'torchvision', see `ResNet34`.
        skip: 'concat' (the paper) or 'add' (the published code).
        spatial_conv: whether the network has the spatial convolution (table 3's "SC").
        kernel_size: k of the spatial convolution.
        attention_power: z of equation 1.
        dtype: type of the computation; parameters and logits are float32.
        axis_name: mapped axis over which BatchNorm's statistics are averaged, None for one device.
        axis_index_groups: places on that axis that share statistics; None for all of them.
        spatial_conv_implementation: see `ops.spatial_conv.spatial_convolution`.
        conv_implementation: see `ops.conv.convolution`.
        stage_sizes: residual blocks of the encoder's stages, see `ResNet34`.
        nested: whether the classes contain each other (a lesion, of which part is consolidation):
            the head decides one by one, see `nested_logits`; with 3 outputs or more.
        density: slope and middle of `by_density`, with 3 outputs or more; a slope of 0 leaves it
            out, as in training.
        padding: of the encoder's convolutions, see `ops.conv.convolution`.
        head_in_blocks: see `decoder.Decoder`.

    Example:
        >>> import jax
        >>> image = jax.ShapeDtypeStruct((1, 64, 64, 2), "float32")
        >>> network = SSANet(outputs=3)
        >>> variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, False), image)
        >>> jax.eval_shape(lambda v, x: network.apply(v, x, False), variables, image).logits.shape
        (1, 64, 64, 3)
    """

    outputs: int = 1
    encoder: str = "published"
    skip: str = "concat"
    spatial_conv: bool = True
    kernel_size: int = 9
    attention_power: float = 2.0
    dtype: Any = jnp.float32
    axis_name: str | None = None
    spatial_conv_implementation: str | None = None
    conv_implementation: str | None = None
    stage_sizes: tuple[int, ...] = STAGE_SIZES
    nested: bool = False
    density: tuple[float, float] = (0.0, 0.0)
    padding: str = "zeros"
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None
    head_in_blocks: bool | None = None

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Prediction:
        """Segment a batch.

        Args:
            image: `[B, H, W, C]`: intensity in [0, 1] and, where C is 2, the lung mask (0 or 1).
                H and W are multiples of 32.
            train: whether BatchNorm uses the batch's statistics (and updates its own).

        Raises:
            ValueError: H or W is not a multiple of 32, or an option is unknown.
        """
        height, width = image.shape[1:3]
        if height % STRIDE or width % STRIDE:
            raise ValueError(
                f"image has {height} x {width} pixels, expected multiples of {STRIDE}; resize or "
                "pad it"
            )
        norm = self.norm(train)
        encoder = ResNet34(
            self.encoder,
            norm,
            self.dtype,
            self.conv_implementation,
            self.stage_sizes,
            self.padding,
            name="encoder",
        )
        stages = encoder(image.astype(self.dtype))
        e1, e2, e3, deepest = stages
        self.sow("intermediates", "e4", deepest)
        attention = tuple(energy(stage, self.attention_power) for stage in stages)
        if self.spatial_conv:
            deepest = SpatialConv(
                self.kernel_size, self.spatial_conv_implementation, self.dtype, name="spatial_conv"
            )(deepest)
        self.sow("intermediates", "e4_after_spatial_conv", deepest)
        outputs = self.outputs - 1 if self.nested else self.outputs
        decoder = Decoder(
            outputs,
            self.skip,
            norm,
            self.dtype,
            self.conv_implementation,
            self.head_in_blocks,
            name="decoder",
        )
        logits = decoder((e1, e2, e3, deepest))
        logits = nested_logits(logits) if self.nested else logits
        if self.density[0]:
            logits = by_density(logits, image[..., 0], self.density)
        return Prediction(logits, attention)

    def norm(self, train: bool) -> Any:
        """Return the constructor of the network's BatchNorm layers.

        Args:
            train: whether they use the batch's statistics.
        """
        return partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=NORM_EPSILON,
            dtype=self.dtype,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
        )


def nested_logits(decisions: Array) -> Array:
    """Compute logits of classes that contain each other, from a decision about each.

    The sigmoid of decision k is the probability that a pixel of class k - 1 or higher is of class k
    or higher: lesion or background first, then consolidation or ground-glass. MEDPSeg (Carmo et
    al., 2024) segments lung, lesion and consolidation in this order.

    Args:
        decisions: `[B, H, W, C]` of the lesion classes, the containing one first.

    Returns:
        `[B, H, W, C + 1]`: the logarithms of the classes' probabilities, background first, whose
        softmax are the probabilities.
    """
    yes, no = jax.nn.log_sigmoid(decisions), jax.nn.log_sigmoid(-decisions)
    reached = jnp.cumsum(yes, axis=-1)  # the class itself or a higher one
    first = no[..., :1]
    between = reached[..., :-1] + no[..., 1:]
    return jnp.concatenate([first, between, reached[..., -1:]], axis=-1)


def by_density(logits: Array, intensity: Array, density: tuple[float, float]) -> Array:
    """Shift the choice between two lesion classes by the intensity.

    What radiologists call consolidation is dense, which a network that is trained on few slices
    hardly uses. The larger the slope, the more this is a threshold of the intensity.

    Args:
        logits: `[B, H, W, K]`, K 3 or more; the last two classes are told apart by density.
        intensity: `[B, H, W]` in [0, 1].
        density: slope and middle: the logit of the last class against the one before it gets
            slope (intensity - middle).

    Returns:
        `[B, H, W, K]` whose softmax has the same sum of both classes' probabilities.
    """
    slope, middle = density
    outer, inner = logits[..., -2], logits[..., -1]
    either = jnp.logaddexp(outer, inner)
    raised = inner - outer + slope * (intensity - middle)
    pair = jnp.stack([jax.nn.log_sigmoid(-raised), jax.nn.log_sigmoid(raised)], axis=-1)
    return jnp.concatenate([logits[..., :-2], either[..., None] + pair], axis=-1)


def probabilities(logits: Array) -> Array:
    """Compute the probability of each class from logits.

    Args:
        logits: `[B, H, W, K]`.

    Returns:
        `[B, H, W, max(K, 2)]` in [0, 1], background first; sums to 1 over the classes.
    """
    if logits.shape[-1] == 1:
        lesion = jax.nn.sigmoid(logits)
        return jnp.concatenate([1 - lesion, lesion], axis=-1)
    return jax.nn.softmax(logits, axis=-1)
