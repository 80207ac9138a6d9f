"""Lung labels of many scans, written to a folder by one of three methods."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.files import write_json
from input_pipeline.io.nifti import write_nifti_mask
from input_pipeline.io.scan import Scan
from input_pipeline.lungs.left_right import label_left_right
from input_pipeline.lungs.lungmask_package import lungmask_lung_labels
from input_pipeline.lungs.r231 import r231_lung_labels
from input_pipeline.lungs.threshold import volume_lung_mask
from ssa_jax.experiment.weights import read_state_dict, require_fit
from ssa_jax.models import unet

METHODS = ("threshold", "unet", "lungmask")
RECORD = "lung_masks.json"  # method and weights of the masks in a folder
Finder = Callable[[np.ndarray, tuple[float, float, float] | None], np.ndarray]


def find_lungs(
    scans: Mapping[str, Path],
    out: Path,
    method: str,
    weights: Path | None,
    *,
    read: Callable[[Path], Scan],
    echo: Callable[[str], Any],
) -> None:
    """Write the lung labels of each scan, each whole or not at all, and print their volumes.

    Args:
        scans: by the mask's file name; a mask that exists is kept.
        out: folder to write to; masks in it must be of the same method and weights.
        method: 'threshold' (by intensity and shape), 'unet' (the U-Net R231, run by JAX) or
            'lungmask' (the package of that name).
        weights: file of the network's weights; None for 'threshold'.
        read: reads a scan.
        echo: prints a line about each scan.

    Raises:
        ValueError: a scan cannot be used, the weights do not suit the method, or the masks in `out`
            are of another method.
        OSError: a file cannot be read or written.
    """
    finder = _finder(method, weights)
    _keep_record(out, method, weights)
    for number, (name, path) in enumerate(scans.items(), start=1):
        target = out / name
        counted = f"[{number}/{len(scans)}] {path}"
        if target.exists():
            echo(f"{counted}: {target} is there already")
            continue
        scan = read(path)
        for note in scan.notes:
            print(f"{path}: {note}", file=sys.stderr)
        _check(scan, path)
        labels = finder(scan.voxels, scan.spacing)
        write_nifti_mask(target, labels, scan)
        echo(f"{counted}: {_volumes(labels, scan)}")


def _finder(method: str, weights: Path | None) -> Finder:
    """Return the function from voxels and spacing to lung labels."""
    if method == "threshold":
        if weights is not None:
            raise ValueError(f"{weights}: --method threshold uses no weights; drop one of the two")
        return _by_threshold
    if weights is None:
        raise ValueError(f"--method {method} needs --weights, the file of lungmask's R231 weights")
    if method == "lungmask":
        return lambda voxels, _: lungmask_lung_labels(voxels, weights)
    conversion = unet.convert(read_state_dict(weights))
    expected = "expected lungmask's weights R231 or R231CovidWeb"
    require_fit(conversion, weights, expected)
    labels_of = unet.make_labels(conversion.variables)
    return lambda voxels, _: r231_lung_labels(voxels, labels_of)


def _by_threshold(voxels: np.ndarray, spacing: tuple[float, float, float] | None) -> np.ndarray:
    return label_left_right(volume_lung_mask(voxels, spacing=spacing, dilation=0), voxels)


def _keep_record(out: Path, method: str, weights: Path | None) -> None:
    """Write the method and weights of the masks of a folder, or check that they are the same."""
    record = {"method": method, "weights": None, "sha256": None}
    if weights is not None:
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        record |= {"weights": weights.name, "sha256": digest}
    path = out / RECORD
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error}); name another --out folder") from error
        if before != record:
            raise ValueError(
                f"{path}: the masks in this folder are of {before}, expected {record}; name "
                "another --out folder"
            )
    write_json(path, record)


def _check(scan: Scan, path: Path) -> None:
    """Check that a scan is in HU and that its place in the patient is known."""
    if scan.intensity != "hu":
        raise ValueError(f"{path}: holds 8-bit grey values, expected a scan in HU")
    if scan.affine is None:
        raise ValueError(
            f"{path}: its spacing is unknown, expected one to write a NIfTI mask; convert it to "
            "NIfTI"
        )


def _volumes(labels: np.ndarray, scan: Scan) -> str:
    """Describe the volumes of the lungs, in mL."""
    assert scan.spacing is not None
    millilitres = np.bincount(labels.ravel(), minlength=3) * np.prod(scan.spacing) / 1000
    if not millilitres[1:].any():
        return "no lung found, the mask is empty"
    return f"right lung {millilitres[1]:.0f} mL, left lung {millilitres[2]:.0f} mL"
