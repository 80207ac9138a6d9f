"""The optimiser: Adam with a schedule, weight decay of kernels, clipping and accumulation."""

from typing import Any

import jax
import optax

SCHEDULES = ("cosine", "step")


def make_schedule(
    name: str,
    *,
    learning_rate: float,
    total_updates: int,
    warmup_updates: int,
    decay_updates: int,
) -> optax.Schedule:
    """Make the schedule of the learning rate over optimiser updates.

    Args:
        name: 'cosine' (linear warm-up, then half a cosine to 0) or 'step' (the same warm-up, then
            divided by 10 every `decay_updates`, the published code's schedule).
        learning_rate: the peak.
        total_updates: updates of the whole training.
        warmup_updates: updates of the linear warm-up, which starts at 0.
        decay_updates: updates between two divisions; used by 'step' alone.

    Raises:
        ValueError: an unknown name, or a warm-up as long as the training.
    """
    if name not in SCHEDULES:
        raise ValueError(f"optim.schedule is {name!r}; expected one of {SCHEDULES}")
    if not 0 <= warmup_updates < total_updates:
        raise ValueError(
            f"the warm-up takes {warmup_updates} of {total_updates} updates, expected fewer; "
            "lower optim.warmup_epochs or raise train.epochs"
        )
    if name == "cosine":
        main = optax.cosine_decay_schedule(learning_rate, total_updates - warmup_updates)
    else:
        main = optax.exponential_decay(learning_rate, decay_updates, 0.1, staircase=True)
    warmup = optax.linear_schedule(0.0, learning_rate, max(warmup_updates, 1))
    return optax.join_schedules([warmup, main], [warmup_updates])


def make_optimizer(
    schedule: optax.Schedule, *, weight_decay: float, clip_norm: float, accumulate_steps: int
) -> optax.GradientTransformation:
    """Make the optimiser, Adam (Kingma and Ba 2015) with decoupled weight decay.

    Args:
        schedule: learning rate over updates, see `make_schedule`.
        weight_decay: of kernels; biases and BatchNorm's scales do not decay.
        clip_norm: largest global norm of the gradients; 0 for no limit.
        accumulate_steps: steps whose gradients are averaged for one update (published code: 24).
    """
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm > 0 else optax.identity()
    adam = optax.adamw(schedule, weight_decay=weight_decay, mask=_is_kernel)
    optimizer: Any = optax.chain(clip, adam)
    if accumulate_steps > 1:
        optimizer = optax.MultiSteps(optimizer, accumulate_steps).gradient_transformation()
    return optimizer


def _is_kernel(params: Any) -> Any:
    """Mark weights with more than one axis."""
    return jax.tree.map(lambda p: p.ndim > 1, params)
