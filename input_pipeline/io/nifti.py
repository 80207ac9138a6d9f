"""Read NIfTI volumes, and write label maps that have the geometry of a scan."""

import gzip
import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from input_pipeline.files import atomic_file
from input_pipeline.io.scan import Scan, Stack, axes_affine, grid_shape, oriented, to_file_grid

SUFFIXES = (".nii", ".nii.gz")
GZIP = b"\x1f\x8b"
DESCRIPTION_BYTES = 79  # of a NIfTI header, without the 0 at the end
LABEL_TOLERANCE = 0.01  # from a whole number, of a stored label
MOST_DEFLATED = 1032  # deflate cannot compress by a larger factor
MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # in each NIfTI unit; unknown counts as mm
AGAIN = "copy or download it again"


def read_nifti(path: Path, *, intensity: str, axes: str | None = None) -> Scan:
    """Read a NIfTI-1 or NIfTI-2 volume of any orientation, compressed or not.

    This needs the memory of the result (int16 if all values are integers) plus one slice. A
    compressed file is read to its end, so that its checksum is compared.

    Args:
        path: .nii or .nii.gz; the content decides whether it is compressed.
        intensity: 'hu' if the values are Hounsfield units (after the header's slope and intercept),
            'uint8' if they are grey values 0 to 255; the format does not state which.
        axes: the directions of the file's axes, one letter each of R/L, A/P and S/I ('RAS', 'LPS');
            used only if the file does not state them.

    Raises:
        ValueError: the file is empty, truncated, damaged or not NIfTI; it has several frames;
            values are NaN, infinite, out of range, complex or coloured; the spacing is not between
            0.01 and 200 mm; neither the file nor `axes` states the orientation. The message names
            the file.
        OSError: the file cannot be opened.
    """
    size = path.stat().st_size
    if path.is_file() and not size:
        raise ValueError(f"{path}: the file is empty; {AGAIN}")
    # In a damaged file, floats can overflow before the checks below find them.
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


def read_nibabel(
    image: nib.spatialimages.SpatialImage, *, intensity: str, axes: str | None = None
) -> Scan:
    """Return the scan of an image of nibabel, as `read_nifti` reads it from its file.

    Args:
        image: an image in memory or from a file; NIfTI, or any other format whose affine nibabel
            reads.
        intensity: as for `read_nifti`.
        axes: as for `read_nifti`.

    Raises:
        ValueError: as for `read_nifti`.
        OSError: the file of the image cannot be read.
    """
    path = Path(image.get_filename() or "image")
    header = image.header
    if not isinstance(header, nib.Nifti1Header):  # a NIfTI header of the same shape and affine
        header = nib.Nifti1Image(np.broadcast_to(np.uint8(0), image.shape), image.affine).header
    affine, millimetres, notes = _geometry(header, path, axes)
    slope, inter = 1.0, 0.0
    data: Any = image.dataobj
    if type(data) is nib.arrayproxy.ArrayProxy:  # subclasses scale in other ways, by themselves
        slope, inter = float(data.slope), float(data.inter)
        data = data.get_unscaled()
    array = np.asarray(data)
    _check_shape(array.shape, path)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{path}: voxels are {array.dtype}, expected grey values, such as int16")
    volume = array.reshape((*array.shape[:3], 1)[:3])
    stack = Stack((volume.shape[2], volume.shape[1], volume.shape[0]), intensity)
    for index in range(len(stack.array)):
        values = volume[..., index].T
        stack.put(index, values if (slope, inter) == (1.0, 0.0) else values * slope + inter, path)
    return oriented(
        stack,
        affine,
        path,
        file_shape=array.shape,
        millimetres=millimetres,
        notes=notes,
        header=header,
    )


def write_nifti_mask(path: Path, mask: np.ndarray, scan: Scan, description: str = "") -> None:
    """Write a mask as a uint8 NIfTI label map on the grid of its scan, completely or not at all.

    Args:
        path: the file, .nii.gz (compressed) or .nii.
        mask: `[slices, rows, columns]` as `scan.voxels`, whole numbers 0 to 255.
        scan: the scan that the mask belongs to, see `nifti_mask`.
        description: text for the header, cut to its 79 bytes.

    Raises:
        ValueError: the path has another suffix, or the mask does not fit the scan.
        OSError: the file cannot be written.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{path}: has the suffix {path.suffix!r}, expected .nii or .nii.gz")
    image = nifti_mask(mask, scan)
    image.header["descrip"] = description.encode("ascii", "replace")[:DESCRIPTION_BYTES]
    with atomic_file(path) as temporary, temporary.open("wb") as raw:
        if path.name.lower().endswith(".gz"):
            # No name and no time inside: equal masks give equal files.
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
                image.to_stream(file)
        else:
            image.to_stream(raw)


def read_labels(path: Path, labels: Sequence[int], *, axes: str | None = None) -> Scan:
    """Read a NIfTI label map in the orientation of `read_nifti`.

    A value within 0.01 of a whole number is that number: programs store labels with a scale, or as
    the result of a computation.

    Args:
        path: as for `read_nifti`.
        labels: the labels that the map may hold.
        axes: as for `read_nifti`.

    Returns:
        A scan whose voxels are uint8 labels.

    Raises:
        ValueError: as for `read_nifti`, or the map holds other values; the message lists them.
        OSError: the file cannot be opened.
    """
    scan = read_nifti(path, intensity="hu", axes=axes)
    found: set[float] = set()
    for values in scan.voxels:
        whole = np.rint(values)
        near = np.abs(values - whole) <= LABEL_TOLERANCE
        found |= {float(value) for value in np.unique(np.where(near, whole, values))}
    stray = sorted(found - set(labels))
    if stray:
        listed = ", ".join(f"{value:g}" for value in stray[:8]) + ", ..." * (len(stray) > 8)
        raise ValueError(
            f"{path}: holds the values {listed}, expected only the labels "
            f"{', '.join(map(str, labels))}; change the labels or name another file"
        )
    return replace(scan, voxels=np.rint(scan.voxels).astype(np.uint8), intensity="uint8", notes=())


def same_grid(one: Scan, other: Scan, *, tolerance: float = 0.1) -> str:
    """Return the reason why two scans are not on the same grid; an empty string if they are.

    Args:
        one: a scan.
        other: another scan.
        tolerance: largest distance, in voxels, by which the position of a voxel may differ, since
            headers round their numbers.
    """
    if grid_shape(one) != grid_shape(other):
        return f"{_by(grid_shape(one))} voxels against {_by(grid_shape(other))}"
    if one.affine is None or other.affine is None:
        return ""
    distance = np.abs(_corners(one) - _corners(other)).max()
    smallest = np.linalg.norm(one.affine[:3, :3], axis=0).min()
    if distance > tolerance * smallest:
        return f"their affines place a voxel {distance:.3g} mm apart"
    return ""


def _corners(scan: Scan) -> np.ndarray:
    """Return the world coordinates of the corner voxels of `scan.voxels`, `[8, 3]`."""
    assert scan.affine is not None
    places = []
    for corner in itertools.product((False, True), repeat=3):
        own = [0.0, 0.0, 0.0, 1.0]
        for last, axis, flip, size in zip(
            corner, scan.axes, scan.flips, grid_shape(scan), strict=True
        ):
            own[axis] = size - 1 if last != flip else 0
        places.append(scan.affine @ own)
    return np.array(places)[:, :3]


def _by(shape: Sequence[int]) -> str:
    """Return a shape as text, such as '4 x 20 x 30'."""
    return " x ".join(map(str, shape))


def nifti_mask(mask: np.ndarray, scan: Scan) -> nib.Nifti1Image:
    """Return a mask as a NIfTI label map on the grid of its scan's file.

    Shape, affine, units and the codes of both transforms are those of the file. Its free text and
    extensions, which may name a patient, are not copied.

    Args:
        mask: `[slices, rows, columns]` as `scan.voxels`, whole numbers 0 to 255.
        scan: the scan that the mask belongs to. For a DICOM scan the image is in millimetres, and
            its axes are columns, rows and planes, see `Scan.planes`.

    Returns:
        A uint8 image that nibabel can save.

    Raises:
        ValueError: the mask has another shape than the scan or other values, or the scan has no
            spacing.
    """
    values = np.asarray(mask)
    if values.dtype.kind not in "biu" or (
        values.size and not 0 <= values.min() <= values.max() < 256
    ):
        raise ValueError(f"{scan.id}: mask is {values.dtype}, expected whole numbers 0 to 255")
    own = to_file_grid(values.astype(np.uint8, copy=False), scan)
    if scan.affine is None:
        raise ValueError(
            f"{scan.id}: its spacing is unknown, expected one for a NIfTI mask; state the spacing"
        )
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
    """Return an image in millimetres with a new header."""
    image = nib.Nifti1Image(own, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    # A qform cannot represent a leaning stack: if it contradicts the sform it stays unset.
    image.set_qform(affine, code="scanner")
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(None, code="unknown")
    return image


def _read_header(file: BinaryIO, path: Path) -> nib.Nifti1Header:
    """Read the header, without extensions, and check it."""
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
    _check_shape(header.get_data_shape(), path)
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
            f"{path}: states {int(header['bitpix'])} bits per voxel of {dtype}, expected "
            f"{8 * dtype.itemsize}; the header is damaged, {AGAIN}"
        )
    return header


def _check_shape(shape: Sequence[int], path: Path) -> None:
    """Check that a shape is that of one slice or one volume, with or without axes of length 1."""
    if not 2 <= len(shape) <= 7 or min(shape) < 1 or any(n > 1 for n in shape[3:]):
        raise ValueError(
            f"{path}: has the shape {tuple(map(int, shape))}, expected 2 or 3 axes and at most one "
            f"frame; save each frame as a file of its own"
        )


def _geometry(
    header: nib.Nifti1Header, path: Path, axes: str | None
) -> tuple[np.ndarray, float, tuple[str, ...]]:
    """Return the affine, the millimetres in one unit of it, and notes."""
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
    except ValueError as error:  # the quaternion is not that of a rotation
        raise ValueError(f"{path}: damaged header (qform: {error}); {AGAIN}") from None
    affine = header.get_sform() if codes[0] else qform
    if not np.isfinite(affine).all():
        raise ValueError(f"{path}: its affine holds NaN or infinity; correct its sform or qform")
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
    """Return the affine of a file without orientation, from the axes that the caller states."""
    if axes is None:
        raise ValueError(
            f"{path}: does not state its orientation (no sform, no qform), so left and right are "
            f"unknown; set one of them, or state its axes (for instance 'LPS')"
        )
    return axes_affine(axes, sizes)


def _read_voxels(
    file: BinaryIO, header: nib.Nifti1Header, most: int, path: Path, intensity: str
) -> Stack:
    """Read the voxels slice by slice along the file's last axis.

    Args:
        file: the uncompressed file, anywhere.
        header: its checked header.
        most: number of bytes that the file can hold at most.
        path: the file, for messages.
        intensity: 'hu' or 'uint8'.
    """
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
            f"{path}: has more bytes than its {i} x {j} x {k} voxels of {dtype}; the header is "
            f"damaged, {AGAIN}"
        )
    return stack


def _offset(header: nib.Nifti1Header, path: Path) -> int:
    """Return the position in the file of the first voxel."""
    offset = float(header["vox_offset"])
    if not header.sizeof_hdr <= offset < 2**31 or offset != int(offset):
        raise ValueError(
            f"{path}: voxels begin at byte {offset:g}, expected {header.sizeof_hdr + 4} or later; "
            f"the header is damaged, {AGAIN}"
        )
    return math.floor(offset)


def _read(file: BinaryIO, count: int) -> bytes:
    """Return the next `count` bytes, or fewer at the end of the file."""
    parts = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _three(sizes: np.ndarray) -> str:
    """Return sizes as text, such as '0.5 x 0.75 x 2.5'."""
    return " x ".join(f"{size:.4g}" for size in sizes)
