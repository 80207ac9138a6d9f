"""The training step that one device runs: losses, gradients, update, metrics (equation 7)."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from ssa_jax.models.attention import attention_loss_terms, attention_weight
from ssa_jax.models.ssa_net import Prediction, SSANet, probabilities
from ssa_jax.training.augment import Ranges, augmented, slice_keys
from ssa_jax.training.consistency import labelled_by_teacher
from ssa_jax.training.losses import segmentation_losses
from ssa_jax.training.state import TrainState

AXIS = "batch"  # the mapped axis: gradients, BatchNorm statistics and metrics are reduced over it
Batch = dict[str, Any]
Step = Callable[[TrainState, Batch, Array], tuple[TrainState, "TrainMetrics"]]


@flax.struct.dataclass
class PooledDice(clu.metrics.Metric):
    """DSC of all lesion pixels, classes together, over a batch or several.

    Attributes:
        intersection: pixels that truth and prediction share.
        size: sum of the pixels of both.
    """

    intersection: Array
    size: Array

    @classmethod
    def empty(cls) -> "PooledDice":
        """Return the metric of no pixel."""
        return cls(jnp.zeros(()), jnp.zeros(()))

    @classmethod
    def from_model_output(cls, intersection: Array, size: Array, **_: Array) -> "PooledDice":
        """Return the metric of one batch, see `overlap`."""
        return cls(intersection, size)

    def merge(self, other: "PooledDice") -> "PooledDice":
        """Return the metric of both."""
        return PooledDice(self.intersection + other.intersection, self.size + other.size)

    def compute(self) -> Array:
        """Return the DSC, in [0, 1]."""
        return 2 * self.intersection / jnp.maximum(self.size, 1.0)


Average = clu.metrics.Average


@flax.struct.dataclass
class TrainMetrics(clu.metrics.Collection):
    """Metrics of a step, as sums that can be added over devices and steps."""

    loss: Average.from_output("loss")  # type: ignore[valid-type]
    dice_loss: Average.from_output("dice_loss")  # type: ignore[valid-type]
    cross_entropy_loss: Average.from_output("cross_entropy_loss")  # type: ignore[valid-type]
    attention_1_2: Average.from_output("attention_1_2")  # type: ignore[valid-type]
    attention_2_3: Average.from_output("attention_2_3")  # type: ignore[valid-type]
    attention_3_4: Average.from_output("attention_3_4")  # type: ignore[valid-type]
    gradient_norm: Average.from_output("gradient_norm")  # type: ignore[valid-type]
    dsc: PooledDice


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weights and options of the terms of the loss (equation 7).

    Attributes:
        dice: weight of the Dice loss.
        cross_entropy: weight of the cross entropy.
        alpha: final weight of the attention loss, see `attention.attention_weight`.
        start_epoch: epoch at which the attention loss starts (table 3).
        ramp_epochs: epochs over which its weight rises to alpha.
        normalize: see `attention.spatial_softmax`.
        stop_gradient: see `attention.attention_loss_terms`.
        dice_absent: see `absent` of `losses.dice_loss`.
        pseudo: final weight of the segmentation losses of pseudo-labelled slices.
        pseudo_ramp_epochs: epochs over which that weight rises from 0.
    """

    dice: float
    cross_entropy: float
    alpha: float
    start_epoch: float
    ramp_epochs: float
    normalize: str
    stop_gradient: bool
    dice_absent: bool = True
    pseudo: float = 1.0
    pseudo_ramp_epochs: float = 0.0


def make_train_step(
    model: SSANet,
    optimizer: optax.GradientTransformation,
    settings: LossWeights,
    *,
    steps_per_epoch: int,
    average_decay: float,
    teacher_eta: float | None = None,
    skip_nonfinite: bool = False,
    microbatches: int = 1,
    augmentation: Ranges | None = None,
    seed: int = 0,
) -> Step:
    """Make the step of one device on its share of a batch, to be mapped over `AXIS`.

    Args:
        model: with `axis_name=AXIS`. Where groups of devices have BatchNorm statistics of their
            own, the running ones are averaged over all.
        optimizer: see `optim.make_optimizer`.
        settings: weights of the loss.
        steps_per_epoch: converts steps to epochs, in which the attention loss's start is given.
        average_decay: of the moving average of the variables; used where the state has one.
        teacher_eta: confidence that a label of the moving average needs, for batches with
            unlabelled slices, see `consistency.labelled_by_teacher`; None for labelled batches.
        skip_nonfinite: whether a step whose loss or gradient is not finite changes nothing but the
            step's number, and has metrics of no sample.
        microbatches: parts in which a device computes its share of the batch, one after the other,
            so that it keeps the maps of one alone. BatchNorm's statistics are a part's, as if each
            were on devices of its own; gradients are averaged over all before the one update.
        augmentation: random changes to the slices before anything else, by the step's number and a
            slice's place in the batch of all devices; None for none.
        seed: of these changes.

    Returns:
        `step(state, batch, class_weight) -> (state, metrics)`; the batch has 'image'
        `[B, H, W, C]` float32, 'mask' `[B, H, W]` int32 and 'weight' `[B, H, W, 1]` float32 in
        [0, 1]; it may have 'pseudo' `[B]` float32, 1 for pseudo-labelled slices. The class weights
        are `[max(K, 2)]` float32, background first (equation 8); being an argument, they differ
        between rounds and folds without a compilation.
    """

    def loss_of(
        params: Any, state: TrainState, batch: Batch, class_weight: Array
    ) -> tuple[Array, Any]:
        prediction, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
        )
        epoch = state.step / steps_per_epoch
        loss, terms = total_loss(prediction, batch, class_weight, settings, epoch)
        return loss, (updates["batch_stats"], terms, prediction.logits)

    def learn(state: TrainState, class_weight: Array, batch: Batch) -> tuple[Any, Any]:
        """Return gradients, statistics and losses, which are means, and counts of pixels."""
        (loss, (batch_stats, terms, logits)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params, state, batch, class_weight
        )
        counts = overlap(logits, batch["mask"], batch["weight"])
        return (gradients, batch_stats, {"loss": loss, **terms}), counts

    def step(
        state: TrainState, batch: Batch, class_weight: Array
    ) -> tuple[TrainState, TrainMetrics]:
        if augmentation is not None:
            keys = slice_keys(seed, state.step, _places(len(batch["image"]), jax.process_count()))
            batch = augmented(keys, batch, augmentation)
        if teacher_eta is not None:
            batch = labelled_by_teacher(model, state.variables, batch, teacher_eta)
        means, counts = _in_parts(partial(learn, state, class_weight), batch, microbatches)
        gradients, batch_stats, losses = means
        gradients = _over_devices(gradients)
        if model.axis_index_groups is not None:
            batch_stats = _over_devices(batch_stats)
        metrics = TrainMetrics.single_from_model_output(
            gradient_norm=optax.tree.norm(gradients), **losses, **counts
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=_averaged(state, {"params": params, "batch_stats": batch_stats}, average_decay),
        )
        metrics = jax.lax.psum(metrics, AXIS)
        if skip_nonfinite:
            finite = jnp.isfinite(metrics.loss.total) & jnp.isfinite(metrics.gradient_norm.total)
            kept = dataclasses.replace(state, step=new.step)
            new = jax.tree.map(partial(jnp.where, finite), new, kept)
            metrics = jax.tree.map(partial(jnp.where, finite), metrics, TrainMetrics.empty())
        return new, metrics

    return step


def _places(count: int, processes: int) -> Array:
    """Return the places in the whole batch of a device's slices, which the processes take in turn.

    So the places do not depend on the number of devices or processes, see `loader.train_iterator`.
    """
    process, device = jnp.divmod(jax.lax.axis_index(AXIS), jax.lax.axis_size(AXIS) // processes)
    return (device * count + jnp.arange(count)) * processes + process


def _in_parts(
    learn: Callable[[Batch], tuple[Any, Any]], batch: Batch, parts: int
) -> tuple[Any, Any]:
    """Average the first of what is learnt from each part of a batch, and add up the second."""
    if parts == 1:
        return learn(batch)
    split = {k: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for k, x in batch.items()}

    def add(sums: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, learn(part)), None

    shapes = jax.eval_shape(learn, {k: x[0] for k, x in split.items()})
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (means, counts), _ = jax.lax.scan(add, nothing, split)
    return jax.tree.map(lambda x: x / parts, means), counts


def _over_devices(tree: Any) -> Any:
    """Average over the devices; on a single one XLA would make needless copies."""
    return jax.lax.pmean(tree, AXIS) if jax.lax.axis_size(AXIS) > 1 else tree


def total_loss(
    prediction: Prediction,
    batch: Batch,
    class_weight: Array,
    settings: LossWeights,
    epoch: Array | float,
) -> tuple[Array, dict[str, Array]]:
    """Compute the loss (equation 7).

    Args:
        prediction: of the network in training mode.
        batch: see `make_train_step`, like the class weights.
        class_weight: of each class in the cross entropy.
        settings: weights of the loss.
        epoch: epochs since the training started, with fractions.

    Returns:
        The loss, a scalar, and its unweighted terms by name.
    """
    mask, weight = batch["mask"], batch["weight"]
    terms = segmentation_losses(
        prediction.logits,
        mask,
        weight,
        class_weight,
        settings.dice_absent,
        _sample_weight(batch, settings, epoch),
    )
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


def _sample_weight(batch: Batch, settings: LossWeights, epoch: Array | float) -> Array | None:
    """Return the weight of each sample in the segmentation losses; None if all are labelled."""
    if "pseudo" not in batch:
        return None
    risen = attention_weight(
        epoch, alpha=settings.pseudo, start_epoch=0.0, ramp_epochs=settings.pseudo_ramp_epochs
    )
    return 1 + batch["pseudo"] * (risen - 1)


def overlap(logits: Array, mask: Array, weight: Array) -> dict[str, Array]:
    """Count the lesion pixels of truth and prediction, all classes together.

    Args:
        logits: `[B, H, W, K]`.
        mask: `[B, H, W]` class index.
        weight: `[B, H, W, 1]`; pixels of weight 0 are ignored.

    Returns:
        'intersection', the pixels that both share, and 'size', the sum of the pixels of both.
    """
    if logits.shape[-1] == 1:
        lesion = jax.nn.sigmoid(logits[..., 0])
        chosen = (lesion > 1 - lesion).astype(mask.dtype)
    else:
        chosen = jnp.argmax(probabilities(logits), axis=-1).astype(mask.dtype)
    counted = weight[..., 0] > 0

    def number(pixels: Array) -> Array:
        return jnp.sum(counted & pixels, dtype=jnp.float32)

    return {
        "intersection": number((chosen == mask) & (mask > 0)),
        "size": number(chosen > 0) + number(mask > 0),
    }


def _averaged(state: TrainState, new: Any, decay: float) -> Any:
    """Update the moving average of the variables, with a smaller decay in the first steps."""
    if state.average is None:
        return None
    step = state.step.astype(jnp.float32)
    decay_now = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, x: decay_now * old + (1 - decay_now) * x, state.average, new)
