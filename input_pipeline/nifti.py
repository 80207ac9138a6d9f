"""NIfTI volumes in, label maps with the same geometry out."""

import gzip
import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from input_pipeline.scans import ANATOMICAL, Scan, Stack, oriented, to_file_grid

SUFFIXES = (".nii", ".nii.gz")
GZIP = b"\x1f\x8b"
MOST_DEFLATED = 1032  # deflate never shrinks more than that
MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # per NIfTI unit; unknown counts as mm
AGAIN = "copy or download it again"


def read_nifti(path: Path, *, intensity: str, axes: str | None = None) -> Scan:
    """Read a NIfTI-1 or NIfTI-2 volume of any orientation, compressed or not.

    Memory is that of the result (int16 when all values are integers) plus one slice. A compressed
    file is read to its end, so that its checksum is compared.

    Args:
        path: .nii or .nii.gz; the bytes decide whether it is compressed.
        intensity: 'hu' when the values are Hounsfield units (after the header's slope and
            intercept), 'uint8' when they are grey values 0..255; the format cannot say which.
        axes: where the file's axes point to, as letters of R/L, A/P, S/I ('RAS', 'LPS'); used
            only where the file itself does not say.

    Raises:
        ValueError: empty, truncated, damaged or no NIfTI; not one frame; values that are NaN,
            infinite, out of range, complex or coloured; zero or absurd spacing; no orientation
            and no `axes`. The message names the file.
        OSError: the file cannot be opened.
    """
    size = path.stat().st_size
    if path.is_file() and not size:
        raise ValueError(f"{path}: the file is empty; {AGAIN}")
    # Damaged floats overflow or signal before the checks find them.
    with path.open("rb") as raw, np.errstate(over="ignore", invalid="ignore"):
        packed = raw.read(2) == GZIP
        raw.seek(0)
        file: BinaryIO = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
        try:
            header = _read_header(file, path)
            affine, millimetres, notes = _geometry(header, path, axes)
            stack = _read_voxels(
                file, header, size * MOST_DEFLATED if packed else size, path, intensity
            )
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: truncated or damaged ({error}); {AGAIN}") from None
        except HeaderDataError as error:
            raise ValueError(f"{path}: damaged header ({error}); {AGAIN}") from None
    return oriented(
        stack,
        affine,
        path,
        file_shape=header.get_data_shape(),
        millimetres=millimetres,
        notes=notes,
        header=header,
    )


def read_labels(path: Path, labels: Sequence[int], *, axes: str | None = None) -> Scan:
    """Read a label map, its slices lying as those of `read_nifti`.

    Args:
        path: as for `read_nifti`.
        labels: what the map may hold.
        axes: as for `read_nifti`.

    Returns:
        A scan whose voxels are uint8 labels.

    Raises:
        ValueError: as `read_nifti`, or values that are no such labels; they are listed.
        OSError: the file cannot be opened.
    """
    scan = read_nifti(path, intensity="hu", axes=axes)
    found = {float(value) for values in scan.voxels for value in np.unique(values)}
    stray = sorted(found - set(labels))
    if stray:
        listed = ", ".join(f"{value:g}" for value in stray[:8]) + ", ..." * (len(stray) > 8)
        raise ValueError(
            f"{path}: holds the values {listed}, expected only the labels "
            f"{', '.join(map(str, labels))}; relabel it or name the right file"
        )
    return replace(scan, voxels=scan.voxels.astype(np.uint8), intensity="uint8", notes=())


def same_grid(one: Scan, other: Scan, *, tolerance: float = 0.1) -> str:
    """Why two scans do not lie on one grid; empty where they do.

    Args:
        one, other: as read.
        tolerance: of the place of every voxel, in voxels; headers round their numbers.
    """
    if one.voxels.shape != other.voxels.shape:
        return f"{_by(one.voxels.shape)} voxels against {_by(other.voxels.shape)}"
    if one.affine is None or other.affine is None:
        return ""
    apart = np.abs(_corners(one) - _corners(other)).max()
    smallest = np.linalg.norm(one.affine[:3, :3], axis=0).min()
    if apart > tolerance * smallest:
        return f"their affines place a voxel {apart:.3g} mm apart"
    return ""


def _corners(scan: Scan) -> np.ndarray:
    """World coordinates of the corner voxels of `scan.voxels`, [8, 3]."""
    assert scan.affine is not None
    places = []
    for corner in itertools.product((False, True), repeat=3):
        own = [0.0, 0.0, 0.0, 1.0]
        for last, axis, flip, size in zip(
            corner, scan.axes, scan.flips, scan.voxels.shape, strict=True
        ):
            own[axis] = size - 1 if last != flip else 0
        places.append(scan.affine @ own)
    return np.array(places)[:, :3]


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def nifti_mask(mask: np.ndarray, scan: Scan) -> nib.Nifti1Image:
    """A mask as a NIfTI label map on the grid of the scan's file.

    Shape, affine, units and the codes of both transforms are those of the file; its free text
    and extensions, which may name a patient, are not taken over.

    Args:
        mask: [slices, rows, columns] of `scan.voxels`; whole numbers 0..255.
        scan: where it belongs. A DICOM scan gives a file in millimetres whose axes are columns,
            rows and slices.

    Returns:
        A uint8 image that nibabel can save.

    Raises:
        ValueError: another shape than the scan, other values, or a scan of unknown geometry.
    """
    values = np.asarray(mask)
    if values.dtype.kind not in "biu" or (
        values.size and not 0 <= values.min() <= values.max() < 256
    ):
        raise ValueError(f"{scan.id}: mask is {values.dtype}, expected whole numbers 0 to 255")
    own = to_file_grid(values.astype(np.uint8, copy=False), scan)
    if scan.affine is None:
        raise ValueError(f"{scan.id}: its spacing is unknown, so its mask cannot be a NIfTI file")
    if scan.header is None:
        return _fresh(own if own.ndim == 3 else own[None], scan.affine)
    header = scan.header.copy()
    header.set_data_dtype(np.uint8)
    for name in ("descrip", "aux_file", "intent_name"):
        header[name] = b""
    for name in ("vox_offset", "cal_min", "cal_max"):
        header[name] = 0
    image = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    return image(own, header.get_best_affine(), header)


def _fresh(own: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    image = nib.Nifti1Image(own, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    # A qform cannot lean: where it would contradict the sform it stays unset.
    image.set_qform(affine, code="scanner")
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(None, code="unknown")
    return image


def _read_header(file: BinaryIO, path: Path) -> nib.Nifti1Header:
    """The checked header, without extensions."""
    block = file.read(nib.Nifti1Header.sizeof_hdr)
    kind = nib.Nifti1Header
    if len(block) >= 12 and block[4:8] == b"n+2\0":
        block += file.read(nib.Nifti2Header.sizeof_hdr - len(block))
        kind = nib.Nifti2Header
    if len(block) < kind.sizeof_hdr:
        raise ValueError(f"{path}: ends within its header ({len(block)} bytes); {AGAIN}")
    header = kind(block, check=False)
    magic = bytes(header["magic"])
    if int(header["sizeof_hdr"]) != kind.sizeof_hdr or magic[:3] not in (b"n+1", b"n+2"):
        raise ValueError(
            f"{path}: begins with {block[:4]!r} and has the magic {magic[:4]!r}, expected a "
            f"single-file NIfTI; convert it to .nii.gz"
        )
    shape = header.get_data_shape()
    if not 2 <= len(shape) <= 7 or min(shape) < 1 or any(n > 1 for n in shape[3:]):
        raise ValueError(
            f"{path}: has the shape {tuple(map(int, shape))}, expected 2 or 3 axes and at most one "
            f"frame; save each frame as a file of its own"
        )
    try:
        dtype = header.get_data_dtype()
    except KeyError as error:
        raise ValueError(f"{path}: damaged header (unknown data type {error}); {AGAIN}") from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ValueError(
            f"{path}: voxels are {dtype} (coloured, complex or of unusual width), expected grey "
            f"values; save it as int16"
        )
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        raise ValueError(
            f"{path}: says {int(header['bitpix'])} bits per voxel of {dtype}; the header is "
            f"damaged, {AGAIN}"
        )
    return header


def _geometry(
    header: nib.Nifti1Header, path: Path, axes: str | None
) -> tuple[np.ndarray, float, tuple[str, ...]]:
    """Affine, millimetres per unit, and notes."""
    sizes = np.asarray(header["pixdim"][1:4], np.float64)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise ValueError(
            f"{path}: voxel sizes (pixdim) are {' x '.join(f'{size:g}' for size in sizes)}, "
            f"expected positive millimetres; set them in the header"
        )
    unit, codes = (
        int(header["xyzt_units"]) & 7,
        (int(header["sform_code"]), int(header["qform_code"])),
    )
    if unit not in MILLIMETRES or not all(0 <= code <= 5 for code in codes):
        raise ValueError(
            f"{path}: unit {unit} and transform codes {codes}, expected 0 to 3 and 0 to 5; the "
            f"header is damaged, {AGAIN}"
        )
    if not any(codes):
        return _stated(sizes, path, axes), MILLIMETRES[unit], ()
    try:
        qform = header.get_qform() if codes[1] else header.get_sform()
    except ValueError as error:  # no rotation has such a quaternion
        raise ValueError(f"{path}: damaged header (qform: {error}); {AGAIN}") from None
    affine = header.get_sform() if codes[0] else qform
    if not np.isfinite(affine).all():
        raise ValueError(f"{path}: its affine holds NaN or infinity; set sform or qform again")
    notes = []
    found = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(found, sizes, rtol=0.01):
        notes.append(
            f"the header's voxel sizes {_three(sizes)} disagree with its sform {_three(found)}, "
            f"which is used"
        )
    elif not np.allclose(qform, affine, atol=0.1 * sizes.min()):
        notes.append("the header's qform and sform place the scan differently; sform is used")
    return affine, MILLIMETRES[unit], tuple(notes)


def _stated(sizes: np.ndarray, path: Path, axes: str | None) -> np.ndarray:
    """The affine of a file without orientation, from what the caller states."""
    if axes is None:
        raise ValueError(
            f"{path}: does not say how it lies in the patient (no sform, no qform), so left and "
            f"right are unknown; set one, or state its axes (for instance 'LPS')"
        )
    pairs = ("RL", "AP", "SI")
    order = [next((n for n, pair in enumerate(pairs) if letter in pair), -1) for letter in axes]
    if sorted(order) != [0, 1, 2]:
        raise ValueError(f"axes is {axes!r}, expected one each of R/L, A/P and S/I, as in 'LPS'")
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (row, letter) in enumerate(zip(order, axes, strict=True)):
        affine[row, column] = sizes[column] * (1 if letter == ANATOMICAL[row] else -1)
    return affine


def _read_voxels(
    file: BinaryIO, header: nib.Nifti1Header, most: int, path: Path, intensity: str
) -> Stack:
    """Voxels slice by slice along the file's last axis; `most` bounds the bytes there can be."""
    dtype = header.get_data_dtype()
    i, j, k = (*map(int, header.get_data_shape()[:3]), 1)[:3]
    offset = _offset(header, path)
    wanted = offset + i * j * k * dtype.itemsize
    if wanted > most:
        raise ValueError(
            f"{path}: holds at most {most} bytes, expected {wanted} for {i} x {j} x {k} voxels of "
            f"{dtype}; it is truncated or its header damaged, {AGAIN}"
        )
    if np.isinf(header["scl_slope"]):
        raise ValueError(f"{path}: damaged header (scl_slope is infinite); {AGAIN}")
    slope, inter = header.get_slope_inter()  # None where slope is 0 or NaN: not scaled
    slope, inter = 1.0 if slope is None else float(slope), 0.0 if inter is None else float(inter)
    file.seek(offset)
    stack = Stack((k, j, i), intensity)
    for index in range(k):
        data = _read(file, i * j * dtype.itemsize)
        if len(data) < i * j * dtype.itemsize:
            raise ValueError(
                f"{path}: ends in slice {index} of {k} along its last axis, expected "
                f"{i * j} voxels in each; it is truncated, {AGAIN}"
            )
        values = np.frombuffer(data, dtype).reshape(j, i)
        if (slope, inter) != (1.0, 0.0):
            values = values * np.float64(slope) + inter
        stack.put(index, values, path)
    if file.read(1):
        raise ValueError(
            f"{path}: goes on after its {i} x {j} x {k} voxels of {dtype}; the header is damaged, "
            f"{AGAIN}"
        )
    return stack


def _offset(header: nib.Nifti1Header, path: Path) -> int:
    offset = float(header["vox_offset"])
    if not header.sizeof_hdr <= offset < 2**31 or offset != int(offset):
        raise ValueError(
            f"{path}: voxels begin at byte {offset:g}, expected {header.sizeof_hdr + 4} or more; "
            f"the header is damaged, {AGAIN}"
        )
    return math.floor(offset)


def _read(file: BinaryIO, count: int) -> bytes:
    """`count` bytes, or fewer at the end of the file."""
    parts = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _three(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
