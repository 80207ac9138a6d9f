"""Find the lungs in CT scans: `python -m launch.lung_masks --out DIR INPUT...`.

Inputs are scans in HU: NIfTI files (with --intensity hu, as the format does not say what its values
are), DICOM files or folders of slices; a folder with NIfTI files stands for all of them.
For each, DIR gets NAME.nii.gz on the scan's own grid: 0 outside, 1 the patient's right lung, 2 the
left. Methods:

threshold  by intensity and shape; needs nothing else. Lobes without any air are lost.
unet       the U-Net R231 of the package lungmask, run by JAX; needs its published weights.
lungmask   that package itself (pip install lungmask); needs the same weights as .pth.

Interrupted, the same command goes on with the scans that have no mask yet.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from input_pipeline import nifti
from input_pipeline.lung_mask import volume_lung_mask
from input_pipeline.lung_package import lungmask_sides
from input_pipeline.lung_sides import lung_sides
from input_pipeline.lung_unet import unet_lung_sides
from input_pipeline.readers import read_scan
from input_pipeline.scans import Scan, name_of
from launch import command
from launch.import_torch import SUFFIXES, read_state_dict
from launch.writer import write_json, write_nifti_mask
from ssa_jax import unet

METHODS = ("threshold", "unet", "lungmask")
SETTINGS = "lung_masks.json"
Finder = Callable[[np.ndarray, tuple[float, float, float] | None], np.ndarray]


def main(arguments: list[str]) -> None:
    """Read the options and find the lungs."""
    parser = argparse.ArgumentParser(
        prog="launch.lung_masks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="+", type=Path, help="scans, or folders of NIfTI files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--method", choices=METHODS, help="how [unet where --weights is given, else threshold]"
    )
    parser.add_argument("--weights", type=Path, help=f"R231 weights: {', '.join(SUFFIXES)}")
    parser.add_argument("--intensity", choices=("hu",), help="what NIfTI files hold")
    parser.add_argument("--series", help="which series of a DICOM folder that holds several")
    parser.add_argument("--axes", help="of NIfTI files without orientation, for instance LPS")
    options = parser.parse_args(arguments)
    find_lungs(
        find_scans(options.inputs),
        options.out,
        options.method or ("unet" if options.weights else "threshold"),
        options.weights,
        read=lambda path: read_scan(
            path, intensity=options.intensity, series=options.series, axes=options.axes
        ),
    )


def find_scans(inputs: Sequence[Path]) -> dict[str, Path]:
    """The scans that files and folders name, by the name of their masks.

    Raises:
      FileNotFoundError: an input does not exist.
      ValueError: two scans have one name.
    """
    scans: dict[str, Path] = {}
    for entry in inputs:
        if not entry.exists():
            raise FileNotFoundError(f"{entry}: no such file or folder")
        volumes = []
        if entry.is_dir():
            volumes = sorted(p for p in entry.iterdir() if p.name.lower().endswith(nifti.SUFFIXES))
        for path in volumes or [entry]:
            name = f"{name_of(path)}.nii.gz"
            if name in scans:
                raise ValueError(
                    f"{scans[name]} and {path} would both become {name}; rename one, or use "
                    "different --out folders"
                )
            scans[name] = path
    return scans


def find_lungs(
    scans: dict[str, Path],
    out: Path,
    method: str,
    weights: Path | None,
    *,
    read: Callable[[Path], Scan],
) -> None:
    """Write a lung mask per scan, each whole or not at all, and say what was found.

    Args:
      scans: file names of masks and the scans they belong to; a mask that is there is kept.
      out: folder to write to; what it holds must come from the same method and weights.
      method: one of METHODS.
      weights: the file of the network's weights; None for 'threshold'.
      read: reads a scan.

    Raises:
      ValueError: a scan cannot be used, the weights do not suit the method, or the masks in `out`
        come from another method.
      OSError: a file cannot be read or written.
    """
    finder = _finder(method, weights)
    _keep_settings(out, method, weights)
    for number, (name, path) in enumerate(scans.items(), start=1):
        target = out / name
        counted = f"[{number}/{len(scans)}] {path}"
        if target.exists():
            print(f"{counted}: {target} is there already", flush=True)
            continue
        scan = read(path)
        for note in scan.notes:
            print(f"{path}: {note}", file=sys.stderr)
        _check(scan, path)
        sides = finder(scan.voxels, scan.spacing)
        write_nifti_mask(target, sides, scan)
        print(f"{counted}: {_volumes(sides, scan)}", flush=True)


def _finder(method: str, weights: Path | None) -> Finder:
    """The function from voxels and spacing to sides."""
    if method == "threshold":
        if weights is not None:
            raise ValueError(f"{weights}: --method threshold uses no weights; drop one of the two")
        return _threshold_sides
    if weights is None:
        raise ValueError(f"--method {method} needs --weights, the file of lungmask's R231 weights")
    if method == "lungmask":
        return lambda voxels, _: lungmask_sides(voxels, weights)
    labels_of = unet.make_labels(_variables(weights))
    return lambda voxels, _: unet_lung_sides(voxels, labels_of)


def _threshold_sides(voxels: np.ndarray, spacing: tuple[float, float, float] | None) -> np.ndarray:
    lungs = volume_lung_mask(voxels, spacing=spacing, dilation=0)
    return lung_sides(lungs)


def _variables(weights: Path) -> dict:
    """The U-Net's variables from a file; what does not fit is listed on standard error."""
    conversion = unet.convert(read_state_dict(weights))
    listings = {kind: getattr(conversion, kind) for kind in ("missing", "extra", "misshapen")}
    for kind, entries in listings.items():
        for entry in entries:
            print(f"{kind}: {entry}", file=sys.stderr)
    if any(listings.values()):
        counts = ", ".join(f"{len(entries)} {kind}" for kind, entries in listings.items())
        raise ValueError(
            f"{weights}: {counts} (listed above); expected lungmask's weights R231 or R231CovidWeb"
        )
    return conversion.variables


def _keep_settings(out: Path, method: str, weights: Path | None) -> None:
    """Note how the masks of a folder are made, and refuse to mix two ways."""
    settings = {"method": method, "weights": None, "sha256": None}
    if weights is not None:
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        settings |= {"weights": weights.name, "sha256": digest}
    path = out / SETTINGS
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error}); name another --out folder") from error
        if before != settings:
            raise ValueError(
                f"{path}: the masks there come from {before}, now asked for are {settings}; name "
                f"another --out folder"
            )
    write_json(path, settings)


def _check(scan: Scan, path: Path) -> None:
    """Refuse what has no HU or no place in the world."""
    if scan.intensity != "hu":
        raise ValueError(f"{path}: holds 8-bit grey values, expected a scan in HU")
    if scan.affine is None:
        raise ValueError(
            f"{path}: its spacing is unknown, so no NIfTI mask can be written; convert it to NIfTI"
        )


def _volumes(sides: np.ndarray, scan: Scan) -> str:
    """What was found, in mL."""
    assert scan.spacing is not None
    millilitres = np.bincount(sides.ravel(), minlength=3) * np.prod(scan.spacing) / 1000
    if not millilitres[1:].any():
        return "no lung found, the mask is empty"
    return f"right lung {millilitres[1]:.0f} mL, left lung {millilitres[2]:.0f} mL"


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
