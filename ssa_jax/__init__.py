"""SSA-Net (Wang et al., Medical Image Analysis 2022): COVID-19 lesions in chest CT, in JAX.

    import ssa_jax

    network = ssa_jax.load("W", checkpoint="best")                 # what `ssa-jax train` wrote
    result = network.segment("scan.nii.gz", intensity="hu")        # or an image, a folder, an array
    result.labels, result.prob, result.lesion_ml                   # on the scan's own grid
    result.save("mask.nii.gz")
    ssa_jax.score(truth, result.labels, spacing=(5, 0.7, 0.7))     # DSC, HD95, NSD, MAE

For a training loop of your own: `SSANet`, `spatial_convolution` and the module `losses`.
Not a medical device.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssa_jax.experiment.label_maps import score
    from ssa_jax.experiment.network import Network, load
    from ssa_jax.experiment.segmentation import Segmentation
    from ssa_jax.models.ssa_net import SSANet
    from ssa_jax.ops.spatial_conv import spatial_convolution
    from ssa_jax.training import losses

__all__ = [
    "Network",
    "SSANet",
    "Segmentation",
    "load",
    "losses",
    "score",
    "spatial_convolution",
]

# Imported at first use, so that `import ssa_jax` is fast and starts no backend.
_MODULES = {
    "Network": "ssa_jax.experiment.network",
    "SSANet": "ssa_jax.models.ssa_net",
    "Segmentation": "ssa_jax.experiment.segmentation",
    "load": "ssa_jax.experiment.network",
    "score": "ssa_jax.experiment.label_maps",
    "spatial_convolution": "ssa_jax.ops.spatial_conv",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name == "losses":
        return importlib.import_module("ssa_jax.training.losses")
    if name not in _MODULES:
        raise AttributeError(f"module 'ssa_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
