"""Read NIfTI volumes, and write label maps that have the geometry of a scan."""

import gzip
import itertools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from input_pipeline.files import atomic_file
from input_pipeline.io.nifti_header import (
    AGAIN,
    HEADERS,
    PAIR,
    check_shape,
    geometry,
    pair_of,
    read_header,
    voxel_offset,
)
from input_pipeline.io.scan import Scan, grid_shape, oriented, to_file_grid
from input_pipeline.io.stack import Stack

WRITTEN = (".nii", ".nii.gz")
SUFFIXES = (*WRITTEN, *HEADERS)  # of the files in a folder that stand for volumes
GZIP = b"\x1f\x8b"
NO_MEMBER = "Not a gzipped file"  # what Python's gzip says of bytes after the last member
DESCRIPTION_BYTES = 79  # of a NIfTI header, without the 0 at the end
LABEL_TOLERANCE = 0.01  # from a whole number, of a stored label
MOST_DEFLATED = 1032  # deflate cannot compress by a larger factor
CHUNK = 1 << 20  # bytes that are read at once after the voxels


def read_nifti(path: Path, *, intensity: str, axes: str | None = None, check: bool = True) -> Scan:
    """Read a NIfTI-1 or NIfTI-2 volume of any orientation, compressed or not.

    This needs the memory of the result (int16 if all values are integers) plus one slice. A
    compressed file is read to its end, so that its checksum is compared. A valid sform counts more
    than all else in the header; what contradicts it gets a note, and so do bytes after the voxels.

    Args:
        path: .nii, .nii.gz, or the .hdr or .img of a pair; the content decides whether it is
            compressed.
        intensity: 'hu' if the values are Hounsfield units (after the header's slope and intercept),
            'uint8' if they are grey values 0 to 255, or fractions of the window 0 to 1; the format
            does not state which.
        axes: the directions of the file's axes, one letter each of R/L, A/P and S/I ('RAS', 'LPS');
            used only if the file does not state them, or states a program's default.
        check: whether values unlike the intensity get a note.

    Raises:
        ValueError: the file is empty, truncated, damaged or not NIfTI; it has several frames;
            values are NaN, infinite, out of range, complex or coloured; the spacing is not between
            0.01 and 200 mm; neither the file nor `axes` states the orientation; half of a pair is
            missing. The message names the file.
        OSError: the file cannot be opened.
    """
    head, body = pair_of(path)
    with _opened(head) as (file, most):
        header = read_header(file, head)
        place = geometry(header, head, axes)
        if bytes(header["magic"])[:3] in PAIR and head == body:
            raise ValueError(
                f"{path}: is the header of a pair (magic {bytes(header['magic'])!r}), expected a "
                f"single file; name it .hdr beside its .img, or convert it to .nii.gz"
            )
        if head == body:
            stack, after = _read_voxels(file, header, most, path, intensity, pair=False)
    if head != body:
        with _opened(body) as (file, most):
            stack, after = _read_voxels(file, header, most, body, intensity, pair=True)
    return oriented(
        stack,
        place.affine,
        path,
        file_shape=header.get_data_shape(),
        millimetres=place.millimetres,
        notes=(*place.notes, *after),
        header=place.header,
        stated_axes=place.stated_axes,
        check=check,
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
    place = geometry(header, path, axes)
    slope, inter = 1.0, 0.0
    data: Any = image.dataobj
    if type(data) is nib.arrayproxy.ArrayProxy:  # subclasses scale in other ways, by themselves
        slope, inter = float(data.slope), float(data.inter)
        data = data.get_unscaled()
    array = np.asarray(data)
    check_shape(array.shape, path)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{path}: voxels are {array.dtype}, expected grey values, such as int16")
    volume = array.reshape((*array.shape[:3], 1)[:3])
    stack = Stack((volume.shape[2], volume.shape[1], volume.shape[0]), intensity)
    for index in range(len(stack.array)):
        values = volume[..., index].T
        stack.put(index, values if (slope, inter) == (1.0, 0.0) else values * slope + inter, path)
    return oriented(
        stack,
        place.affine,
        path,
        file_shape=array.shape,
        millimetres=place.millimetres,
        notes=place.notes,
        header=place.header,
        stated_axes=place.stated_axes,
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
    if not path.name.lower().endswith(WRITTEN):
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


def read_labels(
    path: Path,
    labels: Sequence[int],
    *,
    axes: str | None = None,
    remedy: str = "change the labels or name another file",
) -> Scan:
    """Read a NIfTI label map in the orientation of `read_nifti`.

    A value within 0.01 of a whole number is that number: programs store labels with a scale, or as
    the result of a computation.

    Args:
        path: as for `read_nifti`.
        labels: the labels that the map may hold.
        axes: as for `read_nifti`.
        remedy: what to do about other labels, for the message.

    Returns:
        A scan whose voxels are uint8 labels; its notes are about its geometry.

    Raises:
        ValueError: as for `read_nifti`, or the map holds other values; the message lists them.
        OSError: the file cannot be opened.
    """
    scan = read_nifti(path, intensity="hu", axes=axes, check=False)
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
            f"{', '.join(map(str, labels))}; {remedy}"
        )
    return replace(scan, voxels=np.rint(scan.voxels).astype(np.uint8), intensity="uint8")


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


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file, decompressed, and name it in the errors of its decoders.

    Yields:
        The stream, and the number of bytes that it can hold at most.
    """
    size = path.stat().st_size
    if path.is_file() and not size:
        raise ValueError(f"{path}: the file is empty; {AGAIN}")
    # In a damaged file, floats can overflow before they are checked.
    with path.open("rb") as raw, np.errstate(over="ignore", invalid="ignore"):
        packed = raw.read(2) == GZIP
        raw.seek(0)
        file: BinaryIO = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
        try:
            yield file, size * MOST_DEFLATED if packed else size
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: truncated or damaged ({error}); {AGAIN}") from None
        except HeaderDataError as error:
            raise ValueError(f"{path}: damaged header ({error}); {AGAIN}") from None


def _read_voxels(
    file: BinaryIO,
    header: nib.Nifti1Header,
    most: int,
    path: Path,
    intensity: str,
    *,
    pair: bool,
) -> tuple[Stack, list[str]]:
    """Read the voxels slice by slice along the file's last axis.

    Args:
        file: the uncompressed file, anywhere before its first voxel.
        header: its checked header.
        most: number of bytes that the file can hold at most.
        path: the file, for messages.
        intensity: 'hu' or 'uint8'.
        pair: whether the file holds the voxels alone.

    Returns:
        The volume, and notes about bytes after it.
    """
    dtype = header.get_data_dtype()
    i, j, k = (*map(int, header.get_data_shape()[:3]), 1)[:3]
    offset = voxel_offset(header, path, pair=pair)
    wanted = offset + i * j * k * dtype.itemsize
    if wanted > most:
        raise ValueError(
            f"{path}: holds at most {most} bytes, expected {wanted} for {i} x {j} x {k} voxels of "
            f"{dtype}; it is truncated or its header damaged, {AGAIN}"
        )
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
    return stack, _after(file, f"{i} x {j} x {k}")


def _after(file: BinaryIO, voxels: str) -> list[str]:
    """Read a file to its end, and return a note if there is anything after the voxels."""
    count = 0
    try:
        while part := file.read(CHUNK):
            count += len(part)
    except gzip.BadGzipFile as error:
        if NO_MEMBER not in str(error):  # a wrong checksum
            raise
        return ["bytes after its compressed data are ignored; if it is damaged, copy it again"]
    if not count:
        return []
    return [
        f"{count} bytes after its {voxels} voxels are ignored; if slices are missing, its header "
        f"is damaged: {AGAIN}"
    ]


def _read(file: BinaryIO, count: int) -> bytes:
    """Return the next `count` bytes, or fewer at the end of the file."""
    parts = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
