"""MedSeg, two lesion classes: Dataset_3 (tables 4 and 6), 512 px, for an accelerator."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Train on the single slices and validate on the nine volumes (section 4.1).

    Command (with the records that `ssa-jax prepare medseg` builds in RECORDS):

        ssa-jax train --config medseg --workdir W --config.data.data_dir=RECORDS

    Not run on the published data.
    """
    config = base.get_config()
    config.data.name = "medseg"
    config.data.task = "multiclass"
    config.data.validation_split = "validation"
    config.data.lesion_slices_only = True
    config.loss.cross_entropy = 1.0
    config.loss.class_weight_over = "lesion"
    config.loss.class_weight_clip = 10.0
    return config
