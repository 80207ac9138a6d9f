"""The type `Scan`: axial slices in the orientation in which radiologists see them.

In every file format, `Scan.voxels` is `[slices, rows, columns]`: slices from the feet to the head,
rows from the front of the patient to the back, columns from the patient's right to the left. This
is how CT slices are displayed (the patient's right on the picture's left) and how pictures and data
sets store axial slices, so one trained network can segment them all. It is also the orientation of
DICOM's axes. An oblique grid is kept: each of its axes counts as the nearest anatomical axis, so no
voxel is interpolated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from input_pipeline.io.doubts import value_doubts
from input_pipeline.io.stack import Stack

SUFFIXES = (".nii.gz", ".nii", ".hdr.gz", ".hdr", ".img.gz", ".img", ".dcm", ".ima", ".zip",
            ".png", ".jpg", ".jpeg", ".npy")  # fmt: skip
SPACING_MM = (0.01, 200.0)  # between voxels; other values mean a wrong unit or a damaged header
OBLIQUE_DEGREES = 15.0  # a grid further off the patient's axes than this gets a note
TILT_DEGREES = 0.5  # a stack of slices that leans more than this gets a note
MIN_DETERMINANT = 0.8  # of the axes' unit vectors; a gantry tilts by 30 degrees at most
ANATOMICAL = "RAS"  # directions of the axes of an affine: right, front, head, as in NIfTI


@dataclass(frozen=True, eq=False)
class Scan:
    """One CT scan, with the relation of its voxels to the grid of its file.

    Attributes:
        voxels: `[slices, rows, columns]`; slices inferior to superior, rows anterior to posterior,
            columns from the patient's right to the left. int16 or float32 Hounsfield units, or
            uint8 grey values. It may be a view with negative strides.
        intensity: 'hu' or 'uint8', as the format or the caller stated.
        spacing: millimetres between (slices, rows, columns). The distance of slices is measured
            along their normal, so that the product is the volume of a voxel even if the stack
            leans. None if unknown, as for pictures.
        affine: `[4, 4]` float64, from voxel indices of the file's own grid to its world
            coordinates, which increase towards the patient's right, front and head (in millimetres,
            unless a NIfTI header states another unit). None if unknown.
        id: name of the file or folder without its suffix.
        axes: for each of slices, rows and columns, the axis of the file's own grid.
        flips: for each of slices, rows and columns, whether it is the reverse of that axis.
        file_shape: shape of the file's own grid; for DICOM (columns, rows, planes).
        notes: sentences for the user: gaps, gantry tilt, files left out, values unlike the stated
            intensity (`doubts`).
        header: the NIfTI header of the file, which its masks take over; None for other formats.
        slice_mm: extent of each slice in mm, where DICOM slices are uneven; None if all have the
            extent `spacing[0]`.
        planes: index of the slice that each plane of the file's own grid shows, feet to head, and
            -1 where a slice is missing; None if the planes are the slices. DICOM slices may be
            uneven, but the grid of a NIfTI mask is regular.
        stated_axes: directions of the file's axes that the user stated and that are used; None
            where the file's own orientation is.
    """

    voxels: np.ndarray = field(repr=False)
    intensity: str
    spacing: tuple[float, float, float] | None
    affine: np.ndarray | None
    id: str
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    file_shape: tuple[int, ...]
    notes: tuple[str, ...] = ()
    header: nib.Nifti1Header | None = field(default=None, repr=False)
    slice_mm: tuple[float, ...] | None = None
    planes: tuple[int, ...] | None = None
    stated_axes: str | None = None


def oriented(
    stack: Stack,
    affine: np.ndarray,
    path: Path,
    *,
    file_shape: tuple[int, ...],
    millimetres: float = 1.0,
    notes: tuple[str, ...] = (),
    header: nib.Nifti1Header | None = None,
    stated_axes: str | None = None,
    states_hu: bool = False,
    check: bool = True,
) -> Scan:
    """Return the scan of a volume that is in its file's own order.

    Args:
        stack: the volume; its array is `[k, j, i]`, the reverse of the file's axes.
        affine: `[4, 4]`, from (i, j, k) to right, front, head.
        path: the file or folder.
        file_shape: shape of the file's own grid: (i, j, k), with or without axes of length 1.
        millimetres: millimetres in one unit of the affine.
        notes: sentences of the reader; those about geometry and values are added.
        header: see `Scan`.
        stated_axes: see `Scan`.
        states_hu: whether the format itself states Hounsfield units (DICOM).
        check: whether the values are checked against the intensity; not for label maps.

    Raises:
        ValueError: the size of the voxels is not between 0.01 and 200 mm, the axes are far from
            right angles, or the scan is a single slice that is not axial. The message names the
            file.
    """
    _check_affine(affine, path, millimetres)
    done = stack.finish()
    axes, flips = _axes_and_flips(affine)
    voxels = _flip(stack.array.T.transpose(axes), flips)
    if 1 in voxels.shape[1:]:
        raise ValueError(
            f"{path}: its axial slices have {voxels.shape[1]} x {voxels.shape[2]} pixels, expected "
            f"whole ones; it seems to be a coronal or sagittal picture, reslice or leave it out"
        )
    if check:
        done += stack.clear_padding(voxels)
    sizes = np.linalg.norm(affine[:3, :3], axis=0) * millimetres
    rows, columns = float(sizes[axes[1]]), float(sizes[axes[2]])
    volume = abs(float(np.linalg.det(affine[:3, :3]))) * millimetres**3
    doubts = value_doubts(voxels, stack.intensity, states_hu=states_hu) if check else []
    return Scan(
        voxels=voxels,
        intensity=stack.intensity,
        spacing=(volume / (rows * columns), rows, columns),
        affine=affine,
        id=name_of(path),
        axes=axes,
        flips=flips,
        file_shape=file_shape,
        notes=(*notes, *_lean(affine, axes[0]), *done, *doubts),
        header=header,
        stated_axes=stated_axes,
    )


def axes_affine(axes: str, sizes: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the affine of a grid from the directions of its axes.

    Args:
        axes: the direction in which each axis of the grid increases, one letter each of R/L, A/P
            and S/I, as in 'LPS'.
        sizes: millimetres between voxels along each axis.

    Returns:
        `[4, 4]` float64 from voxel indices to right, front, head; the first voxel is at the origin.

    Raises:
        ValueError: other letters.
    """
    pairs = ("RL", "AP", "SI")
    order = [next((n for n, pair in enumerate(pairs) if letter in pair), -1) for letter in axes]
    if sorted(order) != [0, 1, 2]:
        raise ValueError(f"axes is {axes!r}, expected one each of R/L, A/P and S/I, as in 'LPS'")
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (row, letter) in enumerate(zip(order, axes, strict=True)):
        affine[row, column] = sizes[column] * (1 if letter == ANATOMICAL[row] else -1)
    return affine


def upright(
    stack: Stack,
    path: Path,
    *,
    spacing: tuple[float, float, float] | None,
    file_shape: tuple[int, ...],
) -> Scan:
    """Return the scan of a volume that already has the orientation of `Scan.voxels`.

    Args:
        stack: the volume; its array is `[slices, rows, columns]`.
        path: the file.
        spacing: millimetres between (slices, rows, columns); None if unknown.
        file_shape: shape of the file's array, (rows, columns) or (slices, rows, columns).

    Raises:
        ValueError: the spacing is not between 0.01 and 200 mm.
    """
    affine = None
    if spacing is not None:
        affine = np.diag([spacing[0], -spacing[1], -spacing[2], 1.0])[[2, 1, 0, 3]]
        _check_affine(affine, path, 1.0)
    done = stack.finish() + stack.clear_padding(stack.array)
    return Scan(
        voxels=stack.array,
        intensity=stack.intensity,
        spacing=spacing,
        affine=affine,
        id=name_of(path),
        axes=(0, 1, 2),
        flips=(False, False, False),
        file_shape=file_shape,
        notes=(*done, *value_doubts(stack.array, stack.intensity)),
    )


def to_file_grid(array: np.ndarray, scan: Scan, *, empty: float = 0) -> np.ndarray:
    """Return an array on the grid of `scan.voxels` in the order of the file's own grid.

    Args:
        array: `[slices, rows, columns]`, any dtype.
        scan: the scan it belongs to.
        empty: value of the planes where a slice is missing.

    Returns:
        An array of shape `scan.file_shape`, without interpolation; a view if possible.

    Raises:
        ValueError: the array has another shape than the voxels.
    """
    if array.shape != scan.voxels.shape:
        raise ValueError(
            f"{scan.id}: array is {array.shape}, expected the shape of its scan, "
            f"{scan.voxels.shape} [slices, rows, columns]"
        )
    if scan.planes is not None:
        planes = np.array(scan.planes)
        array = array[planes]
        array[planes < 0] = empty
    return _flip(array, scan.flips).transpose(np.argsort(scan.axes)).reshape(scan.file_shape)


def grid_shape(scan: Scan) -> tuple[int, int, int]:
    """Return the shape of a mask of a scan, as it is read from its NIfTI file.

    Args:
        scan: the scan.
    """
    slices, rows, columns = scan.voxels.shape
    return slices if scan.planes is None else len(scan.planes), rows, columns


def own_slices(array: np.ndarray, scan: Scan) -> np.ndarray:
    """Return what an array of a scan's planes holds at its slices; undoes `to_file_grid`.

    Args:
        array: `[planes, rows, columns]`, of the shape `grid_shape(scan)`.
        scan: the scan.
    """
    if scan.planes is None:
        return array
    planes = np.array(scan.planes)
    return array[[np.flatnonzero(planes == index)[0] for index in range(len(scan.voxels))]]


def name_of(path: Path) -> str:
    """Return the name of a file or folder, as its user gave it, without the suffix of a scan.

    A link keeps its own name; only a path without one ('.' or '..') gets that of its folder.
    """
    name = path.name if path.name not in ("", "..") else path.resolve().name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix) and not path.is_dir():
            return name[: -len(suffix)]
    return name


def _axes_and_flips(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Return `Scan.axes` and `Scan.flips` of an affine."""
    nearest = nib.orientations.io_orientation(affine)  # per file axis: anatomical axis, direction
    axis_of = {int(anatomical): axis for axis, (anatomical, _) in enumerate(nearest)}
    axes = (axis_of[2], axis_of[1], axis_of[0])
    # Slices increase towards the head, rows towards the back, columns towards the left.
    wanted = (1, -1, -1)
    first, second, third = (
        bool(nearest[axis, 1] != way) for axis, way in zip(axes, wanted, strict=True)
    )
    return axes, (first, second, third)


def _flip(array: np.ndarray, flips: tuple[bool, ...]) -> np.ndarray:
    """Return a view of an array with the given axes reversed."""
    return array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def _check_affine(affine: np.ndarray, path: Path, millimetres: float) -> None:
    """Check the size of the voxels and the angles between the axes of a grid."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0) * millimetres
    low, high = SPACING_MM
    if not np.isfinite(affine).all() or (sizes < low).any() or (sizes > high).any():
        listed = " x ".join(f"{size:g}" for size in sizes)
        raise ValueError(
            f"{path}: voxels of {listed} mm, expected {low:g} to {high:g} mm; "
            f"correct the spacing (or its unit) and the position in the file"
        )
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(unit)) < MIN_DETERMINANT:
        raise ValueError(
            f"{path}: the axes of its grid are far from right angles, expected those of a scanner; "
            f"correct the orientation in the file"
        )


def _lean(affine: np.ndarray, through: int) -> list[str]:
    """Return notes on a stack of slices that leans, or that lies obliquely in the patient."""
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    notes = []
    plane = np.delete(unit, through, axis=1)
    normal = np.cross(plane[:, 0], plane[:, 1])
    normal /= np.linalg.norm(normal)
    tilt = np.degrees(np.arccos(min(1.0, abs(normal @ unit[:, through]))))
    if tilt > TILT_DEGREES:
        notes.append(
            f"the stack of slices leans by {tilt:.1f} degrees (gantry tilt); the slices are used "
            f"as they are, and volumes take the angle into account"
        )
    turned = np.degrees(np.arccos(np.clip(np.abs(unit).max(axis=0).min(), 0, 1)))
    if turned > OBLIQUE_DEGREES and turned > tilt + 1:
        notes.append(
            f"the grid lies {turned:.0f} degrees off the patient's axes; its slices are used as "
            f"they are and are not exactly axial"
        )
    return notes
