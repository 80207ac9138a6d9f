"""Rounds of pseudo-labels on COVID-SemiSeg, two classes: 40 labelled slices, 1,600 unlabelled."""

from ml_collections import ConfigDict

from configs import covid_semiseg


def get_config(preset: str = "paper") -> ConfigDict:
    """Train rounds with 40 labelled and 10 validation slices, and the unlabelled ones.

    Command for the preset 'paper', 512 px, for an accelerator:

        ssa-jax self_train --config self_train_semiseg --workdir W --config.data.source_dir=PATH

    Not run.

    Command for the preset 'cpu', 192 px, 200 unlabelled slices, for two CPU cores:

        ssa-jax self_train --config self_train_semiseg:cpu --workdir W --config.data.source_dir=PATH

    Hardware: one CPU core. Time: 20 minutes. Result: validation DSC of ground-glass / consolidation
    0.479 / 0.390 after round 1, which is kept, and 0.123 / 0.292 after round 2; one seed, 10
    slices. The spatial convolution's implementation has changed since.

    Args:
        preset: 'paper' or 'cpu'.

    Raises:
        ValueError: an unknown preset.
    """
    if preset not in ("paper", "cpu"):
        raise ValueError(f"configs/self_train_semiseg.py:{preset}: expected 'paper' or 'cpu'")
    config = covid_semiseg.get_config(preset)
    covid_semiseg.take_both_classes(config)
    config.self_train.slices_per_round = 400
    if preset == "cpu":
        config.train.epochs = 50
        config.train.validate_every = 50
        config.self_train.slices_per_round = 100
        config.self_train.unlabelled_slices = 200
        config.self_train.same_steps = True
        config.self_train.max_rounds = 3
    return config
