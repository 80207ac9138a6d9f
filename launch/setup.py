"""From a configuration to the objects it describes, and the workdir that keeps both."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from configs import base
from input_pipeline import datasets, splits
from input_pipeline.augment import Augmentation
from input_pipeline.lazy import LazySequence
from input_pipeline.preprocess import Preprocessing, Slice
from launch.writer import write_json
from ssa_jax.checkpoint import Checkpoints
from ssa_jax.losses import class_weights
from ssa_jax.model import SSANet
from ssa_jax.optim import make_optimizer, make_schedule
from ssa_jax.pseudo_label import class_pixels
from ssa_jax.state import Variables, init_variables
from ssa_jax.steps import LossSettings

CLASS_NAMES = {"binary": ("lesion",), "multiclass": ("ground-glass", "consolidation")}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
VALIDATION = "validation"


class Subset(LazySequence[Slice]):
    """Some slices of a split, in the order of their indices."""

    def __init__(self, slices: Sequence[Slice], indices: Sequence[int]) -> None:
        self._slices = slices
        self._indices = list(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def _item(self, index: int) -> Slice:
        return self._slices[self._indices[index]]


def class_names(config: ConfigDict) -> tuple[str, ...]:
    """Names of the lesion classes 1, 2, ..."""
    task = config.data.task
    if task not in CLASS_NAMES:
        raise ValueError(f"data.task is {task!r}; expected one of {tuple(CLASS_NAMES)}")
    return CLASS_NAMES[task]


def build_model(config: ConfigDict, axis_name: str | None = None) -> SSANet:
    """The network of a configuration."""
    classes = len(class_names(config))
    if config.model.dtype not in DTYPES:
        raise ValueError(f"model.dtype is {config.model.dtype!r}; expected one of {tuple(DTYPES)}")
    return SSANet(
        outputs=1 if classes == 1 else classes + 1,
        encoder=config.model.encoder,
        skip=config.model.skip,
        spatial_conv=config.model.spatial_conv,
        kernel_size=config.model.kernel_size,
        spatial_conv_impl=config.model.spatial_conv_impl,
        attention_power=config.attention.power,
        dtype=DTYPES[config.model.dtype],
        axis_name=axis_name,
    )


def intensity(config: ConfigDict) -> str:
    """What the data set's pixels are: 'hu' or 'uint8'."""
    name = config.data.name
    if name not in datasets.DATASETS:
        raise ValueError(f"data.name is {name!r}; expected one of {tuple(datasets.DATASETS)}")
    return datasets.DATASETS[name].intensity


def preprocessing(config: ConfigDict) -> Preprocessing:
    """How slices become network input."""
    return Preprocessing(
        image_size=config.data.image_size,
        intensity=intensity(config),
        lung_mask=config.data.lung_mask,
        lung_dilation=config.data.lung_dilation,
    )


def augmentation(config: ConfigDict) -> Augmentation:
    """How training slices are changed at random."""
    return Augmentation(**config.augment.to_dict())


def loss_settings(config: ConfigDict, training: Sequence[Slice]) -> LossSettings:
    """Weights of the loss; the class weights come from the training set's pixels."""
    pixels = [1.0] * (len(class_names(config)) + 1)
    if config.loss.class_weight_over != "none" and config.loss.cross_entropy > 0:
        pixels = pixels_of(config, training)
    return weighted_loss(config, pixels)


def pixels_of(config: ConfigDict, labelled: Sequence[Slice]) -> list[float]:
    """Pixels of each class in labelled slices, background first, by their weights."""
    labels = ((item.mask, item.weight) for item in labelled if item.mask is not None)
    return class_pixels(labels, len(class_names(config)) + 1)


def weighted_loss(config: ConfigDict, pixels: Sequence[float]) -> LossSettings:
    """Weights of the loss for a training set with so many pixels of each class."""
    over, clip = config.loss.class_weight_over, config.loss.class_weight_clip
    weights = class_weights(pixels, over=over, clip=clip)
    return LossSettings(
        dice=config.loss.dice,
        cross_entropy=config.loss.cross_entropy,
        class_weight=tuple(float(weight) for weight in weights),
        alpha=config.attention.alpha,
        start_epoch=config.attention.start_epoch,
        ramp_epochs=config.attention.ramp_epochs,
        normalize=config.attention.normalize,
        stop_gradient=config.attention.stop_gradient,
        dice_absent=config.loss.dice_absent,
    )


def optimizer(config: ConfigDict, steps_per_epoch: int) -> tuple[Any, Any]:
    """The optimiser and its schedule over updates."""
    updates_per_epoch = steps_per_epoch / config.optim.accumulate_steps
    schedule = make_schedule(
        config.optim.schedule,
        learning_rate=config.optim.learning_rate,
        total_updates=max(1, round(config.train.epochs * updates_per_epoch)),
        warmup_updates=round(config.optim.warmup_epochs * updates_per_epoch),
        decay_updates=max(1, round(config.optim.decay_epochs * updates_per_epoch)),
    )
    return schedule, make_optimizer(
        schedule,
        weight_decay=config.optim.weight_decay,
        clip_norm=config.optim.clip_norm,
        accumulate_steps=config.optim.accumulate_steps,
    )


def training_slices(config: ConfigDict, workdir: Path) -> tuple[Sequence[Slice], Sequence[Slice]]:
    """Training and validation slices; which ones is kept in the workdir's `splits.json`.

    Of the training part `data.train_slices` picks patients, and `data.lesion_slices_only` leaves
    slices without lesion out.
    """
    training, validation = _parts(config, workdir)
    if config.data.train_slices:
        patients = [item.patient for item in training]
        count, seed = config.data.train_slices, config.data.split_seed
        training = Subset(training, splits.split_by_patient(patients, holdout=count, seed=seed)[1])
    if not config.data.lesion_slices_only:
        return training, validation
    kept = [k for k, item in enumerate(training) if item.mask is not None and item.mask.any()]
    if not kept:
        raise ValueError("data.lesion_slices_only is True, but no training slice has a lesion")
    return Subset(training, kept), validation


def _parts(config: ConfigDict, workdir: Path) -> tuple[Sequence[Slice], Sequence[Slice]]:
    """All slices of both parts."""
    train = open_split(config, "train")
    path = workdir / "splits.json"
    if config.data.validation_split:
        return train, open_split(config, config.data.validation_split)
    ids = [item.id for item in train]
    if not path.exists():
        kept, held = splits.split_by_patient(
            [item.patient for item in train],
            holdout=config.data.validation_slices,
            seed=config.data.split_seed,
        )
        splits.save_split(path, [ids[i] for i in kept], [ids[i] for i in held])
    train_ids, validation_ids = splits.load_split(path)
    return Subset(train, _indices(ids, train_ids, path)), Subset(
        train, _indices(ids, validation_ids, path)
    )


def evaluation_slices(config: ConfigDict, workdir: Path, split: str) -> Sequence[Slice]:
    """The slices of a split by name; 'train' and 'validation' as the training saw them."""
    if split in ("train", VALIDATION):
        return training_slices(config, workdir)[split == VALIDATION]
    return open_split(config, split)


def build_records(config: ConfigDict) -> None:
    """Build the configuration's data set unless it is built, see `datasets.build`."""
    source = Path(config.data.source_dir) if config.data.source_dir else None
    data_dir = Path(config.data.data_dir)
    datasets.build(config.data.name, source_dir=source, data_dir=data_dir, task=config.data.task)


def open_split(config: ConfigDict, split: str) -> Sequence[Slice]:
    """A split of the configuration's data set, as it was built."""
    return datasets.open_split(
        config.data.name, split, data_dir=Path(config.data.data_dir), task=config.data.task
    )


def save_config(config: ConfigDict, workdir: Path) -> None:
    """Keep the configuration in the workdir, or check that it is the one already there.

    Raises:
      ValueError: the workdir was made with another configuration; every difference is named.
    """
    path = workdir / "config.json"
    if not path.exists():
        write_json(path, config.to_dict())
        return
    there, here = _flat(load_config(workdir)), _flat(config)
    differing = [
        f"{name} is {here[name]!r} here and {there[name]!r} there"
        for name in here
        if here[name] != there[name]
    ]
    if differing:
        raise ValueError(
            f"{path}: the workdir was made with another configuration: {'; '.join(differing)}. "
            "Use that configuration to go on, or another --workdir to start anew."
        )


def load_config(workdir: Path) -> ConfigDict:
    """The configuration that a workdir was made with.

    Raises:
      FileNotFoundError: the folder is no workdir.
      ValueError: its configuration cannot be read.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: not found. --workdir takes the folder that launch.train or "
            f"launch.import_torch wrote.{_networks_within(workdir)}"
        )
    config = base.get_config()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        config.update(stored)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        reason = str(error).partition(" Other fields")[0].strip("'\"")
        raise ValueError(f"{path}: not a configuration of this version ({reason}).") from error
    return config


def fresh_variables(config: ConfigDict) -> Variables:
    """Initial variables; the same for the same seed."""
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    return init_variables(build_model(config), key, preprocessing(config).channels)


def trained_variables(config: ConfigDict, workdir: Path, which: str) -> tuple[Variables, int]:
    """The network in a workdir ('best' or 'last') and the step it was saved at.

    Raises:
      FileNotFoundError: no such checkpoint; networks in folders of the workdir are named.
      ValueError: the checkpoint is of another network, or damaged.
    """
    within = _networks_within(workdir)
    if within and not (workdir / "checkpoints").exists():
        raise FileNotFoundError(f"{workdir}: no network of its own.{within}")
    like = jax.eval_shape(lambda: fresh_variables(config))
    checkpoints = Checkpoints(workdir, create=False)
    try:
        return checkpoints.restore_variables(which, like)
    finally:
        checkpoints.close()


def _networks_within(workdir: Path) -> str:
    """A hint for who named the folder of all rounds or folds instead of one of them."""
    inside = sorted(path.parent.name for path in workdir.glob("*/checkpoints"))
    return f" Its folders {', '.join(inside)} hold networks: name one of them." if inside else ""


def _indices(ids: Sequence[str], wanted: Sequence[str], path: Path) -> list[int]:
    place = {name: index for index, name in enumerate(ids)}
    missing = [name for name in wanted if name not in place]
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} slices are not in the data set, {missing[0]!r} first. "
            "Point data.data_dir at the data set this workdir was trained on."
        )
    return [place[name] for name in wanted]


def _flat(config: ConfigDict) -> dict[str, Any]:
    """Fields by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        if isinstance(value, dict):
            flat |= {f"{name}.{field}": inner for field, inner in value.items()}
        else:
            flat[name] = value
    return flat


def round_folder(workdir: Path, number: int) -> Path:
    """The workdir of one round of `launch.self_train`."""
    return workdir / f"round_{number:02d}"
