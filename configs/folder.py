"""A user's own NIfTI volumes (`input_pipeline/datasets/folder.py`), 512 px, for an accelerator."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Train on the slices with lesion of all patients but those of about 100 validation slices.

    Command (`--config.data.validation_slices=N` changes their number):

        ssa-jax train --config folder --workdir W --config.data.source_dir=PATH

    Not run.
    """
    config = base.get_config()
    config.data.name = "folder"
    config.data.validation_slices = 100
    config.data.lesion_slices_only = True
    return config
