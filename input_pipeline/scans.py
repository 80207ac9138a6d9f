"""A scan as the rest of the code sees it: axial slices, each as a radiologist is shown it.

Whatever the orientation of a file, `Scan.voxels` is [slices, rows, columns]: slices run from the
feet to the head, rows from the front of the patient to the back, columns from the patient's right
to the left. That is how CT slices are displayed (the patient's right on the picture's left) and
how the axial slices that pictures and data sets hold lie, so one trained network serves them all;
it is also DICOM's own system of axes. An oblique file keeps its grid: each of its axes takes the
name of the nearest anatomical one, so no voxel is ever interpolated.
"""

from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

INTENSITIES = {"hu": (-32768, 32767), "uint8": (0, 255)}  # the values that a reader accepts
SPACING_MM = (0.01, 200.0)  # between voxels; anything else is a wrong unit or a damaged header
OBLIQUE_DEGREES = 15.0  # from here on it is worth a note
TILT_DEGREES = 0.5
UPRIGHT = 0.8  # determinant of the axes' unit vectors; a gantry tilts by 30 degrees at most
ANATOMICAL = "RAS"  # where the axes of an affine point to, as in NIfTI


@dataclass(frozen=True, eq=False)
class Scan:
    """One CT scan, with the way back to the grid of its file.

    Attributes:
        voxels: [slices, rows, columns]; slices inferior to superior, rows anterior to posterior,
            columns patient right to left. int16 or float32 Hounsfield units, or uint8 grey
            values. It may be a view with negative strides.
        intensity: 'hu' or 'uint8', as the format or the caller stated.
        spacing: millimetres between (slices, rows, columns); slices are measured along their
            normal, so the product is a voxel's volume even where the stack leans. None when
            unknown, as for pictures.
        affine: [4, 4] float64, from voxel indices of the file's own grid to its own world
            coordinates, which grow to the patient's right, front and head (in millimetres,
            unless a NIfTI header says otherwise). None when unknown.
        id: name of the file or folder without its suffix.
        axes: the axis of the file's own grid that slices, rows and columns come from.
        flips: which of slices, rows and columns run against that axis.
        file_shape: shape of the file's own grid; for DICOM (columns, rows, slices).
        notes: what a user should know about the scan, a sentence each: gaps, gantry tilt, files
            left out, values that look unlike the stated intensity.
        header: the NIfTI header of the file, which masks inherit; None for other formats.
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


class Stack:
    """Slices gathered one by one into a volume, so that no second copy of it is ever in memory.

    Hounsfield units are int16 until the first value with a fraction and float32 from there on;
    grey values are uint8, rounded.

    Attributes:
        array: [slices, rows, columns], in the file's own order.
        intensity: 'hu' or 'uint8'.
        notes: sentences for `Scan.notes`.

    Args:
        shape: of the volume.
        intensity: 'hu' or 'uint8'.
    """

    def __init__(self, shape: tuple[int, int, int], intensity: str) -> None:
        check_intensity(intensity)
        self.array = np.empty(shape, np.int16 if intensity == "hu" else np.uint8)
        self.intensity = intensity
        self._lowest, self._highest = np.inf, -np.inf
        self._rounded = False

    def put(self, index: int, values: np.ndarray, path: Path) -> None:
        """Store one slice.

        Args:
            index: its place.
            values: [rows, columns], any real dtype, in the units of the volume.
            path: the file, for messages.

        Raises:
            ValueError: a value is NaN, infinite or out of range; the message names the file.
        """
        with np.errstate(invalid="ignore"):
            lowest, highest = float(values.min()), float(values.max())  # NaN spreads into both
        if not np.isfinite([lowest, highest]).all():
            bad = np.size(values) - np.isfinite(values).sum()
            raise ValueError(
                f"{path}: {bad} voxels of a slice are NaN or infinite, expected numbers; "
                f"replace them by -1024 (air) where they mark the outside of the scan"
            )
        least, most = INTENSITIES[self.intensity]
        if lowest < least or highest > most:
            raise ValueError(
                f"{path}: values from {lowest:g} to {highest:g}, expected {least} to {most} for "
                f"intensity {self.intensity!r}; state the other intensity, or correct the "
                f"file's scale and offset"
            )
        if self.intensity == "uint8" or self.array.dtype == np.int16:
            whole = values if values.dtype.kind in "iu" else np.rint(values)
            if whole is not values and not np.array_equal(whole, values):
                self._rounded = True
                if self.intensity == "hu":
                    self.array = self.array.astype(np.float32)
                    whole = values
            values = whole
        self.array[index] = values
        self._lowest, self._highest = min(self._lowest, lowest), max(self._highest, highest)

    @property
    def notes(self) -> list[str]:
        """What the values themselves give away."""
        if self.intensity == "uint8":
            return ["grey values had fractions and were rounded"] * self._rounded
        if self._lowest < 0:
            return []
        if self._highest <= 255:
            return [
                "all values lie in 0..255, as in a scan already windowed to 8 bits; "
                "if it is one, read it with intensity 'uint8'"
            ]
        return ["no value is below 0, so these may be Hounsfield units plus an offset (1024?)"]


def check_intensity(intensity: str) -> None:
    """Refuse anything but 'hu' and 'uint8'.

    Raises:
        ValueError: it is something else.
    """
    if intensity not in INTENSITIES:
        raise ValueError(f"intensity is {intensity!r}, expected one of {tuple(INTENSITIES)}")


def oriented(
    stack: Stack,
    affine: np.ndarray,
    path: Path,
    *,
    file_shape: tuple[int, ...],
    millimetres: float = 1.0,
    notes: tuple[str, ...] = (),
    header: nib.Nifti1Header | None = None,
) -> Scan:
    """Turn a volume in its file's own order into a `Scan`.

    Args:
        stack: its array is [k, j, i], the reverse of the file's axes.
        affine: [4, 4], from (i, j, k) to right, front, head.
        path: the file or folder.
        file_shape: shape of the file's own grid, (i, j, k) apart from axes of length 1.
        millimetres: how many of them one unit of the affine is.
        notes: what the reader has to say; more is added here.
        header: see `Scan`.

    Raises:
        ValueError: voxels without extent or of an absurd one, axes that coincide, or a single
            slice that is not axial. The message names the file.
    """
    array = stack.array.T
    _check_affine(affine, path, millimetres)
    nearest = nib.orientations.io_orientation(affine)  # per file axis: anatomical axis, direction
    axis_of = {int(anatomical): axis for axis, (anatomical, _) in enumerate(nearest)}
    axes = (axis_of[2], axis_of[1], axis_of[0])
    # An affine's axes grow to right, front and head: slices go that way, rows and columns do not.
    wanted = (1, -1, -1)
    flips = tuple(bool(nearest[axis, 1] != way) for axis, way in zip(axes, wanted, strict=True))
    voxels = _flip(array.transpose(axes), flips)
    if 1 in voxels.shape[1:]:
        raise ValueError(
            f"{path}: its axial slices have {voxels.shape[1]} x {voxels.shape[2]} pixels, expected "
            f"whole ones; it seems to be a coronal or sagittal picture, reslice or leave it out"
        )
    sizes = np.linalg.norm(affine[:3, :3], axis=0) * millimetres
    rows, columns = float(sizes[axes[1]]), float(sizes[axes[2]])
    volume = abs(float(np.linalg.det(affine[:3, :3]))) * millimetres**3
    return Scan(
        voxels=voxels,
        intensity=stack.intensity,
        spacing=(volume / (rows * columns), rows, columns),
        affine=affine,
        id=name_of(path),
        axes=axes,
        flips=(flips[0], flips[1], flips[2]),
        file_shape=file_shape,
        notes=(*notes, *_lean(affine, axes[0]), *stack.notes),
        header=header,
    )


def upright(
    stack: Stack,
    path: Path,
    *,
    spacing: tuple[float, float, float] | None,
    file_shape: tuple[int, ...],
) -> Scan:
    """A scan of pixels that already lie as `Scan.voxels` does: pictures and arrays.

    Args:
        stack: its array is [slices, rows, columns].
        path: the file.
        file_shape: [rows, columns] or [slices, rows, columns].
        spacing: millimetres, or None when unknown.

    Raises:
        ValueError: the spacing is not within 0.01 to 200 mm.
    """
    affine = None
    if spacing is not None:
        affine = np.diag([spacing[0], -spacing[1], -spacing[2], 1.0])[[2, 1, 0, 3]]
        _check_affine(affine, path, 1.0)
    return Scan(
        voxels=stack.array,
        intensity=stack.intensity,
        spacing=spacing,
        affine=affine,
        id=name_of(path),
        axes=(0, 1, 2),
        flips=(False, False, False),
        file_shape=file_shape,
        notes=tuple(stack.notes),
    )


def to_file_grid(array: np.ndarray, scan: Scan) -> np.ndarray:
    """Bring something computed on `scan.voxels` back onto the grid of the file, exactly.

    Args:
        array: [slices, rows, columns], any dtype.
        scan: the scan it belongs to.

    Returns:
        An array of shape `scan.file_shape`, in the file's own order of axes; a view where
        possible.

    Raises:
        ValueError: the array has another shape than the voxels.
    """
    if array.shape != scan.voxels.shape:
        raise ValueError(
            f"{scan.id}: array is {array.shape}, its scan is {scan.voxels.shape} "
            f"[slices, rows, columns]; both must be equal"
        )
    return _flip(array, scan.flips).transpose(np.argsort(scan.axes)).reshape(scan.file_shape)


def name_of(path: Path) -> str:
    """Name of a file or folder without the suffixes of scans."""
    name = path.resolve().name
    for suffix in (".nii.gz", ".nii", ".dcm", ".ima", ".png", ".jpg", ".jpeg", ".npy"):
        if name.lower().endswith(suffix) and not path.is_dir():
            return name[: -len(suffix)]
    return name


def _flip(array: np.ndarray, flips: tuple[bool, ...]) -> np.ndarray:
    return array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def _check_affine(affine: np.ndarray, path: Path, millimetres: float) -> None:
    sizes = np.linalg.norm(affine[:3, :3], axis=0) * millimetres
    low, high = SPACING_MM
    if not np.isfinite(affine).all() or (sizes < low).any() or (sizes > high).any():
        listed = " x ".join(f"{size:g}" for size in sizes)
        raise ValueError(
            f"{path}: voxels of {listed} mm, expected {low:g} to {high:g} mm; "
            f"correct the spacing (or its unit) and the position in the file"
        )
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(unit)) < UPRIGHT:
        raise ValueError(
            f"{path}: the axes of its grid are far from right angles, as no scanner makes them; "
            f"correct the orientation in the file"
        )


def _lean(affine: np.ndarray, through: int) -> list[str]:
    """Notes on a stack that leans, or that lies obliquely in the patient."""
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    notes = []
    plane = np.delete(unit, through, axis=1)
    normal = np.cross(plane[:, 0], plane[:, 1])
    normal /= np.linalg.norm(normal)
    tilt = np.degrees(np.arccos(min(1.0, abs(normal @ unit[:, through]))))
    if tilt > TILT_DEGREES:
        notes.append(
            f"the stack of slices leans by {tilt:.1f} degrees (gantry tilt); the slices are used "
            f"as they are and volumes allow for it"
        )
    turned = np.degrees(np.arccos(np.clip(np.abs(unit).max(axis=0).min(), 0, 1)))
    if turned > OBLIQUE_DEGREES and turned > tilt + 1:
        notes.append(
            f"the grid lies {turned:.0f} degrees off the patient's axes; its slices are used as "
            f"they are, which is not quite axial"
        )
    return notes
