"""Memory traffic by layer: what a program moves, and the least that it could."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp

from ssa_jax.models.layers import Conv, SpatialConv, TransposedConv
from ssa_jax.models.ssa_net import SSANet
from ssa_jax.training.state import TrainState, Variables

OUTSIDE = "outside the network"
BACKWARD = " backward"


def by_layer(traffic: Counter[str]) -> Counter[str]:
    """Add up the bytes of scopes by layer.

    Args:
        traffic: see `hlo.Program.traffic`.
    """
    found: Counter[str] = Counter()
    for scope, size in traffic.items():
        found[layer_of(scope)] += size
    return found


def layer_of(scope: str) -> str:
    """Return the layer that a scope of a program belongs to, and 'backward' where it is that.

    Args:
        scope: see `hlo.Instruction`.

    Example:
        >>> layer_of("jit(step)/transpose(jvp(SSANet))/encoder/stage1_block2/conv1/add")
        'stage1 backward'
        >>> layer_of("jit(step)/mul")
        'outside the network'
    """
    derived, _, inner = scope.partition(SSANet.__name__)
    inside = inner.split("/")[1:]
    if not inside:
        return OUTSIDE
    part, *rest = inside
    if part == "encoder":
        named = [name for name in rest if name.startswith("stage")]
        part = named[0].partition("_")[0] if named else "stem"
    elif part == "decoder" and len(rest) > 1:
        in_head = rest[0] == "decoder._head" or rest[0].startswith("head_")
        part = "head" if in_head else f"decoder {rest[0]}"
    elif part not in ("decoder", "spatial_conv"):
        part = "attention"
    # Inside the network it is a transposed convolution.
    return part + BACKWARD if "transpose(" in derived else part


def least_traffic(
    model: SSANet, state: TrainState, image: jax.ShapeDtypeStruct, *, step: bool
) -> Counter[str]:
    """Return the least traffic of a program that keeps nothing on the chip between convolutions.

    A layer takes P + 2A bytes: P of its parameters in float32, read once, and A of the results of
    its convolutions, each written once and read once. In a step its backward pass takes 2G + 2A:
    the parameters are read again, in the type of the computation as their gradients, which are
    written (G each), and the gradients of the results are written once and read once. The update
    takes 2S + G: the state S (of which the parameters are a part) is read and written, the
    gradients are read. A and G are in the type of the computation. Normalisation, activation and
    sums are taken to be computed where a result is written or read; that the backward pass reads
    results of the forward pass again, the images and the masks are left out.

    Args:
        model: the network.
        state: of the training, shapes.
        image: shape of a chip's batch, `[B, H, W, C]`.
        step: whether the program is a training step; else it is a forward pass.

    Returns:
        Bytes by layer, see `layer_of`.
    """
    parameters: Counter[str] = Counter()  # elements
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        parameters[_layer(path)] += leaf.size
    width = jnp.dtype(model.dtype).itemsize
    results = _results(model, state, image)
    least: Counter[str] = Counter()
    for layer, number in parameters.items():
        least[layer] = 4 * number + 2 * results[layer]
        if step:
            least[layer + BACKWARD] = 2 * width * number + 2 * results[layer]
    if step:
        least[OUTSIDE] = 2 * bytes_of(state) + width * parameters.total()
    return least


def bytes_of(tree: Any) -> int:
    """Return the bytes of all arrays of a tree.

    Args:
        tree: of arrays or their shapes.
    """
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _results(model: SSANet, state: TrainState, image: jax.ShapeDtypeStruct) -> Counter[str]:
    """Return the bytes of the convolutions' results by layer."""

    def convolves(module: Any, _: str) -> bool:
        return isinstance(module, (Conv, TransposedConv, SpatialConv))

    def run(variables: Variables, image: Any) -> Any:
        return model.apply(
            variables, image, train=False, capture_intermediates=convolves, mutable="intermediates"
        )[1]["intermediates"]

    found: Counter[str] = Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        jax.eval_shape(run, state.variables, image)
    ):
        if path[-2].key == "__call__":
            found[_layer(path)] += leaf.size * leaf.dtype.itemsize
    return found


def _layer(path: Any) -> str:
    """Return the layer of a module's array by its path."""
    return layer_of("/".join([SSANet.__name__, *(str(getattr(key, "key", "")) for key in path)]))
