"""Conversion of PyTorch weights: names and axes of a state_dict to those of our network.

There are two layouts: 'published', the authors' SSA-Net (every weight), and 'torchvision', a
ResNet34 of torchvision (the encoder alone, with ImageNet weights for instance).
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np

LAYOUTS = ("published", "torchvision")

_PASSES = {"down": "up_down", "up": "down_up", "right": "left_right", "left": "right_left"}
_HEAD = {"head_deconv1": "finaldeconv1", "head_conv2": "finalconv2", "head_conv3": "finalconv3"}
_BLOCK = {
    "published": {
        "conv1": "Res.0",
        "norm1": "Res.1",
        "conv2": "Res.3",
        "norm2": "Res.4",
        "shortcut": "right.0",
        "shortcut_norm": "right.1",
    },
    "torchvision": {
        "conv1": "conv1",
        "norm1": "bn1",
        "conv2": "conv2",
        "norm2": "bn2",
        "shortcut": "downsample.0",
        "shortcut_norm": "downsample.1",
    },
}
_STEM = {
    "published": {"stem": "firstconv.0", "stem_norm": "firstconv.1"},
    "torchvision": {"stem": "conv1", "stem_norm": "bn1"},
}
LEAF = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


class Conversion(NamedTuple):
    """Result of `convert`.

    Attributes:
        variables: our variables with the converted entries.
        missing: PyTorch names that our network needs and the file lacks.
        extra: names in the file that our network does not have.
        misshapen: 'name: got (PyTorch's shape), which does not fit (our shape) here'.
    """

    variables: dict[str, Any]
    missing: list[str]
    extra: list[str]
    misshapen: list[str]


def torch_name(path: tuple[str, ...], layout: str) -> str | None:
    """Return PyTorch's name of one of our variables.

    Args:
        path: names of modules and variable, without the collection.
        layout: 'published' or 'torchvision'.

    Returns:
        The name, or None where the layout has none.
    """
    if path[0] == "encoder":
        module = _encoder_module(path[1:-1], layout)
    elif layout == "torchvision":
        return None
    elif path[0] == "spatial_conv":
        return f"message_passing.{_PASSES[path[1]]}.weight"
    elif path[1] in _HEAD:
        module = _HEAD[path[1]]
    else:
        module = f"decoder{path[1].removeprefix('layer')}.{path[2]}"
    return f"{module}.{LEAF[path[-1]]}"


def _encoder_module(path: tuple[str, ...], layout: str) -> str:
    """Return PyTorch's name of a module of our encoder."""
    block = re.fullmatch(r"stage(\d)_block(\d)", path[0])
    if block is None:
        return _STEM[layout][path[0]]
    stage, number = block.groups()
    return f"layer{stage}.{int(number) - 1}.{_BLOCK[layout][path[1]]}"


def _to_ours(array: np.ndarray, path: tuple[str, ...]) -> np.ndarray:
    """Reorder the axes of a weight from PyTorch's layout to ours."""
    if path[0] == "spatial_conv" and array.ndim == 4:  # OI1k or OIk1 -> kIO
        return array.reshape(*array.shape[:2], -1).transpose(2, 1, 0)
    if array.ndim == 4 and "deconv" in path[-2]:  # IOHW -> HWIO
        return array.transpose(2, 3, 0, 1)
    if array.ndim == 4:  # OIHW -> HWIO
        return array.transpose(2, 3, 1, 0)
    return array


def _grey_stem(array: np.ndarray, channels: int) -> np.ndarray:
    """Convert a stem's kernel for RGB, `[7, 7, 3, F]`, to our channels.

    A grey image has R = G = B, so the sum over the channels gives the same response. The kernel of
    the lung mask is 0 at first.
    """
    grey = array.sum(axis=2, keepdims=True)
    return np.pad(grey, ((0, 0), (0, 0), (0, channels - 1), (0, 0)))


def convert(
    state_dict: Mapping[str, np.ndarray], variables: Mapping[str, Any], layout: str = "published"
) -> Conversion:
    """Convert a PyTorch state_dict to our variables.

    Args:
        state_dict: PyTorch's names to arrays in PyTorch's layout (OIHW; transposed IOHW).
        variables: 'params' and 'batch_stats' of our network, for names and shapes; entries that the
            layout does not cover keep these values.
        layout: 'published' or 'torchvision'.

    Raises:
        ValueError: an unknown layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; expected one of {LAYOUTS}")
    ours = flax.traverse_util.flatten_dict(dict(variables))
    unused = {name for name in state_dict if not name.endswith("num_batches_tracked")}
    if layout == "torchvision":
        unused -= {"fc.weight", "fc.bias"}
    missing, misshapen = [], []
    for (collection, *rest), current in ours.items():
        path = tuple(rest)
        name = torch_name(path, layout)
        if name is None:
            continue
        if name not in state_dict:
            missing.append(name)
            continue
        unused.discard(name)
        array = np.asarray(state_dict[name], np.float32)
        converted = _to_ours(array, path)
        if layout == "torchvision" and name == "conv1.weight" and converted.shape[2:3] == (3,):
            converted = _grey_stem(converted, current.shape[2])
        if converted.shape != current.shape:
            misshapen.append(f"{name}: got {array.shape}, which does not fit {current.shape} here")
            continue
        ours[(collection, *path)] = converted
    return Conversion(
        flax.traverse_util.unflatten_dict(ours), sorted(missing), sorted(unused), misshapen
    )
