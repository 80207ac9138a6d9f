"""The package `lungmask` as a third way to find the lungs of a scan."""

import warnings
from pathlib import Path

import numpy as np


def lungmask_sides(voxels: np.ndarray, weights: Path) -> np.ndarray:
    """Find the lungs of a whole scan with the package `lungmask` and its U-Net R231.

    Nothing is downloaded. Checked with lungmask 0.2.22, which takes several times the memory of
    the scan; `lung_unet` is the same network within a few bytes per voxel.

    Args:
        voxels: [slices, rows, columns] HU, int16 or float32; slices inferior to superior, rows
            from the front to the back, columns from the patient's right to the left.
        weights: file of the published R231 (or R231CovidWeb) weights, .pth.

    Returns:
        [slices, rows, columns] uint8: 0 outside, 1 (RIGHT) the patient's right lung, 2 (LEFT) the
        left.

    Raises:
        ValueError: the package is not installed, or cannot use the file.
        FileNotFoundError: no such file.
    """
    if not weights.is_file():
        raise FileNotFoundError(f"{weights}: no such file; download the R231 weights of lungmask")
    with warnings.catch_warnings():  # the package silences warnings for good
        try:
            from lungmask import LMInferer
        except ImportError as error:
            raise ValueError(
                f"lung masks of the package lungmask need it installed ({error}): "
                f"pip install lungmask"
            ) from error
        try:
            inferer = LMInferer(modelpath=str(weights), tqdm_disable=True)
        except Exception as error:  # PyTorch raises many kinds on damaged or foreign files
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{weights}: lungmask cannot load it ({reason}); expected the .pth file of its "
                f"R231 weights"
            ) from error
        outputs = inferer.model.last.out_channels
        if outputs != 3:
            raise ValueError(
                f"{weights}: the network has {outputs} classes, expected 3 (background, right, "
                f"left); the R231 weights have them, those of the lobes do not"
            )
        return inferer.apply(voxels)
