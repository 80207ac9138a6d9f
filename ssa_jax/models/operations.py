"""The operations that a forward pass needs, counted from the shapes of the parameters."""

from typing import Any

import jax

# Pixels of the image for each pixel that a layer's kernel is applied to, by the layer's name.
SCALES = {"stem": 4, "stage1": 16, "stage2": 64, "stage3": 256, "stage4": 1024}
DECODER_SCALES = {"layer4": 1024, "layer3": 256, "layer2": 64, "layer1": 16}
HEAD_SCALES = {"head_deconv1": 4, "head_conv2": 1, "head_conv3": 1}
PASSES_OF_A_STEP = 3  # the backward pass takes two convolutions for each of the forward pass


def operations(params: Any, size: int) -> float:
    """Count the multiplications and additions of a forward pass over one image.

    A kernel is applied to every pixel of its output, a transposed one to every pixel of its input
    and a kernel of the spatial convolution to every position but those of the first slice. Padding
    is counted; what an implementation saves is not.

    Args:
        params: of the network, arrays or shapes.
        size: height and width of the image in pixels.
    """
    pixels = size * size
    side = size // 32
    total = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [key.key for key in path]
        if len(leaf.shape) < 3:
            continue
        if names[0] == "spatial_conv":
            visited: float = side * (side - 1)
        elif names[0] == "encoder":
            visited = pixels / SCALES[names[1].partition("_")[0]]
        elif names[1] in HEAD_SCALES:
            visited = pixels / HEAD_SCALES[names[1]]
        else:
            visited = pixels / DECODER_SCALES[names[1]] * (4 if names[2] == "conv3" else 1)
        total += 2.0 * leaf.size * visited
    return total
