"""The parts of semi-supervised training on COVID-SemiSeg: added alone, and left out of all."""

from operator import attrgetter
from typing import Any

from ml_collections import ConfigDict

from configs import base, self_train_semiseg

PARTS: dict[str, dict[str, Any]] = {
    "ignore": {"self_train.low_confidence": "ignore"},
    "share": {"self_train.labelled_share": 0.5},
    "strong": {"self_train.strong_intensity": 1.5},
    "cutmix": {"mixing.cutmix": 0.5},
    "copy_paste": {"mixing.copy_paste": 0.5},
    "amplitude": {"mixing.amplitude": 0.3},
    "class_thresholds": {"self_train.adaptive_share": 0.5},
}
DEFAULTS = base.get_config()
OFF: dict[str, Any] = {
    field: attrgetter(field)(DEFAULTS) for part in PARTS.values() for field in part
}
NEEDS = {"strong": "share"}  # a part that is read with another one alone
TASKS = {"cpu": "binary", "multiclass": "multiclass", "gpu": "binary"}


def get_config(preset: str = "cpu") -> ConfigDict:
    """Train with all parts: two rounds, 40 labelled slices and some of the unlabelled ones.

    Command for the presets 'cpu' and 'multiclass', 96 px, for two CPU cores:

        ssa-jax sweep --config semiseg_parts:cpu --workdir P --folds 5 --rounds \
            --config.data.source_dir=PATH

    Command for the preset 'gpu', 352 px, for one GPU, binary:

        ssa-jax sweep --config semiseg_parts:gpu --workdir P --folds 5 --rounds \
            --config.data.source_dir=PATH

    Not run.

    Args:
        preset: 'cpu', 'multiclass' or 'gpu'.

    Raises:
        ValueError: an unknown preset.
    """
    if preset not in TASKS:
        raise ValueError(f"configs/semiseg_parts.py:{preset}: expected one of {tuple(TASKS)}")
    config = self_train_semiseg.get_config("cpu")
    config.data.task = TASKS[preset]
    config.data.image_size = 96
    config.train.epochs = config.train.validate_every = 60
    if config.data.task == "binary":
        config.loss.dice_absent = True
        config.loss.cross_entropy = 0.5
        config.loss.class_weight_over = "none"
    config.self_train.eta = 0.9
    config.self_train.choose = "last"
    config.self_train.max_rounds = 2
    config.self_train.slices_per_round = config.self_train.unlabelled_slices = 400
    if preset == "gpu":
        config.data.image_size = 352
        config.model.dtype = "bfloat16"
        config.train.batch_size = 16
        config.train.epochs = config.train.validate_every = 200
        config.self_train.slices_per_round = 1600
        config.self_train.unlabelled_slices = 0  # all
    for part in PARTS.values():
        config.update_from_flattened_dict(part)
    return config


def get_variants(preset: str = "cpu") -> dict[str, dict[str, Any]]:
    """Return the variants, the most telling ones first, and the supervised network before all.

    Args:
        preset: see `get_config`; all presets have the same variants.
    """
    online = {
        "train.consistency": True,
        "train.batch_size": 32 if preset == "gpu" else 8,
        "optim.average_decay": 0.99,
        "self_train.max_rounds": 1,
        "self_train.pseudo_ramp_epochs": 20.0,
    }
    variants: dict[str, dict[str, Any]] = {
        "supervised": OFF | {"self_train.max_rounds": 1},
        "all": {},
        "online": OFF | PARTS["strong"] | PARTS["cutmix"] | online,
        "paper": OFF | {"self_train.eta": 0.95},
        "supervised, mixed": OFF
        | PARTS["cutmix"]
        | PARTS["copy_paste"]
        | PARTS["amplitude"]
        | {"self_train.max_rounds": 1},
    }
    for name in PARTS:
        gone = [name, *(part for part, other in NEEDS.items() if other == name)]
        fields = {field: OFF[field] for part in gone for field in PARTS[part]}
        variants[f"all but {name}"] = fields
    for name, part in PARTS.items():
        needed = PARTS[NEEDS[name]] if name in NEEDS else {}
        variants[f"{name} alone"] = OFF | needed | part
    return variants
