"""The U-Net R231, which segments lungs, and the conversion of its weights from `lungmask`.

Hofmanninger et al., "Automatic lung segmentation in routine imaging is primarily a data diversity
problem, not a methodology problem", European Radiology Experimental 4:50 (2020). For inference
only.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssa_jax.models.torch_weights import LEAF, Conversion

LABELS = 3  # background, right lung, left lung
DEPTH = 5
MULTIPLE = 2 ** (DEPTH - 1)  # height and width are multiples of this

# Layers that the published files hold and R231 does not use, and a counter of training steps.
UNUSED = (".residual_input_conv.", ".residual_batchnorm.", ".num_batches_tracked")
_BLOCK_INDEX = {"conv1": 0, "norm1": 2, "conv2": 3, "norm2": 5}  # of each layer in PyTorch's block


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each followed by ReLU and then BatchNorm with its stored statistics.

    Attributes:
        features: output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, H, W, features]`."""
        for number in (1, 2):
            x = nn.relu(nn.Conv(self.features, (3, 3), name=f"conv{number}")(x))
            x = nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=f"norm{number}")(x)
        return x


class LungUNet(nn.Module):
    """The U-Net R231: five levels, mean pooling between them and bilinear upsampling.

    Attributes:
        features: channels of the first level; each deeper level has twice as many.
        labels: classes of the output.
    """

    features: int = 64
    labels: int = LABELS

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Compute the logits of slices.

        Args:
            x: `[B, H, W, 1]`, HU clipped to [-1024, 600] and scaled to [0, 1]; the published
                weights expect 256 x 256 pixels cropped to the body. H and W are multiples of 16.

        Returns:
            `[B, H, W, labels]`.

        Raises:
            ValueError: H or W is not a multiple of 16.
        """
        if x.shape[1] % MULTIPLE or x.shape[2] % MULTIPLE:
            raise ValueError(
                f"slices have {x.shape[1]} x {x.shape[2]} pixels, expected multiples of "
                f"{MULTIPLE}; resize or pad them"
            )
        bridges = []
        for level in range(DEPTH):
            if level:
                bridges.append(x)
                x = nn.avg_pool(x, (2, 2), (2, 2))
            x = ConvBlock(self.features * 2**level, name=f"down{level}")(x)
        for level in reversed(range(DEPTH - 1)):
            features = self.features * 2**level
            # The published network interpolates first. Both orders give the same result, as the
            # weights of an interpolation sum to 1, and this one has a quarter of the work.
            x = _interpolate(nn.Conv(features, (1, 1), name=f"reduce{level}")(x))
            x = jnp.concatenate([x, bridges[level]], axis=-1)
            x = ConvBlock(features, name=f"up{level}")(x)
        return nn.Conv(self.labels, (1, 1), name="last")(x)


def _interpolate(x: Array) -> Array:
    """Double height and width, bilinear between pixel centres."""
    batch, height, width, channels = x.shape
    return jax.image.resize(x, (batch, 2 * height, 2 * width, channels), "bilinear")


def torch_name(path: tuple[str, ...]) -> str:
    """Return the published name of one of our variables.

    Args:
        path: names of modules and variable, without the collection.
    """
    module, *inner, leaf = path
    level = int(module[-1]) if module[-1].isdigit() else 0
    if module.startswith("down"):
        name = f"down_path.{level}.block.{_BLOCK_INDEX[inner[0]]}"
    elif module.startswith("up"):
        name = f"up_path.{DEPTH - 2 - level}.conv_block.block.{_BLOCK_INDEX[inner[0]]}"
    elif module.startswith("reduce"):
        name = f"up_path.{DEPTH - 2 - level}.up.1"
    else:
        name = module
    return f"{name}.{LEAF[leaf]}"


def convert(state_dict: Mapping[str, np.ndarray], model: LungUNet | None = None) -> Conversion:
    """Convert a published state_dict to the variables of the network.

    Args:
        state_dict: PyTorch's names to arrays in PyTorch's layout (OIHW).
        model: the network; None for the published R231.

    Returns:
        The variables, and what is missing, extra or misshapen; where one of these lists is not
        empty, the variables are incomplete.
    """
    model = model or LungUNet()
    image = jax.ShapeDtypeStruct((1, MULTIPLE, MULTIPLE, 1), np.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)
    unused = {name for name in state_dict if not any(part in name for part in UNUSED)}
    ours: dict[tuple[str, ...], Any] = {}
    missing, misshapen = [], []
    for (collection, *path), wanted in flax.traverse_util.flatten_dict(shapes).items():
        name = torch_name(tuple(path))
        if name not in state_dict:
            missing.append(name)
            continue
        unused.discard(name)
        array = np.asarray(state_dict[name], np.float32)
        value = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        if value.shape == wanted.shape:
            ours[(collection, *path)] = value
        else:
            misshapen.append(f"{name}: got {array.shape}, which does not fit {wanted.shape} here")
    variables = flax.traverse_util.unflatten_dict(ours)
    return Conversion(variables, sorted(missing), sorted(unused), misshapen)


def make_labels(variables: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """Make the compiled function that labels the lungs in slices.

    Args:
        variables: of the published R231, see `convert`.

    Returns:
        A function from slices `[B, H, W]`, scaled as for `LungUNet`, to lung labels `[B, H, W]`
        uint8: 0 none, 1 right, 2 left.
    """
    on_device = jax.device_put(variables)

    @jax.jit
    def labels(variables: Mapping[str, Any], slices: Array) -> Array:
        logits: Any = LungUNet().apply(variables, slices[..., None])
        return jnp.argmax(logits, axis=-1).astype(jnp.uint8)

    return lambda slices: np.asarray(labels(on_device, jnp.asarray(slices, jnp.float32)))
