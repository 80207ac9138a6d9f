"""The network on COVID-SemiSeg from fresh weights, and started from phantoms in two ways."""

from typing import Any

from ml_collections import ConfigDict

from configs import covid_semiseg


def get_config(preset: str = "cpu") -> ConfigDict:
    """Train on the labelled slices, binary, at 192 px for two CPU cores.

    Command:

        ssa-jax sweep --config semiseg_supervised --workdir V --folds 5 --jobs 2 \
            --config.data.source_dir=PATH

    Run at 96 px for 60 epochs, fold by fold: +0.046 [+0.028, +0.068] of DSC for the start from
    phantoms over 50 slices (docs/results.md, which has the commands). 'unlabelled' was run with two
    classes alone. Not run at 192 px.

    Args:
        preset: of configs/covid_semiseg.py.
    """
    config = covid_semiseg.get_config(preset)
    config.train.validate_every = config.train.epochs
    return config


def get_variants(preset: str = "cpu") -> dict[str, dict[str, Any]]:
    """Return the variants, the network from fresh weights first.

    Args:
        preset: see `get_config`; all presets have the same variants.
    """
    del preset
    return {
        "supervised": {},
        "pretrained": {"train.pretrain": "phantom_pretraining"},
        "unlabelled": {"train.pretrain": "synthetic_pretraining"},
    }
