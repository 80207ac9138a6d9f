"""Inference: probabilities and labels of images."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssa_jax.models.ssa_net import Prediction, SSANet, probabilities
from ssa_jax.ops.tuning import block_on_cpu
from ssa_jax.training.state import Variables

# Axes along which the images of test-time augmentation are mirrored: the slice itself first.
MIRRORED: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (1, 2))


class Output(NamedTuple):
    """Probabilities and attention of a batch, on the host.

    Attributes:
        prob: `[B, H, W, K]` float32 in [0, 1], background first; sums to 1 over K.
        attention: energies of the four encoder stages (equation 1), resized bilinearly to the
            image: `[B, H, W, 4]` float32, 0 or more.
    """

    prob: np.ndarray
    attention: np.ndarray


Predict = Callable[[np.ndarray], Output]


def make_predict(model: SSANet, *, flip: bool) -> Callable[[Variables], Predict]:
    """Make inference that splits a batch over the devices of this process.

    Args:
        model: the network; its `axis_name` is not used.
        flip: whether the probability is averaged over the slice and its mirror images along both
            axes (test-time augmentation).

    Returns:
        A function that takes variables, copies them to the devices once and returns
        `predict(image [B, H, W, C]) -> Output`; B need not be a multiple of the number of devices.
        It is compiled once for all variables.
    """
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices), ("batch",))
    split = NamedSharding(mesh, PartitionSpec("batch"))
    whole = NamedSharding(mesh, PartitionSpec())

    compiled = jax.jit(partial(forward, model, flip))

    def with_variables(variables: Variables) -> Predict:
        placed = block_on_cpu(jax.device_put(variables, whole))

        def predict(image: np.ndarray) -> Output:
            count = len(image)
            missing = -count % len(devices)
            padded = np.pad(image, ((0, missing), (0, 0), (0, 0), (0, 0)))
            prob, attention = compiled(placed, block_on_cpu(jax.device_put(padded, split)))
            return Output(np.asarray(prob)[:count], np.asarray(attention)[:count])

        return predict

    return with_variables


def forward(model: SSANet, flip: bool, variables: Variables, image: Array) -> tuple[Array, Array]:
    """Compute probabilities and attention of a batch on the device.

    Args:
        model: the network.
        flip: see `make_predict`.
        variables: of the network.
        image: `[B, H, W, C]`.

    Returns:
        `Output.prob` and `Output.attention`.
    """
    prob, energies = predicted(model, variables, image, flip=flip)
    maps = [jax.image.resize(m, image.shape[:3], "bilinear") for m in energies]
    return prob, jnp.stack(maps, axis=-1)


def predicted(
    model: SSANet, variables: Variables, image: Array, *, flip: bool
) -> tuple[Array, tuple[Array, ...]]:
    """Compute the probabilities of a batch and the energies of its attention.

    Args:
        model: the network.
        variables: of the network.
        image: `[B, H, W, C]`, see `SSANet`.
        flip: whether the probability is averaged over the mirror images, see `make_predict`.

    Returns:
        Probabilities `[B, H, W, K]` float32 in [0, 1], background first, and the energies of the
        four stages of the encoder, see `Prediction`.
    """
    prediction = _apply(model, variables, image)
    prob = probabilities(prediction.logits)
    if flip:
        mirrored = [_mirrored(model, variables, image, axes) for axes in MIRRORED[1:]]
        prob = jnp.mean(jnp.stack([prob, *mirrored]), axis=0)
    return prob, prediction.attention


def _apply(model: SSANet, variables: Variables, image: Array) -> Prediction:
    """Run the network in inference mode."""
    prediction = model.apply(variables, image, train=False)
    assert isinstance(prediction, Prediction)
    return prediction


def _mirrored(model: SSANet, variables: Variables, image: Array, axes: tuple[int, ...]) -> Array:
    """Predict the image mirrored along `axes`, and mirror the probabilities back."""
    prediction = _apply(model, variables, jnp.flip(image, axes))
    return jnp.flip(probabilities(prediction.logits), axes)


def most_probable(prob: np.ndarray) -> np.ndarray:
    """Choose the most probable class of each pixel; one lesion class needs more than 0.5.

    Args:
        prob: `[..., K]` in [0, 1], background first.

    Returns:
        Class index `[...]` uint8; of equally probable classes the lowest.
    """
    best, labels = prob[..., 0], np.zeros(prob.shape[:-1], np.uint8)
    # np.argmax along a short last axis takes several times as long.
    for index in range(1, prob.shape[-1]):
        labels = np.where(prob[..., index] > best, np.uint8(index), labels)
        best = np.maximum(best, prob[..., index])
    return labels


def without_rare_classes(labels: np.ndarray, prob: np.ndarray, least: float) -> np.ndarray:
    """Give the pixels of lesion classes that are rare in a slice to the others.

    Networks see specks of one class in a lesion of the other, and in a slice without that class a
    single speck makes its DSC 0. A small lesion that is truly of the class is lost with them.

    Args:
        labels: `[H, W]` uint8, see `most_probable`.
        prob: `[H, W, K]` in [0, 1], background first.
        least: share of the slice's lesion pixels, 0 to 0.5; classes with a smaller one are rare.

    Returns:
        Labels of the same lesion pixels, each with the most probable class that is not rare.
    """
    if not least:
        return labels
    sizes = np.bincount(labels.ravel(), minlength=prob.shape[-1])[1:]
    rare = (sizes > 0) & (sizes < least * sizes.sum())
    if not rare.any():
        return labels
    kept = np.where((sizes > 0) & ~rare, prob[..., 1:], -1.0)
    moved = np.isin(labels, 1 + np.flatnonzero(rare))
    return np.where(moved, 1 + kept.argmax(axis=-1), labels).astype(np.uint8)
