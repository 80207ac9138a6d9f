"""COVID-19-CT-Seg, binary: the paper's Dataset_1 (tables 3 and 5), 512 px, for an accelerator."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Four of the twenty volumes or more validate; `launch.cross_validate` sets folds instead."""
    config = base.get_config()
    config.data.name = "covid19_ct_seg"
    config.data.validation_slices = 600
    config.data.lesion_slices_only = True
    return config
