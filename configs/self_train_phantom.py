"""Rounds of pseudo-labels on the phantoms: few labelled patients, many unlabelled, two classes."""

from ml_collections import ConfigDict

from configs import ct_phantom


def get_config() -> ConfigDict:
    """About ten minutes on two CPU cores; equal steps in every round, so no round trains longer."""
    config = ct_phantom.get_config()
    config.data.task = "multiclass"
    config.data.train_slices = 16
    config.loss.dice_absent = False
    config.loss.cross_entropy = 1.0
    config.loss.class_weight_over = "lesion"
    config.loss.class_weight_clip = 10.0
    config.train.epochs = 80
    config.train.validate_every = 80
    config.self_train.move = 120
    config.self_train.same_steps = True
    config.self_train.patience = 3
    config.self_train.max_rounds = 3
    return config
