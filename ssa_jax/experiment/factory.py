"""Construction of the objects that settings describe: network, preprocessing, loss, optimiser."""

import dataclasses
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp

from input_pipeline.augment import Augmentation
from input_pipeline.datasets import catalog
from input_pipeline.preprocess import Preprocessing
from ssa_jax.experiment.settings import Settings
from ssa_jax.models.operations import PASSES_OF_A_STEP, operations
from ssa_jax.models.ssa_net import SSANet
from ssa_jax.ops import tuning
from ssa_jax.semi_supervised.trust import Trust
from ssa_jax.training.augment import Ranges
from ssa_jax.training.losses import class_weights
from ssa_jax.training.mapping import check_mapping
from ssa_jax.training.optim import make_optimizer, make_schedule
from ssa_jax.training.state import Variables, init_variables
from ssa_jax.training.step import LossWeights

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
AUTO = "auto"  # of model.spatial_conv_impl: the backend's choice in ops.tuning


def build_model(
    settings: Settings,
    axis_name: str | None = None,
    *,
    devices: int | None = None,
) -> SSANet:
    """Build the network.

    Args:
        settings: whose model, attention and eval groups are read.
        axis_name: mapped axis of a training, over which BatchNorm's statistics are averaged; None
            to predict, for which alone the network has `eval.density_slope`.
        devices: size of the mapped axis; None for all devices at hand.

    Raises:
        ValueError: an unknown `model.dtype`, or groups that do not divide the devices.
    """
    model = settings.model
    if model.dtype not in DTYPES:
        raise ValueError(f"model.dtype is {model.dtype!r}; expected one of {tuple(DTYPES)}")
    dtype = DTYPES[model.dtype] if dtype_note(settings) is None else jnp.float32
    classes = len(settings.class_names)
    density = settings.eval.density_slope, settings.eval.density_middle
    if model.nested_classes and classes == 1:
        raise ValueError(
            "model.nested_classes is True; expected False for one class, as nothing is in it"
        )
    return SSANet(
        outputs=1 if classes == 1 else classes + 1,
        encoder=model.encoder,
        stage_sizes=tuple(model.stage_sizes),
        padding=model.padding,
        skip=model.skip,
        spatial_conv=model.spatial_conv,
        kernel_size=model.kernel_size,
        nested=model.nested_classes,
        density=density if axis_name is None else (0.0, 0.0),
        attention_power=settings.attention.power,
        dtype=dtype,
        axis_name=axis_name,
        axis_index_groups=_norm_groups(settings, devices) if axis_name else None,
        spatial_conv_implementation=_spatial_conv(model.spatial_conv_impl, axis_name is not None),
    )


def dtype_note(settings: Settings) -> str | None:
    """Say that a network computes in another type than its settings name; None if it does not.

    Args:
        settings: whose model group is read.
    """
    if settings.model.dtype != "bfloat16" or tuning.for_backend().bfloat16:
        return None
    return "model.dtype=bfloat16: computed in float32 here, where bfloat16 is slower"


def _spatial_conv(chosen: str, training: bool) -> str | None:
    """Return the implementation of the spatial convolution; None for the backend's choice.

    A network that a TPU trained with its own implementation predicts on other machines too.
    """
    elsewhere = chosen == "pallas" and tuning.for_backend().pallas_interpreted is None
    return None if chosen == AUTO or (elsewhere and not training) else chosen


def build_portable_model(settings: Settings) -> SSANet:
    """Build the network for one program of many backends and batches, in float32.

    Its implementations are XLA's own: no choice by the backend that builds it, and none by the size
    of the batch, which may be symbolic.

    Args:
        settings: see `build_model`.

    Raises:
        ValueError: as `build_model`.
    """
    return build_model(settings).clone(
        dtype=jnp.float32,
        conv_implementation=tuning.OTHERWISE.convolution,
        spatial_conv_implementation=tuning.OTHERWISE.spatial_conv,
        head_in_blocks=tuning.OTHERWISE.head_in_blocks,
    )


def _norm_groups(
    settings: Settings, devices: int | None = None
) -> tuple[tuple[int, ...], ...] | None:
    """Return the places of the devices that share BatchNorm's statistics; None for all devices."""
    size, devices = settings.train.norm_devices, devices or jax.device_count()
    if size == 0 or size == devices:
        return None
    if size < 0 or devices % size:
        raise ValueError(
            f"train.norm_devices is {size}; expected 0 (all) or a number that divides the "
            f"{devices} devices"
        )
    return tuple(tuple(range(k, k + size)) for k in range(0, devices, size))


def preprocessing(settings: Settings) -> Preprocessing:
    """Build the preprocessing of slices.

    Args:
        settings: whose data group is read.

    Raises:
        ValueError: an unknown data set, or a field outside its range.
    """
    name = settings.data.name
    if name not in catalog.DATASETS:
        raise ValueError(f"data.name is {name!r}; expected one of {tuple(catalog.DATASETS)}")
    return Preprocessing(
        image_size=settings.data.image_size,
        intensity=catalog.DATASETS[name].intensity,
        lung_mask=settings.data.lung_mask,
        lung_dilation=settings.data.lung_dilation,
        grey_values=settings.data.grey_values,
    )


def augmentation_on_host(settings: Settings) -> Augmentation | None:
    """Return the random changes that the input pipeline makes; None if the step makes them.

    Args:
        settings: whose data and augment groups are read.
    """
    return None if settings.data.augment_on_device else settings.augment


def augmentation_on_device(settings: Settings) -> Ranges | None:
    """Return the random changes that the training step makes; None if the input pipeline does.

    Args:
        settings: whose data and augment groups are read.
    """
    if not settings.data.augment_on_device:
        return None
    return Ranges(**dataclasses.asdict(settings.augment))


def class_weight(settings: Settings, pixels: Sequence[float]) -> tuple[float, ...]:
    """Compute the weights of the classes in the cross entropy for a training set (equation 8).

    Args:
        settings: whose loss group is read.
        pixels: number of pixels of each class in the training set, background first.

    Raises:
        ValueError: a class to be weighted has no pixel.
    """
    loss = settings.loss
    weights = class_weights(pixels, over=loss.class_weight_over, clip=loss.class_weight_clip)
    return tuple(float(weight) for weight in weights)


def loss_weights(settings: Settings) -> LossWeights:
    """Build the weights of the terms of the loss.

    Args:
        settings: whose loss, attention and self_train groups are read.
    """
    loss, attention = settings.loss, settings.attention
    return LossWeights(
        dice=loss.dice,
        cross_entropy=loss.cross_entropy,
        alpha=attention.alpha,
        start_epoch=attention.start_epoch,
        ramp_epochs=attention.ramp_epochs,
        normalize=attention.normalize,
        stop_gradient=attention.stop_gradient,
        dice_absent=loss.dice_absent,
        pseudo=settings.self_train.pseudo_weight,
        pseudo_ramp_epochs=settings.self_train.pseudo_ramp_epochs,
    )


def optimizer(settings: Settings, steps_per_epoch: int) -> tuple[Any, Any]:
    """Build the schedule and the optimiser.

    Args:
        settings: whose optim and train groups are read.
        steps_per_epoch: of the training.

    Returns:
        The learning rate over updates, and the optimiser.

    Raises:
        ValueError: an unknown schedule, or a warm-up as long as the training.
    """
    optim = settings.optim
    updates_per_epoch = steps_per_epoch / optim.accumulate_steps
    rate = optim.learning_rate
    if optim.rate_for_batch:
        rate *= settings.train.batch_size * optim.accumulate_steps / optim.rate_for_batch
    schedule = make_schedule(
        optim.schedule,
        learning_rate=rate,
        total_updates=max(1, round(settings.train.epochs * updates_per_epoch)),
        warmup_updates=round(optim.warmup_epochs * updates_per_epoch),
        decay_updates=max(1, round(optim.decay_epochs * updates_per_epoch)),
    )
    return schedule, make_optimizer(
        schedule,
        weight_decay=optim.weight_decay,
        clip_norm=optim.clip_norm,
        accumulate_steps=optim.accumulate_steps,
    )


def trust(settings: Settings) -> Trust:
    """Build the options of the trust module (equation 9).

    Args:
        settings: whose self_train group is read.

    Raises:
        ValueError: a field outside its range.
    """
    return Trust(
        eta=settings.self_train.eta,
        low_confidence=settings.self_train.low_confidence,
        adaptive_share=settings.self_train.adaptive_share,
        soft=settings.self_train.soft,
        temperature=settings.self_train.temperature,
        leave_out_doubtful=settings.self_train.leave_out_doubtful,
    )


def fresh_variables(settings: Settings) -> Variables:
    """Draw the initial variables of the network, which the seed determines.

    Args:
        settings: of the network.
    """
    key = jax.random.fold_in(jax.random.key(settings.seed), 0)
    return init_variables(build_model(settings), key, preprocessing(settings).channels)


def operations_of_step(settings: Settings, params: Any) -> float:
    """Count the multiplications and additions of a training step, over all devices.

    Args:
        settings: whose batch and image size are read.
        params: of the network.
    """
    of_image = PASSES_OF_A_STEP * operations(params, settings.data.image_size)
    return settings.train.batch_size * of_image


def local_batch(settings: Settings) -> int:
    """Return the number of slices that this process contributes to a batch.

    Args:
        settings: whose `train.batch_size` is read.

    Raises:
        ValueError: the batch size is not a multiple of the number of devices, or a device's share
            none of `train.microbatches`.
    """
    size, devices = settings.train.batch_size, jax.device_count()
    if size < 1 or size % devices:
        raise ValueError(
            f"train.batch_size is {size}; expected a positive multiple of {devices}, the number "
            "of devices"
        )
    parts = settings.train.microbatches
    if parts < 1 or size // devices % parts:
        raise ValueError(
            f"train.microbatches is {parts}; expected a number that divides the {size // devices} "
            "slices of a device"
        )
    return size // jax.process_count()


def check(settings: Settings) -> None:
    """Check settings before any file is written.

    Args:
        settings: to check.

    Raises:
        ValueError: a field has an invalid value.
    """
    preprocessing(settings)
    for name in ("data.cache_gb", "data.workers", "optim.rate_for_batch"):
        if (value := attrgetter(name)(settings)) < 0:
            raise ValueError(f"{name} is {value}; expected 0 or more")
    _check_eval(settings)
    if settings.optim.warmup_epochs >= settings.train.epochs:
        raise ValueError(
            f"the warm-up takes {settings.optim.warmup_epochs:g} of {settings.train.epochs} "
            "epochs, expected fewer; lower optim.warmup_epochs or raise train.epochs"
        )
    build_model(settings)
    if settings.model.spatial_conv_impl == "pallas":
        tuning.pallas_interpreted()  # raises where it does not run
    _norm_groups(settings)
    local_batch(settings)
    check_mapping(settings.train.mapping)
    if settings.train.consistency:
        _check_consistency(settings)
    if settings.data.augment_on_device:
        _check_on_device(settings)


def _check_eval(settings: Settings) -> None:
    """Check how two classes are told apart."""
    largest = {"density_slope": 1000.0, "density_middle": 1.0, "least_share": 0.5}
    for name, most in largest.items():
        if not 0 <= (value := getattr(settings.eval, name)) <= most:
            raise ValueError(f"eval.{name} is {value}; expected 0 to {most:g}")
    for name in ("density_slope", "least_share"):
        if (value := getattr(settings.eval, name)) and len(settings.class_names) == 1:
            raise ValueError(f"eval.{name} is {value}; expected 0 for one class")


def _check_on_device(settings: Settings) -> None:
    """Check that nothing on the host needs the augmented slices."""
    on_host = {
        "train.consistency": settings.train.consistency,
        "self_train.labelled_share": settings.self_train.labelled_share,
        **{f"mixing.{name}": v for name, v in dataclasses.asdict(settings.mixing).items()},
    }
    for name, value in on_host.items():
        if value:
            raise ValueError(
                f"data.augment_on_device is True with {name}={value}, for which the input pipeline "
                f"needs augmented slices; expected data.augment_on_device=False or "
                f"{name}={type(value)()}"
            )


def _check_consistency(settings: Settings) -> None:
    """Check the settings of an online teacher."""
    if not settings.optim.average_decay:
        raise ValueError(
            "optim.average_decay is 0.0; expected a moving average, which is the teacher of "
            "train.consistency, 0.99 for instance"
        )
    if settings.train.batch_size % (2 * jax.device_count()):
        raise ValueError(
            f"train.batch_size is {settings.train.batch_size}; expected a multiple of "
            f"{2 * jax.device_count()}, as every device takes pairs with train.consistency"
        )
    if settings.self_train.labelled_share:
        raise ValueError(
            f"self_train.labelled_share is {settings.self_train.labelled_share}; expected 0 with "
            "train.consistency, whose batches are half labelled"
        )
