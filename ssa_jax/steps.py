"""The training step, and how it is mapped over devices."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssa_jax.attention import attention_loss_terms, attention_weight
from ssa_jax.losses import segmentation_losses
from ssa_jax.model import Prediction, SSANet, probabilities
from ssa_jax.state import TrainState, arrived

AXIS = "batch"  # the mapped axis: gradients, BatchNorm statistics and metrics meet over it
MAPPINGS = ("pmap", "shard_map")
Batch = dict[str, Any]
Step = Callable[[TrainState, Batch], tuple[TrainState, "TrainMetrics"]]


@flax.struct.dataclass
class PooledDice(clu.metrics.Metric):
    """DSC of all lesion pixels seen, classes together: sums of intersections and of sizes."""

    intersection: Array
    size: Array

    @classmethod
    def empty(cls) -> "PooledDice":
        return cls(jnp.zeros(()), jnp.zeros(()))

    @classmethod
    def from_model_output(cls, intersection: Array, size: Array, **_: Array) -> "PooledDice":
        return cls(intersection, size)

    def merge(self, other: "PooledDice") -> "PooledDice":
        return PooledDice(self.intersection + other.intersection, self.size + other.size)

    def compute(self) -> Array:
        return 2 * self.intersection / jnp.maximum(self.size, 1.0)


Average = clu.metrics.Average


@flax.struct.dataclass
class TrainMetrics(clu.metrics.Collection):
    """What a step reports; every field is a sum that adds up over devices and steps."""

    loss: Average.from_output("loss")  # type: ignore[valid-type]
    dice_loss: Average.from_output("dice_loss")  # type: ignore[valid-type]
    cross_entropy_loss: Average.from_output("cross_entropy_loss")  # type: ignore[valid-type]
    attention_1_2: Average.from_output("attention_1_2")  # type: ignore[valid-type]
    attention_2_3: Average.from_output("attention_2_3")  # type: ignore[valid-type]
    attention_3_4: Average.from_output("attention_3_4")  # type: ignore[valid-type]
    gradient_norm: Average.from_output("gradient_norm")  # type: ignore[valid-type]
    dsc: PooledDice


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """How the terms of the loss are weighted (equation 7).

    Attributes:
      dice: weight of the Dice loss.
      cross_entropy: weight of the cross entropy.
      class_weight: of each class in the cross entropy, background first (equation 8).
      alpha: weight of the attention loss once it is fully on.
      start_epoch: epoch at which the attention loss starts (table 3).
      ramp_epochs: epochs over which its weight rises to alpha.
      normalize: see `attention.spatial_softmax`.
      stop_gradient: see `attention.attention_loss_terms`.
      dice_absent: see `losses.dice_loss`.
    """

    dice: float
    cross_entropy: float
    class_weight: tuple[float, ...]
    alpha: float
    start_epoch: float
    ramp_epochs: float
    normalize: str
    stop_gradient: bool
    dice_absent: bool = True


def make_train_step(
    model: SSANet,
    optimizer: optax.GradientTransformation,
    settings: LossSettings,
    *,
    steps_per_epoch: int,
    average_decay: float,
) -> Step:
    """The step that one device runs on its share of the batch, inside a map over `AXIS`.

    Args:
      model: with `axis_name=AXIS`.
      optimizer: see `optim.make_optimizer`.
      settings: weights of the loss.
      steps_per_epoch: turns steps into the epochs of the attention loss's start.
      average_decay: of the parameters' running average; used where the state has one.

    Returns:
      `step(state, batch) -> (state, metrics)`; the batch has 'image' `[B, H, W, C]`, 'mask'
      `[B, H, W]` and 'weight' `[B, H, W, 1]`.
    """

    def loss_of(params: Any, state: TrainState, batch: Batch) -> tuple[Array, Any]:
        prediction, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
        )
        epoch = state.step / steps_per_epoch
        loss, terms = total_loss(prediction, batch, settings, epoch)
        return loss, (updates["batch_stats"], terms, prediction.logits)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, TrainMetrics]:
        gradient_of = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (batch_stats, terms, logits)), gradients = gradient_of(state.params, state, batch)
        gradients = _over_devices(gradients)
        metrics = TrainMetrics.single_from_model_output(
            loss=loss,
            gradient_norm=optax.tree.norm(gradients),
            **terms,
            **overlap(logits, batch["mask"], batch["weight"]),
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = {"params": params, "batch_stats": batch_stats}
        state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=_averaged(state, new, average_decay),
        )
        return state, jax.lax.psum(metrics, AXIS)

    return step


def _over_devices(gradients: Any) -> Any:
    """Their mean; on a single device XLA would copy them all for nothing."""
    return jax.lax.pmean(gradients, AXIS) if jax.lax.axis_size(AXIS) > 1 else gradients


def total_loss(
    prediction: Prediction, batch: Batch, settings: LossSettings, epoch: Array | float
) -> tuple[Array, dict[str, Array]]:
    """Equation 7 and its terms by name."""
    class_weight = jnp.asarray(settings.class_weight, jnp.float32)
    mask, weight = batch["mask"], batch["weight"]
    terms = segmentation_losses(prediction.logits, mask, weight, class_weight, settings.dice_absent)
    pairs = attention_loss_terms(
        prediction.attention, normalize=settings.normalize, stop_gradient=settings.stop_gradient
    )
    alpha = attention_weight(
        epoch,
        alpha=settings.alpha,
        start_epoch=settings.start_epoch,
        ramp_epochs=settings.ramp_epochs,
    )
    loss = (
        settings.dice * terms["dice_loss"]
        + settings.cross_entropy * terms["cross_entropy_loss"]
        + alpha * pairs.sum()
    )
    names = ("attention_1_2", "attention_2_3", "attention_3_4")
    return loss, terms | dict(zip(names, pairs, strict=True))


def overlap(logits: Array, mask: Array, weight: Array) -> dict[str, Array]:
    """Lesion pixels that truth and prediction share, and the sum of both sizes."""
    prob = probabilities(logits)
    chosen = jax.nn.one_hot(jnp.argmax(prob, axis=-1), prob.shape[-1])[..., 1:]
    truth = jax.nn.one_hot(mask, prob.shape[-1])[..., 1:]
    counted = (weight > 0).astype(jnp.float32)
    return {
        "intersection": jnp.sum(counted * chosen * truth),
        "size": jnp.sum(counted * (chosen + truth)),
    }


def _averaged(state: TrainState, new: Any, decay: float) -> Any:
    """Running average of the variables; short memory in the first steps."""
    if state.average is None:
        return None
    step = state.step.astype(jnp.float32)
    decay_now = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, x: decay_now * old + (1 - decay_now) * x, state.average, new)


class MappedStep(NamedTuple):
    """A step mapped over devices, and the way in and out of them.

    Attributes:
      step: takes and gives placed values; its state argument is donated.
      place_state: host state to the devices, replicated.
      place_batch: this process's share of a batch (numpy) to the devices.
      fetch: one host copy of replicated values (state or metrics).
    """

    step: Step
    place_state: Callable[[TrainState], TrainState]
    place_batch: Callable[[Batch], Batch]
    fetch: Callable[[Any], Any]


def check_mapping(mapping: str) -> None:
    """Raises ValueError unless `mapping` is one that `map_step` knows."""
    if mapping not in MAPPINGS:
        raise ValueError(f"train.mapping is {mapping!r}; expected one of {MAPPINGS}")


def map_step(step: Step, mapping: str) -> MappedStep:
    """Map a step over all devices by 'pmap' or 'shard_map'; both give the same numbers.

    Raises:
      ValueError: an unknown mapping.
    """
    check_mapping(mapping)
    return _pmap_step(step) if mapping == "pmap" else _shard_map_step(step)


def _pmap_step(step: Step) -> MappedStep:
    local = jax.local_device_count()
    # The same axis name as the step: another one means a second compilation at the second step.
    copies = jax.pmap(lambda _, state: state, axis_name=AXIS, in_axes=(0, None))
    spread = jax.pmap(lambda batch: batch, axis_name=AXIS)
    return MappedStep(
        step=jax.pmap(step, axis_name=AXIS, donate_argnums=0),
        place_state=lambda state: copies(np.zeros(local), state),
        place_batch=lambda batch: arrived(
            spread({k: x.reshape(local, len(x) // local, *x.shape[1:]) for k, x in batch.items()})
        ),
        fetch=lambda tree: jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree),
    )


def _shard_map_step(step: Step) -> MappedStep:
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    whole, shared = PartitionSpec(), PartitionSpec(AXIS)
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(whole, shared), out_specs=(whole, whole), check_vma=False
    )
    split = NamedSharding(mesh, shared)
    return MappedStep(
        step=jax.jit(mapped, donate_argnums=0),
        # A copy: donation must not take the caller's arrays.
        place_state=lambda state: jax.device_put(
            jax.tree.map(np.array, state), NamedSharding(mesh, whole)
        ),
        place_batch=lambda batch: arrived(
            jax.tree.map(lambda x: jax.make_array_from_process_local_data(split, x), batch)
        ),
        fetch=lambda tree: jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree),
    )
