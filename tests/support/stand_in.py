"""A network of a few hundred parameters in SSA-Net's place, for tests of everything around it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssa_jax.models.ssa_net import Prediction
from ssa_jax.training.step import LossWeights

SETTINGS = LossWeights(
    dice=1.0,
    cross_entropy=0.5,
    alpha=0.1,
    start_epoch=0.0,
    ramp_epochs=0.0,
    normalize="mean",
    stop_gradient=False,
)
CLASS_WEIGHT = (1.0, 2.0)


class StandIn(nn.Module):
    """One strided convolution with BatchNorm; logits from it, and energies of four sizes."""

    axis_name: str | None = None
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Prediction:
        x = nn.Conv(4, (3, 3), (2, 2), use_bias=False, dtype=image.dtype)(image)
        norm = nn.BatchNorm(
            not train,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            dtype=image.dtype,
        )
        x = norm(x)
        x = nn.relu(x)
        energy = jnp.sum(x**2, axis=-1)
        logits = nn.Dense(4, dtype=image.dtype)(x)  # one for each pixel of a 2 x 2 square
        batch, height, width, _ = image.shape
        logits = logits.reshape(batch, height // 2, width // 2, 2, 2).transpose(0, 1, 3, 2, 4)
        strides = (1, 2, 4, 8)
        return Prediction(
            logits.reshape(batch, height, width, 1), tuple(energy[:, ::n, ::n] for n in strides)
        )


def batches(count: int, size: int = 32, *, seed: int = 0, batch: int = 8) -> list[dict]:
    """Batches of bright blobs to find; a tenth of the pixels has no weight."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        coarse = jnp.asarray(rng.random((batch, size // 8, size // 8, 2), np.float32))
        image = np.asarray(jax.image.resize(coarse, (batch, size, size, 2), "cubic"))
        weight = rng.random((batch, size, size, 1)) < 0.9
        made.append(
            {
                "image": image,
                "mask": (image[..., 0] > 0.6).astype(np.int32),
                "weight": weight.astype(np.float32),
            }
        )
    return made
