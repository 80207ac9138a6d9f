"""A user's own NIfTI volumes, see `input_pipeline/folder.py`; 512 px, for an accelerator."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Set `data.source_dir`, and `data.validation_slices` to hold out that many or a few more."""
    config = base.get_config()
    config.data.name = "folder"
    config.data.validation_slices = 100
    config.data.lesion_slices_only = True
    return config
