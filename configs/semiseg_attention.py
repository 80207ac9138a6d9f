"""The attention loss on COVID-SemiSeg: as in the paper, without it, and in other forms."""

from typing import Any

from ml_collections import ConfigDict

from configs import covid_semiseg

EPOCHS = 60


def get_config() -> ConfigDict:
    """Train on the labelled slices at 96 px, binary, for two CPU cores.

    Command:

        ssa-jax sweep --config semiseg_attention --workdir A --folds 5 --config.data.source_dir=PATH
        python -m tests.attention_places A/paper A/none

    Run for the first fold (10 slices) of six variants: DSC 0.655 to 0.684, no difference beyond
    noise (docs/results.md). 'standardize' and 'late' were not run.
    """
    config = covid_semiseg.get_config("cpu")
    config.data.image_size = 96
    config.train.epochs = config.train.validate_every = EPOCHS
    return config


def get_variants() -> dict[str, dict[str, Any]]:
    """Return the variants, the paper's loss first.

    'late' starts after as large a part of the training as E4 of table 3 (epoch 40 of 150).
    """
    return {
        "paper": {},
        "none": {"attention.alpha": 0.0},
        "stop gradient": {"attention.stop_gradient": True},
        "mean": {"attention.normalize": "mean"},
        "standardize": {"attention.normalize": "standardize"},
        "late": {"attention.start_epoch": EPOCHS * 40 / 150},
        "reflect": {"model.padding": "reflect"},
        "reflect, standardize, stop gradient": {
            "model.padding": "reflect",
            "attention.normalize": "standardize",
            "attention.stop_gradient": True,
        },
    }
