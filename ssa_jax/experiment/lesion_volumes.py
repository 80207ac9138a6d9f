"""How much lesion there is: the rows of `volumes.csv` (scans, mL) and `areas.csv` (pictures)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline.io.scan import Scan
from ssa_jax.evaluation.scoring import SlicePrediction

DECIMALS = 1  # of volumes in a table, in mL


def lesion_volumes(
    labels: np.ndarray,
    lung: np.ndarray,
    spacing: tuple[float, float, float] | None,
    names: Sequence[str],
    slice_mm: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Measure the volume of each class, and its share of each lung.

    Args:
        labels: `[slices, rows, columns]` uint8 class index.
        lung: lung labels of the same shape: 0 none, 1 right, 2 left.
        spacing: mm between (slices, rows, columns).
        names: of the classes 1, 2, ...
        slice_mm: extent of each slice, see `Scan`; None if all have that of `spacing`.

    Returns:
        A row of `volumes.csv`: mL of the lungs, and of each class in all, in each lung and outside
        both. A class's share of a lung counts its voxels inside that lung, and is None where the
        lung is absent.
    """
    voxel = millilitres(spacing)
    counts = np.zeros((3, len(names) + 1))
    extents = _relative(len(labels), spacing, slice_mm)
    for side, chosen, extent in zip(lung, labels, extents, strict=True):
        pairs = side.astype(np.intp) * (len(names) + 1) + chosen
        counts += extent * np.bincount(pairs.ravel(), minlength=counts.size).reshape(counts.shape)
    lungs = counts.sum(axis=1)
    row: dict[str, Any] = {
        "lung_ml": (lungs[1] + lungs[2]) * voxel,
        "right_lung_ml": lungs[1] * voxel,
        "left_lung_ml": lungs[2] * voxel,
    }
    for index, name in enumerate(names, start=1):
        outside, right, left = counts[:, index]
        row[f"{name}_ml"] = (outside + right + left) * voxel
        row[f"{name}_right_ml"] = right * voxel
        row[f"{name}_left_ml"] = left * voxel
        row[f"{name}_outside_ml"] = outside * voxel
        row[f"{name}_share_of_lung"] = _share(right + left, lungs[1] + lungs[2])
        row[f"{name}_share_of_right_lung"] = _share(right, lungs[1])
        row[f"{name}_share_of_left_lung"] = _share(left, lungs[2])
    return row


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its volumes rounded to 0.1 mL, as the table shows them.

    Args:
        row: of `lesion_volumes`.
    """
    return {
        name: round(float(value), DECIMALS) if name.endswith("_ml") else value
        for name, value in row.items()
    }


def lesion_areas(prediction: SlicePrediction, names: Sequence[str]) -> dict[str, Any]:
    """Measure the area of each class, its share of slice and lung mask, and its mean probability.

    Args:
        prediction: of one picture.
        names: of the classes 1, 2, ...

    Returns:
        A row of `areas.csv`. A class's share of the lung counts only its pixels inside the lung
        mask, and is None where there is no lung. Its mean probability is None where it has no
        pixel.
    """
    item = prediction.slice
    inside = None if item.lung is None else item.lung > 0
    row: dict[str, Any] = {
        "file": item.id,
        "height": item.image.shape[0],
        "width": item.image.shape[1],
        "lung_pixels": None if inside is None else int(inside.sum()),
    }
    for index, name in enumerate(names, start=1):
        chosen = prediction.labels == index
        row[f"{name}_pixels"] = int(chosen.sum())
        row[f"{name}_share_of_slice"] = float(chosen.mean())
        row[f"{name}_share_of_lung"] = _mean(chosen, inside)
        row[f"{name}_mean_probability"] = _mean(prediction.prob[..., index], chosen)
    return row


def in_words(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Describe a row of `volumes.csv` in a line for the user.

    Args:
        row: of a scan.
        names: of the classes 1, 2, ...
    """
    if not row["lung_ml"]:
        return "no lung found; the mask is empty"
    parts = [f"lungs {row['lung_ml']:.0f} mL"]
    for name in names:  # lesion outside the lungs counts in mL only
        inside = f"fills {row[f'{name}_share_of_lung']:.1%} of the lungs"
        parts.append(f"{name} {row[f'{name}_ml']:.1f} mL ({inside})")
    if row["dropped_ml"]:
        parts.append(f"{row['dropped_ml']:.1f} mL that touched no lung removed")
    return ", ".join(parts)


def volume_ml(counts: np.ndarray, scan: Scan) -> float:
    """Return the volume of the voxels counted in each slice, in mL.

    Args:
        counts: `[slices]` number of voxels.
        scan: the scan; its spacing is known.
    """
    extents = _relative(len(counts), scan.spacing, scan.slice_mm)
    return float(counts @ extents) * millilitres(scan.spacing)


def missing_lung(lung: np.ndarray, scan: Scan) -> tuple[int, float]:
    """Estimate how much of the lungs lies where slices are missing.

    Args:
        lung: lung labels in the orientation of `scan.voxels`, above 0 inside the lungs.
        scan: the scan; its spacing is known.

    Returns:
        The number of empty planes, and mL: their extent times the mean area of the lungs in the
        slices below and above them.
    """
    if scan.planes is None or scan.affine is None:
        return 0, 0.0
    assert scan.spacing is not None
    planes = np.array(scan.planes)
    empty = np.flatnonzero(planes < 0)
    areas = np.count_nonzero(lung, axis=(1, 2)) * scan.spacing[1] * scan.spacing[2]
    step = abs(float(np.linalg.det(scan.affine[:3, :3]))) / (scan.spacing[1] * scan.spacing[2])
    shown = np.flatnonzero(planes >= 0)
    total = 0.0
    for plane in empty:
        after = np.searchsorted(shown, plane)  # a plane with a slice lies on both sides
        total += float(areas[planes[shown[after - 1 : after + 1]]].mean()) * step
    return len(empty), total / 1000


def missing_note(lung: np.ndarray, scan: Scan) -> list[str]:
    """Return a sentence on the lung where slices are missing, or none.

    Args:
        lung: lung labels, see `missing_lung`.
        scan: the scan.
    """
    planes, lost = missing_lung(lung, scan)
    if not lost:
        return []
    return [
        f"slices are missing ({planes} planes of the mask are empty): about {lost:.0f} mL of the "
        f"lungs are not in the volumes"
    ]


def millilitres(spacing: tuple[float, float, float] | None) -> float:
    """Return the volume of a voxel in mL."""
    assert spacing is not None
    return float(np.prod(spacing)) / 1000


def _relative(
    slices: int, spacing: tuple[float, float, float] | None, slice_mm: Sequence[float] | None
) -> np.ndarray:
    """Return the extent of each slice as a multiple of the usual one, `[slices]`."""
    if slice_mm is None:
        return np.ones(slices)
    assert spacing is not None
    return np.asarray(slice_mm) / spacing[0]


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: np.ndarray, where: np.ndarray | None) -> float | None:
    """Average values over the pixels of a mask; None where it has none."""
    return float(values[where].mean()) if where is not None and where.any() else None
