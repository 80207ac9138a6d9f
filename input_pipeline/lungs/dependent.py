"""Find dense lung behind aerated lung, up to the ribs.

In a patient who lies on the back, solid lung and fluid collect behind the part that still has air.
The ribs show how far back the chest reaches. Healthy lung fills it to the ribs, whatever the slice,
so only slices whose back is dense are changed.
"""

from collections.abc import Sequence

import numpy as np

from input_pipeline.lungs.inside import smoothed
from input_pipeline.lungs.left_right import RIGHT, spine_column
from input_pipeline.lungs.outlines import beside_mediastinum, opening

COARSE_MM = 2.5  # pixels of about this size suffice, and average the noise out
BONE_HU = 180.0
RIBS_MM = 10.0  # ribs up to so far above and below a slice close the gaps between its own
ANGLES = np.radians(np.arange(0, 151, 3))  # from the patient's side over the back to the spine
BACK = np.radians([60, 120])  # of these, the ones that point to the back
LEAST_MM2 = 300.0  # aerated lung in a slice; less says too little
PLEURA_MM = 4.0  # between a rib's inner edge and the lung
DENSE_MM = 12.0  # of tissue between air and ribs; healthy chests have less
DENSE_BACK = 0.6  # of the rays to the back; with so many dense ones the back of the lung is dense
INTERPOLATED = 5  # rays between ribs whose end is taken from their neighbours
# Near its base a lung is a crescent along the wall, around the liver or the spleen.
CRESCENT_MM = 25.0  # its thickness at the lowest slice with air
DOME_MM = 100.0  # from there to the top of the diaphragm, where the lung fills the chest
RADIUS_MM = 60.0  # of the dome


def add_dependent(
    mask: np.ndarray,
    lung_labels: np.ndarray,
    voxels: np.ndarray,
    *,
    sides: Sequence[int],
    level: float,
    spacing: tuple[float, float, float],
) -> None:
    """Add the dense part of each lung between its aerated part and the ribs behind, in place.

    Args:
        mask: `[slices, rows, columns]` of 0 and 1, the lungs found so far; changed in place.
        lung_labels: `[slices, rows, columns]` lung labels of the aerated parts.
        voxels: `[slices, rows, columns]` HU.
        sides: the labels of the lungs to complete.
        level: HU from which a voxel counts as tissue.
        spacing: millimetres between (slices, rows, columns).
    """
    spine = spine_column(lung_labels > 0, voxels)
    if spine is None:
        return
    step = max(1, round(COARSE_MM / max(spacing[1:])))
    near = max(1, round(RIBS_MM / spacing[0]))
    planes = np.stack([_coarse(plane, step) for plane in voxels])
    millimetres = step * max(spacing[1:])
    for side in sides:
        lowest, outwards = -1, -1 if side == RIGHT else 1
        for index in np.flatnonzero((lung_labels == side).any(axis=(1, 2))).tolist():
            aerated = _coarse(lung_labels[index] == side, step) > 0.5
            if np.count_nonzero(aerated) * millimetres**2 < LEAST_MM2:
                continue
            lowest = index if lowest < 0 else lowest
            ribs = planes[max(0, index - near) : index + near + 1].max(axis=0) > BONE_HU
            crescent = _crescent((index - lowest) * spacing[0])
            behind = _behind(aerated, ribs, outwards, crescent, millimetres)
            behind &= (planes[index] >= level) & beside_mediastinum(aerated, spine / step, outwards)
            behind = opening(behind, PLEURA_MM / millimetres) & behind
            if behind.any():
                fine = np.repeat(np.repeat(behind, step, 0), step, 1)
                rows, columns = fine.shape
                solid = smoothed(voxels[index])[:rows, :columns] >= level
                mask[index, :rows, :columns] |= fine & solid


def _coarse(plane: np.ndarray, step: int) -> np.ndarray:
    """Return the means of blocks of `step` by `step` pixels, without an incomplete last one."""
    rows, columns = (size // step * step for size in plane.shape)
    blocks = plane[:rows, :columns].reshape(rows // step, step, columns // step, step)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def _crescent(height: float) -> float:
    """Return how thick a lung is in front of the ribs, so many mm above its lowest slice."""
    if height >= DOME_MM:
        return np.inf
    return CRESCENT_MM + RADIUS_MM * (1 - float(np.sqrt(1 - (height / DOME_MM) ** 2)))


def _behind(
    aerated: np.ndarray, ribs: np.ndarray, outwards: int, crescent: float, millimetres: float
) -> np.ndarray:
    """Return what lies between the aerated part of a lung and the ribs, if its back is dense.

    Rays from the centre of the aerated part are followed to the first rib.

    Args:
        aerated: `[rows, columns]` bool.
        ribs: `[rows, columns]` bool.
        outwards: -1 if the patient's side is where columns begin, else 1.
        crescent: millimetres in front of the ribs that may be lung.
        millimetres: size of a pixel.

    Returns:
        `[rows, columns]` bool.
    """
    nothing = np.zeros(aerated.shape, bool)
    centre = np.argwhere(aerated).mean(axis=0)
    radii = np.arange(0, max(aerated.shape), 0.7)
    rows = np.rint(centre[0] + np.sin(ANGLES)[:, None] * radii).astype(int)
    columns = np.rint(centre[1] + outwards * np.cos(ANGLES)[:, None] * radii).astype(int)
    within = (rows >= 0) & (rows < aerated.shape[0])
    within &= (columns >= 0) & (columns < aerated.shape[1])
    rows, columns = np.where(within, rows, 0), np.where(within, columns, 0)
    hits = ribs[rows, columns] & within
    wall = np.where(hits.any(axis=1), radii[hits.argmax(axis=1)], np.nan)
    wall = _interpolated(wall) - PLEURA_MM / millimetres
    air = aerated[rows, columns] & within & (radii < wall[:, None])
    end = np.where(air.any(axis=1), radii[radii.size - 1 - air[:, ::-1].argmax(axis=1)], np.nan)
    gap = (wall - end) * millimetres
    back = (BACK[0] <= ANGLES) & (BACK[1] >= ANGLES)
    if np.count_nonzero(gap[back] > DENSE_MM) < DENSE_BACK * np.count_nonzero(back):
        return nothing
    end = np.maximum(end, wall - crescent / millimetres)
    places = np.indices(aerated.shape, np.float32)
    away, along = places[0] - centre[0], (places[1] - centre[1]) * outwards
    angle, radius = np.arctan2(away, along), np.hypot(away, along)
    first, last = (np.interp(angle, ANGLES, ends, np.nan, np.nan) for ends in (end, wall))
    return (radius > first) & (radius < last)


def _interpolated(ends: np.ndarray) -> np.ndarray:
    """Return the ends of rays, short runs of missing ones (NaN) taken from their neighbours."""
    known = np.flatnonzero(np.isfinite(ends))
    if known.size < 2:
        return np.full(ends.shape, np.nan)
    every = np.arange(ends.size)
    filled = np.interp(every, known, ends[known], np.nan, np.nan)
    nearest = np.abs(every[:, None] - known).min(axis=1)
    return np.where(nearest <= INTERPOLATED // 2 + 1, filled, np.nan)
