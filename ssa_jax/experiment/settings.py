"""The configuration as frozen dataclasses, converted once from its `ConfigDict`.

The groups and fields are those of `configs/base.py`, which gives each one's unit and its place in
the paper. All other modules take these dataclasses.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ml_collections import ConfigDict

from configs import base
from input_pipeline.augment import Augmentation
from input_pipeline.mixing import Mixing

CLASS_NAMES = {"binary": ("lesion",), "multiclass": ("ground-glass", "consolidation")}
RENAMED = {"self_train.move": "self_train.slices_per_round"}  # old names in workdirs and flags


@dataclass(frozen=True)
class DataSettings:
    """The data set, its splits, and the preprocessing of its slices."""

    name: str
    task: str
    source_dir: str
    data_dir: str
    validation_split: str
    validation_slices: int
    train_slices: int
    lesion_slices_only: bool
    split_seed: int
    image_size: int
    lung_mask: str
    lung_dilation: int
    grey_values: str
    cache_gb: float
    workers: int
    augment_on_device: bool


@dataclass(frozen=True)
class ModelSettings:
    """The network."""

    encoder: str
    stage_sizes: tuple[int, ...]
    padding: str
    skip: str
    spatial_conv: bool
    nested_classes: bool
    kernel_size: int
    spatial_conv_impl: str
    dtype: str


@dataclass(frozen=True)
class AttentionSettings:
    """The attention maps and their loss."""

    alpha: float
    power: float
    start_epoch: float
    ramp_epochs: float
    normalize: str
    stop_gradient: bool


@dataclass(frozen=True)
class LossSettings:
    """The segmentation loss."""

    dice: float
    dice_absent: bool
    cross_entropy: float
    class_weight_over: str
    class_weight_clip: float


@dataclass(frozen=True)
class OptimSettings:
    """The optimiser and its schedule."""

    learning_rate: float
    rate_for_batch: int
    schedule: str
    warmup_epochs: float
    decay_epochs: float
    weight_decay: float
    clip_norm: float
    skip_nonfinite: int
    accumulate_steps: int
    average_decay: float


@dataclass(frozen=True)
class TrainSettings:
    """The length of a training and its initial weights."""

    batch_size: int
    norm_devices: int
    microbatches: int
    epochs: int
    validate_every: int
    mapping: str
    consistency: bool
    pretrain: str
    init_from: str


@dataclass(frozen=True)
class SelfTrainSettings:
    """The rounds of pseudo-labels."""

    slices_per_round: int
    eta: float
    low_confidence: str
    adaptive_share: float
    soft: bool
    warm_start: bool
    same_steps: bool
    labelled_share: float
    pseudo_weight: float
    pseudo_ramp_epochs: float
    strong_intensity: float
    temperature: float
    leave_out_doubtful: bool
    choose: str
    patience: int
    max_rounds: int
    unlabelled_slices: int


@dataclass(frozen=True)
class EvalSettings:
    """Prediction and scoring of slices."""

    batch_size: int
    flip: bool
    tolerance: float
    density_slope: float
    density_middle: float
    least_share: float


@dataclass(frozen=True)
class Settings:
    """A whole configuration.

    Attributes:
        seed: of the initial weights, the order of the slices and the augmentation.
        data: the data set.
        model: the network.
        attention: the attention maps.
        loss: the segmentation loss.
        optim: the optimiser.
        train: the training.
        self_train: the rounds of pseudo-labels.
        eval: prediction and scoring.
        augment: random changes to training slices.
        mixing: of training slices with others.
    """

    seed: int
    data: DataSettings
    model: ModelSettings
    attention: AttentionSettings
    loss: LossSettings
    optim: OptimSettings
    train: TrainSettings
    self_train: SelfTrainSettings
    eval: EvalSettings
    augment: Augmentation
    mixing: Mixing

    @classmethod
    def from_config(cls, config: ConfigDict) -> Self:
        """Convert a locked configuration, every field of it.

        Args:
            config: as a file of `configs` returns it.

        Raises:
            ValueError: an unknown task, or an augmentation outside its range.
        """
        values = config.to_dict()
        settings = cls(
            seed=values["seed"],
            data=DataSettings(**values["data"]),
            model=ModelSettings(**values["model"]),
            attention=AttentionSettings(**values["attention"]),
            loss=LossSettings(**values["loss"]),
            optim=OptimSettings(**values["optim"]),
            train=TrainSettings(**values["train"]),
            self_train=SelfTrainSettings(**values["self_train"]),
            eval=EvalSettings(**values["eval"]),
            augment=Augmentation(**values["augment"]),
            mixing=Mixing(**values["mixing"]),
        )
        if settings.data.task not in CLASS_NAMES:
            raise ValueError(
                f"data.task is {settings.data.task!r}; expected one of {tuple(CLASS_NAMES)}"
            )
        return settings

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Convert stored settings.

        Args:
            stored: as `to_dict` returns it, in this or an older version: fields that it lacks get
                the defaults of `configs/base.py`, and old names are read.

        Raises:
            ValueError, TypeError, AttributeError, KeyError: a field that does not exist, or has
                another type.
        """
        values = {name: dict(v) if isinstance(v, dict) else v for name, v in stored.items()}
        for old, new in RENAMED.items():
            group, name = old.split(".")
            if name in values.get(group, {}):
                values[group][new.partition(".")[2]] = values[group].pop(name)
        config = base.get_config()
        config.update(values)
        return cls.from_config(config)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as nested dictionaries, which JSON can hold."""
        return dataclasses.asdict(self)

    def replace(self, fields: Mapping[str, Any]) -> Self:
        """Return the settings with some fields changed.

        Args:
            fields: new values by dotted name, 'train.epochs' for instance.
        """
        changed: dict[str, Any] = {}
        for dotted, value in fields.items():
            group, _, name = dotted.partition(".")
            if name:
                current = changed.get(group, getattr(self, group))
                changed[group] = dataclasses.replace(current, **{name: value})
            else:
                changed[group] = value
        return dataclasses.replace(self, **changed)

    def computed_in(self, dtype: str | None) -> Self:
        """Return the settings with another type of the computation.

        Args:
            dtype: 'float32' or 'bfloat16'; None for the settings as they are.
        """
        return self if dtype is None else self.replace({"model.dtype": dtype})

    def flat(self) -> dict[str, Any]:
        """Return all fields by dotted name."""
        fields: dict[str, Any] = {}
        for name, value in self.to_dict().items():
            if isinstance(value, dict):
                fields |= {f"{name}.{field}": inner for field, inner in value.items()}
            else:
                fields[name] = value
        return fields

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the lesion classes 1, 2, ..."""
        return CLASS_NAMES[self.data.task]
