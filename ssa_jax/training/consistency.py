"""An online teacher: the moving average labels unlabelled slices within the training step.

The teacher sees a weak view of a slice, the network learns the label on a strong view of it
(FixMatch, Sohn et al., NeurIPS 2020; mean teacher, Tarvainen and Valpola, NeurIPS 2017), mixed with
a labelled slice by CutMix both ways (MiDSS, Ma et al., CVPR 2024).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ssa_jax.models.ssa_net import Prediction, SSANet, probabilities
from ssa_jax.training.state import Variables

Batch = dict[str, Any]


def labelled_by_teacher(model: SSANet, teacher: Variables, batch: Batch, eta: float) -> Batch:
    """Turn labelled and unlabelled slices into a batch of labelled and pseudo-labelled ones.

    Args:
        model: the network.
        teacher: its variables that label; no gradient reaches them.
        batch: 'image' `[B, H, W, C]`, 'mask' `[B, H, W]` and 'weight' `[B, H, W, 1]` of labelled
            slices; 'weak', 'strong' `[B, H, W, C]` and 'valid' `[B, H, W, 1]` of unlabelled ones,
            two views of the same pixels and where these lie inside the slice; 'box'
            `[B, H, W, 1]`, 1 where the two slices of a pair are exchanged, else 0.
        eta: a pixel of an unlabelled slice counts where the teacher's probability exceeds it.

    Returns:
        A batch of 2B slices as `step.make_train_step` takes it, with 'pseudo': labelled slices with
        boxes of unlabelled ones, then unlabelled slices with boxes of labelled ones.
    """
    prediction = model.apply(teacher, batch["weak"], train=False)
    assert isinstance(prediction, Prediction)
    prob = jax.lax.stop_gradient(probabilities(prediction.logits))
    label = jnp.argmax(prob, axis=-1).astype(batch["mask"].dtype)
    trusted = jnp.max(prob, axis=-1, keepdims=True) > eta
    box = batch["box"] > 0

    def exchanged(own: Array, other: Array, where: Array) -> Array:
        return jnp.concatenate([jnp.where(where, other, own), jnp.where(where, own, other)])

    return {
        "image": exchanged(batch["image"], batch["strong"], box),
        "mask": exchanged(batch["mask"], label, box[..., 0]),
        "weight": exchanged(batch["weight"], batch["valid"] * trusted, box),
        "pseudo": jnp.concatenate([jnp.zeros(len(label)), jnp.ones(len(label))]),
    }
