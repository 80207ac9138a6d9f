"""Lung labels of scans, by one of three methods or from files; many of them into a folder."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.inference_slices import find_lung_labels, read_lung_labels
from input_pipeline.io.nifti import read_labels, write_nifti_mask
from input_pipeline.io.scan import Scan
from input_pipeline.lungs.doubts import lung_doubts
from input_pipeline.lungs.lungmask_package import lungmask_lung_labels
from input_pipeline.lungs.origin import (
    LUNGMASK,
    METHODS,
    RECORD,
    THRESHOLD,
    LungOrigin,
    origin_of_files,
)
from input_pipeline.lungs.r231 import r231_lung_labels
from input_pipeline.verified import file_sha256
from ssa_jax.experiment.batch import Batch, Finished, RunOptions, print_notes
from ssa_jax.experiment.lesion_volumes import DECIMALS, missing_note, volume_ml
from ssa_jax.experiment.segmentation import Reading
from ssa_jax.experiment.weights import read_state_dict, require_fit
from ssa_jax.models import unet

TABLE = "lungs"  # name of the table of their volumes


class LungSource(NamedTuple):
    """Where the lung labels of scans come from.

    Attributes:
        origin: method, name and SHA-256 of its weights.
        folder: of the labels; None where a method finds them.
        labels: from a scan and the name of its mask to `[slices, rows, columns]` uint8 labels.
    """

    origin: LungOrigin
    folder: Path | None
    labels: Callable[[Scan, str], np.ndarray]

    @property
    def record(self) -> dict[str, Any]:
        """What the masks depend on: the method and its weights, or the folder of the labels."""
        return self.origin._asdict() if self.folder is None else {"folder": str(self.folder)}

    def __str__(self) -> str:
        """Say it in a few words for the user."""
        if self.folder is not None:
            return f"lungs are read from {self.folder}"
        if self.origin.method == THRESHOLD:
            return "lungs are found by intensity and shape"
        return f"lungs are found by {self.origin.method} with {self.origin.weights}"


def lung_source(text: str) -> LungSource:
    """Return the source of lung labels that a user names.

    Args:
        text: 'threshold', 'unet:WEIGHTS', 'lungmask:WEIGHTS', or a folder of label maps that are
            named as the masks.

    Raises:
        ValueError: the weights are missing or do not suit the method, or the folder's record is
            damaged.
        FileNotFoundError: no such folder or file.
    """
    method, _, weights = text.partition(":")
    if method in METHODS and not Path(text).is_dir():
        return by_method(method, Path(weights) if weights else None)
    folder = Path(text)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; --lungs takes threshold, unet:WEIGHTS, lungmask:WEIGHTS or "
            "a folder of lung masks"
        )
    origin = origin_of_files([folder / RECORD])
    return LungSource(origin, folder, partial(_from_folder, folder))


def lung_labels(scan: Scan, lung: str | Path) -> tuple[np.ndarray, LungOrigin]:
    """Return the lung labels of one scan and their origin.

    Args:
        scan: a scan in HU.
        lung: 'threshold', 'unet:WEIGHTS' or 'lungmask:WEIGHTS'; or a file of labels on its grid.

    Returns:
        `[slices, rows, columns]` uint8 lung labels (0 none, 1 right, 2 left), and their origin.

    Raises:
        ValueError: the weights do not suit the method, or the labels do not fit the scan.
        OSError: the file cannot be opened.
    """
    if str(lung).partition(":")[0] in METHODS and not Path(lung).exists():
        source = lung_source(str(lung))
        return source.labels(scan, ""), source.origin
    return read_lung_labels(Path(lung), scan), origin_of_files([Path(lung)])


def by_method(method: str, weights: Path | None) -> LungSource:
    """Return a method of finding lungs.

    Args:
        method: 'threshold' (by intensity and shape), 'unet' (the U-Net R231, run by JAX) or
            'lungmask' (the package of that name).
        weights: file of the network's weights; None for 'threshold'.

    Raises:
        ValueError: the weights are missing or do not suit the method.
        FileNotFoundError: no such file.
    """
    find = _finder(method, weights)
    origin = LungOrigin(method)
    if weights is not None:
        origin = LungOrigin(method, weights.name, file_sha256(weights))
    return LungSource(origin, None, lambda scan, _: find(scan))


def find_lungs(
    scans: Mapping[str, Path],
    out: Path,
    source: LungSource,
    *,
    reading: Reading,
    options: RunOptions,
    echo: Callable[[str], Any] = print,
) -> None:
    """Write the lung labels of each scan when they are found, and their volumes as `lungs.csv`.

    Args:
        scans: by the mask's file name; a mask that exists is kept.
        out: folder to write to; masks in it must be of the same method and weights.
        source: the method.
        reading: what the user states about the scans.
        options: see `RunOptions`.
        echo: prints a line about each scan.

    Raises:
        InputsFailed: some scans cannot be used; all others are done.
        ValueError: the masks in `out` are of another method.
        OSError: a mask cannot be written.
    """

    def find(name: str, path: Path) -> Finished:
        target = out / name
        if target.exists() and not batch.knows(name):  # made by hand or by an older version
            there = read_labels(target, (0, 1, 2))
            row = _volumes(path, there.voxels, there) | {"notes": "the mask was there already"}
            return Finished([row], (name,), line=_in_words(row))
        scan = reading.read_hu(path)
        labels = source.labels(scan, name)
        doubts = lung_doubts(labels, scan.voxels, scan.spacing)
        notes = [*scan.notes, *missing_note(labels, scan), *doubts]
        print_notes(path, notes)
        row = _volumes(path, labels, scan) | {"notes": "; ".join(notes)}
        save = partial(write_nifti_mask, target, labels, scan)
        return Finished([row], (name,), save, _in_words(row))

    with options.only_run(out):
        batch = Batch(
            out,
            scans,
            record=source.record,
            record_name=RECORD,
            table=TABLE,
            options=options,
            stated=str(reading),
        )
        with batch.finish():
            batch.each(find, echo=echo)


def _finder(method: str, weights: Path | None) -> Callable[[Scan], np.ndarray]:
    """Return the function from a scan to its lung labels."""
    if method == THRESHOLD:
        if weights is not None:
            raise ValueError(f"{weights}: the method threshold uses no weights; name none")
        return find_lung_labels
    if weights is None:
        raise ValueError(f"the method {method} needs weights, the file of lungmask's R231; name it")
    if method == LUNGMASK:
        labels_by_package = lungmask_lung_labels(weights)
        return lambda scan: labels_by_package(scan.voxels)
    conversion = unet.convert(read_state_dict(weights))
    require_fit(conversion, weights, "expected lungmask's weights R231 or R231CovidWeb")
    labels_of = unet.make_labels(conversion.variables)
    return lambda scan: r231_lung_labels(scan.voxels, labels_of)


def _from_folder(folder: Path, scan: Scan, name: str) -> np.ndarray:
    if not (folder / name).exists():
        raise FileNotFoundError(
            f"{folder}: no {name}, expected a lung mask of that name; `ssa-jax lung_masks` makes it"
        )
    return read_lung_labels(folder / name, scan)


def _volumes(path: Path, labels: np.ndarray, scan: Scan) -> dict[str, Any]:
    """Return a row of `lungs.csv`: the file, and the volumes of its lungs in mL."""
    return {"file": str(path)} | {
        f"{side}_lung_ml": round(
            volume_ml(np.count_nonzero(labels == label, axis=(1, 2)), scan), DECIMALS
        )
        for label, side in enumerate(("right", "left"), start=1)
    }


def _in_words(row: Mapping[str, Any]) -> str:
    right, left = row["right_lung_ml"], row["left_lung_ml"]
    if not right and not left:
        return "no lung found, the mask is empty"
    return f"right lung {right:.0f} mL, left lung {left:.0f} mL"
