"""From images to probabilities and labels."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssa_jax.model import Prediction, SSANet, probabilities
from ssa_jax.state import Variables, arrived


class Output(NamedTuple):
    """Of a batch, on the host.

    Attributes:
      prob: `[B, H, W, K]` float32, background first, sums to 1 over K.
      attention: energies of the four encoder stages (equation 1), resized bilinearly to the
        image: `[B, H, W, 4]` float32.
    """

    prob: np.ndarray
    attention: np.ndarray


Predict = Callable[[np.ndarray], Output]


def make_predict(model: SSANet, *, flip: bool) -> Callable[[Variables], Predict]:
    """Inference spread over this process's devices.

    Args:
      model: any `axis_name`; inference needs none.
      flip: whether the probability is averaged over the slice and its mirror images along both
        axes (test-time augmentation).

    Returns:
      A function that takes variables, brings them to the devices once and gives
      `predict(image [B, H, W, C]) -> Output`; B need not divide by the devices. Compiled once,
      whatever the variables.
    """
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices), ("batch",))
    split = NamedSharding(mesh, PartitionSpec("batch"))
    whole = NamedSharding(mesh, PartitionSpec())

    def forward(variables: Variables, image: Array) -> tuple[Array, Array]:
        prediction = _apply(model, variables, image)
        prob = probabilities(prediction.logits)
        if flip:
            mirrored = [_mirrored(model, variables, image, axes) for axes in ((1,), (2,), (1, 2))]
            prob = jnp.mean(jnp.stack([prob, *mirrored]), axis=0)
        maps = [jax.image.resize(m, image.shape[:3], "bilinear") for m in prediction.attention]
        return prob, jnp.stack(maps, axis=-1)

    compiled = jax.jit(forward)

    def with_variables(variables: Variables) -> Predict:
        placed = arrived(jax.device_put(variables, whole))

        def predict(image: np.ndarray) -> Output:
            count = len(image)
            missing = -count % len(devices)
            padded = np.pad(image, ((0, missing), (0, 0), (0, 0), (0, 0)))
            prob, attention = compiled(placed, arrived(jax.device_put(padded, split)))
            return Output(np.asarray(prob)[:count], np.asarray(attention)[:count])

        return predict

    return with_variables


def _apply(model: SSANet, variables: Variables, image: Array) -> Prediction:
    """The network in inference mode."""
    prediction = model.apply(variables, image, train=False)
    assert isinstance(prediction, Prediction)
    return prediction


def _mirrored(model: SSANet, variables: Variables, image: Array, axes: tuple[int, ...]) -> Array:
    """Probabilities of the image mirrored along `axes`, mirrored back."""
    prediction = _apply(model, variables, jnp.flip(image, axes))
    return jnp.flip(probabilities(prediction.logits), axes)


def most_probable(prob: np.ndarray) -> np.ndarray:
    """The most probable class of each pixel; for one lesion class, a probability above 0.5.

    Args:
      prob: `[..., K]`, background first.

    Returns:
      uint8 `[...]`; a tie goes to the lower class.
    """
    best, labels = prob[..., 0], np.zeros(prob.shape[:-1], np.uint8)
    # np.argmax along a short last axis takes several times as long.
    for index in range(1, prob.shape[-1]):
        labels = np.where(prob[..., index] > best, np.uint8(index), labels)
        best = np.maximum(best, prob[..., index])
    return labels
