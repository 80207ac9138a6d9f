"""COVID-19-CT-Seg, binary: the paper's Dataset_1 (tables 3 and 5), 512 px, for an accelerator."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Validate on four or more of the twenty volumes; `cross_validate` makes folds instead.

    Command (both take the records that `ssa-jax prepare covid19_ct_seg` builds in RECORDS):

        ssa-jax train --config covid19_ct_seg --workdir W --config.data.data_dir=RECORDS
        ssa-jax cross_validate --config covid19_ct_seg --workdir W --config.data.data_dir=RECORDS

    Not run on the published data.
    """
    config = base.get_config()
    config.data.name = "covid19_ct_seg"
    config.data.validation_slices = 600
    config.data.lesion_slices_only = True
    return config
