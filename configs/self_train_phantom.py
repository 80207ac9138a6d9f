"""Rounds of pseudo-labels on the phantoms: few labelled patients, many unlabelled, two classes."""

from ml_collections import ConfigDict

from configs import ct_phantom


def get_config() -> ConfigDict:
    """About a quarter of an hour on two CPU cores; every round trains equally many steps."""
    config = ct_phantom.get_config()
    config.data.task = "multiclass"
    config.data.train_slices = 8
    config.loss.dice_absent = False
    config.loss.cross_entropy = 1.0
    config.loss.class_weight_over = "lesion"
    config.loss.class_weight_clip = 10.0
    config.train.epochs = 480  # of one step each; with 160 the second round gains nothing
    config.train.validate_every = 240
    config.self_train.move = 240
    config.self_train.same_steps = True
    config.self_train.patience = 3
    config.self_train.max_rounds = 2
    return config
