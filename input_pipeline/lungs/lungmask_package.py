"""Compute lung labels with the package `lungmask`, if it is installed."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np


def lungmask_lung_labels(weights: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load the U-Net R231 of the package `lungmask`, which finds the lungs of whole scans.

    Nothing is downloaded. Tested with lungmask 0.2.22, which needs several times the memory of the
    scan; `r231_lung_labels` runs the same network with a few bytes per voxel.

    Args:
        weights: file of the published R231 (or R231CovidWeb) weights, .pth.

    Returns:
        A function from `[slices, rows, columns]` HU, int16 or float32 (slices inferior to superior,
        rows anterior to posterior, columns from the patient's right to the left) to uint8 lung
        labels of that shape: 0 none, 1 the patient's right lung, 2 the left one.

    Raises:
        ValueError: the package is not installed, or cannot use the file.
        FileNotFoundError: the file does not exist.
    """
    if not weights.is_file():
        raise FileNotFoundError(f"{weights}: no such file; download the R231 weights of lungmask")
    with warnings.catch_warnings():  # the package turns warnings off and leaves them off
        try:
            from lungmask import LMInferer
        except ImportError as error:
            raise ValueError(
                f"the package lungmask cannot be imported ({error}); install it with "
                f"pip install lungmask"
            ) from error
        try:
            inferer = LMInferer(modelpath=str(weights), tqdm_disable=True)
        except Exception as error:  # PyTorch raises many types for damaged or other files
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{weights}: lungmask cannot load it ({reason}), expected the .pth file of its "
                f"R231 weights; download them again"
            ) from error
        outputs = inferer.model.last.out_channels
        if outputs != 3:
            raise ValueError(
                f"{weights}: the network has {outputs} classes, expected 3 (background, right, "
                f"left); use the R231 weights, not those of the lobes"
            )

    def labels(voxels: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return inferer.apply(voxels)

    return labels
