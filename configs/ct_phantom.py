"""The embedded phantoms, 96 px: the training of the demo, small enough for two CPU cores."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Train on phantoms, which need no download.

    Command (`ssa-jax demo` trains the same network and evaluates it):

        ssa-jax train --config ct_phantom --workdir W

    Hardware: two CPU cores. Time: a few minutes. Result of `make demo`: docs/results.md, Phantoms.
    """
    config = base.get_config()
    config.data.validation_split = "validation"
    config.data.image_size = 96
    config.optim.warmup_epochs = 1.0
    config.optim.weight_decay = 1e-2
    config.optim.clip_norm = 1.0
    config.optim.average_decay = 0.98
    config.loss.cross_entropy = 0.5
    config.train.batch_size = 8
    config.train.epochs = 30
    return config
