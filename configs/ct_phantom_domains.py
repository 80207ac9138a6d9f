"""Phantoms with a labelled and an unlabelled domain, as COVID-SemiSeg's: 96 px, for a CPU."""

from ml_collections import ConfigDict

from configs import covid_semiseg


def get_config(preset: str = "binary") -> ConfigDict:
    """Train on 40 of the 50 labelled slices and validate on the others; no download.

    Command:

        ssa-jax train --config ct_phantom_domains --workdir W    # or ct_phantom_domains:multiclass
        ssa-jax evaluate --workdir W --split unlabelled_truth --which last

    Hardware: two CPU cores, shared with others; ten minutes of one core's time. Result of 'binary',
    one seed: test DSC 0.568 [0.519, 0.616] on 48 slices, last checkpoint. 'multiclass' was not run.

    Args:
        preset: 'binary' or 'multiclass'.

    Raises:
        ValueError: an unknown preset.
    """
    if preset not in ("binary", "multiclass"):
        raise ValueError(
            f"configs/ct_phantom_domains.py:{preset}: expected 'binary' or 'multiclass'"
        )
    config = covid_semiseg.get_config("cpu")
    config.data.name = "ct_phantom_domains"
    config.data.task = preset
    config.data.image_size = 96
    config.train.epochs = 60
    config.train.validate_every = 20
    if preset == "multiclass":
        config.loss.dice_absent = False
        config.loss.cross_entropy = 1.0
        config.loss.class_weight_over = "lesion"
        config.loss.class_weight_clip = 10.0
    return config
