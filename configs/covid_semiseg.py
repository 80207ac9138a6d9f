"""COVID-SemiSeg, binary: the paper's Dataset_2 (table 5), 512 px, for an accelerator."""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = "paper") -> ConfigDict:
    """Train on 40 of the 50 labelled slices and validate on the others.

    Command for the preset 'paper', 512 px, for an accelerator:

        ssa-jax train --config covid_semiseg --workdir W --config.data.source_dir=PATH

    Not run.

    Command for the preset 'cpu', 192 px, for two CPU cores:

        ssa-jax train --config covid_semiseg:cpu --workdir W --config.data.source_dir=PATH

    Hardware: one CPU core. Time: not recorded. Result: validation DSC 0.735 [0.653, 0.805] on the
    10 slices, one seed, last checkpoint, interval over slices. The number of epochs was raised once
    after a look at these slices, and the spatial convolution's implementation has changed since.

    Args:
        preset: 'paper' or 'cpu'.

    Raises:
        ValueError: an unknown preset.
    """
    if preset not in ("paper", "cpu"):
        raise ValueError(f"configs/covid_semiseg.py:{preset}: expected 'paper' or 'cpu'")
    config = base.get_config()
    config.data.name = "covid_semiseg"
    config.data.validation_slices = 10
    config.data.lung_mask = "threshold"
    config.augment.flip_vertical = True
    config.augment.rotation_degrees = 15.0
    config.augment.scaling = 0.2
    config.augment.intensity_shift = 0.1
    config.augment.intensity_gain = 0.2
    config.augment.gamma = 0.3
    config.augment.probability = 0.8
    config.optim.warmup_epochs = 3.0
    config.optim.weight_decay = 1e-2
    config.optim.clip_norm = 1.0
    config.optim.average_decay = 0.98
    config.loss.cross_entropy = 0.5
    config.eval.flip = True
    if preset == "cpu":
        config.data.image_size = 192
        config.train.batch_size = 4
        config.train.epochs = 170
        config.train.validate_every = 10
        config.eval.batch_size = 5
    return config
