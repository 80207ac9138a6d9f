"""Pretraining on phantoms that look as COVID-SemiSeg's labelled slices do; no download."""

from ml_collections import ConfigDict

from configs import covid_semiseg


def get_config() -> ConfigDict:
    """Train on 580 made-up slices; `train.pretrain` of another configuration does it first.

    Command for the network alone:

        ssa-jax train --config phantom_pretraining --workdir P

    A configuration with `train.pretrain = 'phantom_pretraining'` trains it at its own size and with
    its own classes, network and loss.
    """
    config = covid_semiseg.get_config("cpu")
    config.data.name = "ct_phantom_pretraining"
    config.data.validation_slices = 20
    config.train.epochs = 14
    config.train.validate_every = 7
    config.optim.warmup_epochs = 1.0
    return config
