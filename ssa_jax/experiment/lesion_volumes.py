"""How much lesion there is: the rows of `volumes.csv` (scans, mL) and `areas.csv` (pictures)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssa_jax.evaluation.scoring import SlicePrediction

DECIMALS = 1  # of volumes in a table, in mL


def lesion_volumes(
    labels: np.ndarray,
    lung: np.ndarray,
    spacing: tuple[float, float, float] | None,
    names: Sequence[str],
) -> dict[str, Any]:
    """Measure the volume of each class, and its share of each lung.

    Args:
        labels: `[slices, rows, columns]` uint8 class index.
        lung: lung labels of the same shape: 0 none, 1 right, 2 left.
        spacing: mm between (slices, rows, columns).
        names: of the classes 1, 2, ...

    Returns:
        A row of `volumes.csv`: mL of the lungs, and of each class in all, in each lung and outside
        both. A class's share of a lung counts its voxels inside that lung, and is None where the
        lung is absent.
    """
    voxel = millilitres(spacing)
    counts = np.zeros((3, len(names) + 1))
    for side, chosen in zip(lung, labels, strict=True):
        pairs = side.astype(np.intp) * (len(names) + 1) + chosen
        counts += np.bincount(pairs.ravel(), minlength=counts.size).reshape(counts.shape)
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


def millilitres(spacing: tuple[float, float, float] | None) -> float:
    """Return the volume of a voxel in mL."""
    assert spacing is not None
    return float(np.prod(spacing)) / 1000


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: np.ndarray, where: np.ndarray | None) -> float | None:
    """Average values over the pixels of a mask; None where it has none."""
    return float(values[where].mean()) if where is not None and where.any() else None
