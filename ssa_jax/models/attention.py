"""Attention maps and their distillation loss (section 3.1.1, equations 1 to 4)."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

NORMALIZATIONS = ("none", "mean", "standardize")


def energy(features: Array, power: float = 2.0) -> Array:
    """Compute the attention map of a stage, the sum over channels of |A|^z (equation 1).

    Args:
        features: output of an encoder stage `[B, H, W, C]`.
        power: z, 1 or more; below 1 the gradient of a channel that is 0 is infinite.

    Returns:
        `[B, H, W]` float32 (float64 stays float64), 0 or more.

    Raises:
        ValueError: z is below 1.
    """
    if power < 1:
        raise ValueError(f"attention.power is {power}; expected 1 or more")
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    return jnp.sum(jnp.abs(features) ** power, axis=-1)


def spatial_softmax(maps: Array, normalize: str = "none") -> Array:
    """Apply a softmax over all positions of each map (equation 2, S).

    Args:
        maps: `[B, H, W]`, resized energies.
        normalize: before the softmax, 'none' (the paper; raw sums give a nearly one-hot result),
            'mean' (divide by the map's mean) or 'standardize' (to mean 0 and standard deviation 1).

    Returns:
        `[B, H, W]` in [0, 1]; each map sums to 1.

    Raises:
        ValueError: an unknown `normalize`.
    """
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"attention.normalize is {normalize!r}; expected one of {NORMALIZATIONS}")
    flat = maps.reshape(maps.shape[0], -1)
    mean = flat.mean(axis=1, keepdims=True)
    if normalize == "mean":
        flat = flat / (mean + 1e-6)
    elif normalize == "standardize":
        # The gradient of the square root is infinite at 0, the variance of a constant map.
        flat = (flat - mean) / jnp.sqrt(flat.var(axis=1, keepdims=True) + 1e-6)
    return jax.nn.softmax(flat, axis=1).reshape(maps.shape)


def attention_loss_terms(
    energies: Sequence[Array], *, normalize: str = "none", stop_gradient: bool = False
) -> Array:
    """Compute the loss of each pair of neighbouring attention maps (equations 2 and 3).

    The deeper map is resized bilinearly (half-pixel centres) to the shallower one, the softmax is
    applied to both, and their squared difference is averaged over all positions.

    Args:
        energies: one `[B, H_m, W_m]` for each of M stages, shallow to deep (see `energy`).
        normalize: see `spatial_softmax`.
        stop_gradient: whether the deeper map is a fixed target (Hou et al. 2019), or receives a
            gradient too (the published code).

    Returns:
        `[M - 1]`, one term for each pair, averaged over the batch. Their sum is equation 4.

    Raises:
        ValueError: an unknown `normalize`.
    """
    return jnp.stack(
        [
            _pair_loss(shallow, deep, normalize, stop_gradient)
            for shallow, deep in itertools.pairwise(energies)
        ]
    )


def _pair_loss(shallow: Array, deep: Array, normalize: str, stop_gradient: bool) -> Array:
    """Compute equation 3 for stages m and m + 1, `[B, H, W]` and `[B, H', W']`."""
    teacher = spatial_softmax(jax.image.resize(deep, shallow.shape, "bilinear"), normalize)
    if stop_gradient:
        teacher = jax.lax.stop_gradient(teacher)
    return jnp.mean((spatial_softmax(shallow, normalize) - teacher) ** 2)


def attention_weight(
    epoch: Array | float, *, alpha: float, start_epoch: float, ramp_epochs: float
) -> Array:
    """Compute the weight of the attention loss in equation 7.

    It is 0 before `start_epoch` and then rises linearly to `alpha` within `ramp_epochs`.

    Args:
        epoch: epochs since the training started, with fractions.
        alpha: the final weight.
        start_epoch: epoch at which the attention loss starts (table 3, E1 to E6).
        ramp_epochs: epochs of the rise; 0 for none.

    Returns:
        float32 scalar in [0, alpha].
    """
    since = jnp.asarray(epoch - start_epoch, jnp.float32)
    if ramp_epochs > 0:
        return alpha * jnp.clip(since / ramp_epochs, 0.0, 1.0)
    return alpha * (since >= 0).astype(jnp.float32)
