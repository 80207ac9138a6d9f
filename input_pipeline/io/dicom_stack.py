"""How the slices of a series lie: their affine, extents, gaps, and a regular grid for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from input_pipeline.io.dicom_file import AGAIN, Image

STRAY_MM = 1.0  # a slice further than this from the line of the others is of another stack
UNEVEN = 0.05  # share of the usual distance of slices; scanners round positions
GAP = 1.5  # a distance of more than this many usual ones is a gap
RUN = 3  # but as many equal distances in a row are a coarser part of the stack
EVEN = 0.09  # share of the usual distance by which a slice of an even stack may be off
NEAR = 0.2  # share of both its neighbours that a distance is at least, in one stack
OFF_GRID = 0.1  # share of the usual distance by which a plane may miss its slice
FINEST = 4  # planes for each slice, at most
DENSE = 10  # the same, where slices would share a plane otherwise


@dataclass(frozen=True)
class Layout:
    """The places of sorted slices along their normal, and the regular grid of planes for them.

    Attributes:
        usual: the usual distance of slices, mm.
        step: distance of the planes, mm.
        planes: index of the slice that each plane shows, -1 where a slice is missing; None if the
            planes are the slices.
        slice_mm: extent of each slice, mm; None if all have the usual one.
        off: largest distance of a slice from its plane, mm.
        gaps: index of the slice before each gap.
        uneven: number of distances that are neither usual nor gaps.
    """

    usual: float
    step: float
    planes: tuple[int, ...] | None = None
    slice_mm: tuple[float, ...] | None = None
    off: float = 0.0
    gaps: tuple[int, ...] = ()
    uneven: int = 0


def lay_out(heights: np.ndarray, thickness: float | None) -> Layout:
    """Find the extents of slices, gaps between them, and a regular grid of planes.

    A slice reaches half-way to its neighbours, but not into a gap. A plane shows the slice whose
    extent holds its centre (the lower one at a border), and each slice has a plane of its own.

    Args:
        heights: `[n]` positions along the normal in mm, increasing, two or more.
        thickness: of the slices, in mm; None if unknown.

    Raises:
        ValueError: slices lie close to one another, as in two stacks that were mixed.
    """
    distances = np.diff(heights)
    _check_pairs(distances)
    usual = float(np.median(distances))
    gap = _gaps(distances, usual, thickness or 0.0)
    uneven = int((np.abs(distances - usual) > UNEVEN * usual)[~gap].sum())
    whole = np.arange(len(heights))
    for step in (usual, float(distances.mean())):
        if not gap.any() and np.abs(heights - heights[0] - step * whole).max() < EVEN * usual:
            return Layout(step, step)
    below, above = _halves(distances, gap, usual)
    step, off = _step(heights, usual)
    own = _nearest(heights, step)
    centres = heights[0] + step * np.arange(own[-1] + 1)
    planes = np.full(len(centres), -1)
    for index, height in enumerate(heights):
        low, high = height - below[index], height + above[index]
        near = 1e-6 * step
        planes[(centres > low + near) & (centres <= high + near)] = index
    planes[own] = whole
    extents = tuple(map(float, below + above)) if uneven else None
    regular = np.array_equal(planes, whole)
    return Layout(
        usual=usual,
        step=step,
        planes=None if regular else tuple(map(int, planes)),
        slice_mm=extents,
        off=off,
        gaps=tuple(map(int, np.flatnonzero(gap))),
        uneven=uneven,
    )


def _check_pairs(distances: np.ndarray) -> None:
    """Check that no distance is far below both of those beside it."""
    inner = distances[1:-1]
    near = inner < NEAR * np.minimum(distances[:-2], distances[2:])
    usual = float(np.median(distances))
    if (inner[near] < NEAR * usual).any() or near.sum() > len(distances) / 4:
        raise ValueError(_mixed(float(inner[near].min()), float(distances.max())))


def _mixed(near: float, usual: float) -> str:
    """Return the error of slices that are too close to be of one stack."""
    return (
        f"has slices only {near:.3g} mm apart where others are {usual:.4g} mm apart, expected one "
        f"stack; keep one of two scans that were mixed"
    )


def _gaps(distances: np.ndarray, usual: float, thickness: float) -> np.ndarray:
    """Say which distances are gaps: large, and not those of a coarser part of the stack."""
    large = (distances > GAP * usual) & (distances > GAP * thickness)
    start = 0
    for stop in range(1, len(distances) + 1):
        if stop < len(distances) and abs(distances[stop] - distances[start]) < 0.2 * usual:
            continue
        if stop - start >= RUN:
            large[start:stop] = False
        start = stop
    return large


def _halves(distances: np.ndarray, gap: np.ndarray, usual: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each slice reaches downwards and upwards, in mm."""
    half = np.where(gap, np.nan, distances / 2)
    below, above = np.append(np.nan, half), np.append(half, np.nan)
    below, above = (
        np.where(np.isnan(one), np.where(np.isnan(other), usual / 2, other), one)
        for one, other in ((below, above), (above, below))
    )
    return below, above


def _step(heights: np.ndarray, usual: float) -> tuple[float, float]:
    """Return the distance of the planes, and how far a slice lies from its plane at most."""
    least = float(np.diff(heights).min())
    mean = float((heights[-1] - heights[0]) / (len(heights) - 1))
    steps = [base / parts for parts in range(1, FINEST + 1) for base in (usual, mean, least)]
    tried = []
    for step in [*steps, least]:
        own = _nearest(heights, step)
        if (np.diff(own) < 1).any() or own[-1] > DENSE * (heights[-1] - heights[0]) / usual:
            continue
        off = float(np.abs(heights - heights[0] - step * own).max())
        if off <= OFF_GRID * usual:
            return step, off
        tried.append((off, step))
    if not tried:
        raise ValueError(_mixed(least, usual))
    off, step = min(tried)
    return step, off


def _nearest(heights: np.ndarray, step: float) -> np.ndarray:
    """Return the index of the plane nearest to each slice; the first is at the first slice."""
    return np.floor((heights - heights[0]) / step + 0.5).astype(int)


def notes_of(layout: Layout, images: Sequence[Image]) -> list[str]:
    """Return a sentence on the gaps of a stack, and one on its uneven steps.

    Args:
        layout: of the slices.
        images: the slices, sorted by position.
    """
    notes = []
    distances = np.diff([image.height for image in images])
    gaps = []
    for index in layout.gaps:
        near = [distances[i] for i in (index - 1, index + 1)
                if 0 <= i < len(distances) and i not in layout.gaps]  # fmt: skip
        absent = max(1, round(distances[index] / (min(near) if near else layout.usual)) - 1)
        gaps.append(
            f"gap of {distances[index]:.4g} mm between {images[index].name} and "
            f"{images[index + 1].name}: {absent} slice{'s' * (absent != 1)}"
        )
    if gaps:
        more = f"; {len(gaps) - 3} more gaps" if len(gaps) > 3 else ""
        notes.append(
            f"{'; '.join(gaps[:3])}{more}; missing slices are in no volume, and the mask has empty "
            f"planes for them; {AGAIN}"
        )
    beside = layout.off > OFF_GRID * layout.usual
    if layout.uneven or beside:
        off = ""
        if beside:
            off = f", in which positions are off by up to {layout.off:.2g} mm"
        regular = [d for i, d in enumerate(distances) if i not in layout.gaps]
        notes.append(
            f"{layout.uneven} of {len(distances)} steps between slices are uneven "
            f"({min(regular):.4g} to {max(regular):.4g} mm); volumes use each slice's own extent, "
            f"and the mask has planes every {layout.step:.4g} mm{off}"
        )
    return notes


def affine_of(images: Sequence[Image], step: np.ndarray) -> np.ndarray:
    """Return the affine `[4, 4]` from (column, row, plane) to right, front, head.

    Args:
        images: the slices; the first is at the first plane.
        step: `[3]` vector from one plane to the next, in DICOM's coordinates.
    """
    first = images[0]
    affine = np.eye(4)
    affine[:3, 0] = first.directions[:, 0] * first.spacing[1]
    affine[:3, 1] = first.directions[:, 1] * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def lone_step(image: Image, notes: list[str]) -> np.ndarray:
    """Return the vector `[3]` through a single slice, as long as its thickness.

    Args:
        image: the slice.
        notes: sentences for the user; one is added if the thickness is unknown.

    Raises:
        ValueError: the thickness is not positive.
    """
    thickness = image.thickness
    if thickness is None:
        thickness = 1.0
        notes.append("slice thickness is not stated, 1 mm is assumed: volumes are unknown")
    if thickness <= 0:
        raise ValueError(
            f"{image.path}: SliceThickness is {thickness:g}, expected positive millimetres; {AGAIN}"
        )
    return image.normal * thickness


def line_of(images: Sequence[Image], path: Path) -> np.ndarray:
    """Return the vector `[3]` by which the position changes for each mm along the normal.

    Args:
        images: two slices or more, sorted by position.
        path: the file or folder, for messages.

    Raises:
        ValueError: a slice lies beside the line of the others.
    """
    positions = np.stack([image.position for image in images])
    heights = np.array([image.height for image in images])
    way = (positions[-1] - positions[0]) / (heights[-1] - heights[0])
    line = positions[0] + np.outer(heights - heights[0], way)
    offsets = np.linalg.norm(positions - line, axis=1)
    if offsets.max() > STRAY_MM:
        worst = images[int(offsets.argmax())].name
        raise ValueError(
            f"{path}: {worst} lies {offsets.max():.1f} mm beside the line of the other slices, "
            f"expected one straight stack; remove it if it belongs to another scan"
        )
    return way
