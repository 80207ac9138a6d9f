"""COVID-SemiSeg, binary: the paper's Dataset_2 (table 5), 512 px, for an accelerator."""

from ml_collections import ConfigDict

from configs import base


def get_config(preset: str = "paper") -> ConfigDict:
    """`covid_semiseg.py` is the paper's setting; `covid_semiseg.py:cpu` fits two CPU cores.

    Raises:
      ValueError: an unknown preset.
    """
    if preset not in ("paper", "cpu"):
        raise ValueError(f"configs/covid_semiseg.py:{preset}: expected 'paper' or 'cpu'")
    config = base.get_config()
    config.data.name = "covid_semiseg"
    config.data.source_dir = "../shared/data/covid_semiseg"
    config.data.validation_slices = 10
    config.data.lung_mask = "threshold"
    config.augment.flip_vertical = True
    config.augment.rotation_degrees = 15.0
    config.augment.scaling = 0.2
    config.augment.intensity_shift = 0.1
    config.augment.intensity_gain = 0.2
    config.augment.gamma = 0.3
    config.augment.probability = 0.8
    config.optim.warmup_epochs = 3.0
    config.optim.weight_decay = 1e-2
    config.optim.clip_norm = 1.0
    config.optim.average_decay = 0.98
    config.loss.cross_entropy = 0.5
    config.eval.flip = True
    if preset == "cpu":
        config.data.image_size = 192
        config.train.batch_size = 4
        config.train.epochs = 170
        config.train.validate_every = 10
        config.eval.batch_size = 5
    return config
