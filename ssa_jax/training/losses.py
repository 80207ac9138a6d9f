"""Segmentation losses (equations 6 to 8), with a weight for each pixel.

Each loss is averaged over the pixels of a sample first and over samples last, so that the mean over
devices with equal shares of a batch is the loss of the whole batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssa_jax.models.ssa_net import probabilities

CLASS_WEIGHT_OVER = ("none", "lesion", "all")


def one_hot(mask: Array, classes: int) -> Array:
    """Encode class indices as one channel per class.

    Args:
        mask: `[B, H, W]` class index.
        classes: K, number of channels.

    Returns:
        `[B, H, W, K]` float32, 0 or 1.
    """
    return jax.nn.one_hot(mask, classes, dtype=jnp.float32)


def dice_loss(
    prob: Array,
    target: Array,
    weight: Array,
    smooth: float = 1.0,
    absent: bool = True,
    sample_weight: Array | None = None,
) -> Array:
    """Compute the soft Dice loss (equation 6), 1 - (2I + s) / (A + B + s).

    Args:
        prob: `[B, H, W, C]` in [0, 1], probability of each lesion class (no background).
        target: `[B, H, W, C]`, 1 where the class is, else 0.
        weight: `[B, H, W, 1]` in [0, 1]; 0 ignores a pixel.
        smooth: s; makes the loss of an empty prediction on an empty slice 0.
        absent: whether a class counts in samples without it. There its loss is 0 for an empty
            prediction and nearly 1 for any other, so that a network learns to predict nothing
            where most samples lack a class. False sets the loss of such pairs to 0, and only the
            cross entropy counts there.
        sample_weight: `[B]`, factor of the loss of each sample; None for 1.

    Returns:
        Scalar, in [0, 1] without `sample_weight`: the mean over samples and classes.
    """
    both = jnp.sum(weight * prob * target, axis=(1, 2))
    size = jnp.sum(weight * (prob + target), axis=(1, 2))
    loss = 1 - (2 * both + smooth) / (size + smooth)
    if not absent:
        loss *= jnp.sum(weight * target, axis=(1, 2)) > 0
    return jnp.mean(loss if sample_weight is None else loss * sample_weight[:, None])


def cross_entropy_loss(
    logits: Array,
    mask: Array,
    weight: Array,
    class_weight: Array,
    sample_weight: Array | None = None,
) -> Array:
    """Compute the class-weighted cross entropy (equation 8, with the minus sign it lacks).

    Args:
        logits: `[B, H, W, K]`; K is 1 for one lesion class (sigmoid).
        mask: `[B, H, W]` class index.
        weight: `[B, H, W, 1]` in [0, 1]; 0 ignores a pixel.
        class_weight: `[max(K, 2)]`, background first.
        sample_weight: `[B]`, factor of the loss of each sample; None for 1.

    Returns:
        Scalar: the weighted sum over the pixels of a sample divided by the sum of `weight`,
        averaged over samples.
    """
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)
    target = one_hot(mask, logits.shape[-1])
    log_prob = jax.nn.log_softmax(logits, axis=-1)
    classes = class_weight.reshape((1, 1, 1, -1))
    pixel = -jnp.sum(classes * target * log_prob, axis=-1, keepdims=True)
    total = jnp.sum(weight * pixel, axis=(1, 2, 3))
    loss = total / jnp.maximum(jnp.sum(weight, axis=(1, 2, 3)), 1.0)
    return jnp.mean(loss if sample_weight is None else loss * sample_weight)


def segmentation_losses(
    logits: Array,
    mask: Array,
    weight: Array,
    class_weight: Array,
    dice_absent: bool = True,
    sample_weight: Array | None = None,
) -> dict[str, Array]:
    """Compute both losses of a batch.

    Args:
        logits: see `cross_entropy_loss`.
        mask: see `cross_entropy_loss`.
        weight: see `cross_entropy_loss`.
        class_weight: see `cross_entropy_loss`.
        dice_absent: see `absent` of `dice_loss`.
        sample_weight: `[B]`, factor of the losses of each sample; None for 1.

    Returns:
        'dice_loss' and 'cross_entropy_loss', scalars.
    """
    prob = probabilities(logits)
    target = one_hot(mask, prob.shape[-1])
    return {
        "dice_loss": dice_loss(
            prob[..., 1:],
            target[..., 1:],
            weight,
            absent=dice_absent,
            sample_weight=sample_weight,
        ),
        "cross_entropy_loss": cross_entropy_loss(logits, mask, weight, class_weight, sample_weight),
    }


def class_weights(pixels: Sequence[float], *, over: str, clip: float) -> np.ndarray:
    """Compute the weight 1 / (C P_c) of each class in the cross entropy (equation 8).

    Args:
        pixels: number of pixels of each class in the training set, background first.
        over: 'lesion': C and P_c are taken over the lesion classes and the background's weight is
            1; 'all': over all classes; 'none': every weight is 1.
        clip: largest weight; 0 for no limit.

    Returns:
        float32 `[len(pixels)]`.

    Raises:
        ValueError: an unknown `over`, or a class to be weighted has no pixel.
    """
    if over not in CLASS_WEIGHT_OVER:
        raise ValueError(f"loss.class_weight_over is {over!r}; expected one of {CLASS_WEIGHT_OVER}")
    weights = np.ones(len(pixels), np.float32)
    if over == "none":
        return weights
    counted = slice(1, None) if over == "lesion" else slice(None)
    counts = np.asarray(pixels, np.float64)[counted]
    if not np.all(counts > 0):
        raise ValueError(
            f"the training set has {[int(n) for n in pixels]} pixels of the classes "
            f"0..{len(pixels) - 1}, expected some of each class to be weighted (equation 8); add "
            "slices that show it, or set loss.class_weight_over='none'"
        )
    weights[counted] = counts.sum() / (len(counts) * counts)
    return np.minimum(weights, clip) if clip > 0 else weights
