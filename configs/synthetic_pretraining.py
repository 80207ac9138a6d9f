"""Pretraining on phantoms and on unlabelled slices of COVID-SemiSeg with synthetic lesions."""

from ml_collections import ConfigDict

from configs import phantom_pretraining


def get_config() -> ConfigDict:
    """Train on 600 phantoms and 600 unlabelled slices, as many steps as `phantom_pretraining`.

    Command for the network alone:

        ssa-jax train --config synthetic_pretraining --workdir P --config.data.source_dir=PATH

    A configuration with `train.pretrain = 'synthetic_pretraining'` trains it at its own size and
    with its own classes, network and loss.

    Run so at 96 px, two classes, five folds of COVID-SemiSeg: -0.000 [-0.012, +0.011] of the
    average DSC over `phantom_pretraining` (docs/results.md).
    """
    config = phantom_pretraining.get_config()
    config.data.name = "covid_semiseg_synthetic"
    config.train.epochs = 7
    return config
