"""Rounds of pseudo-labels on COVID-SemiSeg, two classes: 40 labelled slices, 1,600 unlabelled."""

from ml_collections import ConfigDict

from configs import covid_semiseg


def get_config(preset: str = "paper") -> ConfigDict:
    """`self_train_semiseg.py` is for an accelerator; `self_train_semiseg.py:cpu` for two CPU cores.

    Raises:
      ValueError: an unknown preset.
    """
    config = covid_semiseg.get_config(preset)
    config.data.task = "multiclass"
    config.loss.dice_absent = False
    config.loss.cross_entropy = 1.0
    config.loss.class_weight_over = "lesion"
    config.loss.class_weight_clip = 10.0
    config.self_train.move = 400
    if preset == "cpu":
        config.train.epochs = 50
        config.train.validate_every = 50
        config.self_train.move = 100
        config.self_train.unlabelled_slices = 200
        config.self_train.same_steps = True
        config.self_train.max_rounds = 3
    return config
