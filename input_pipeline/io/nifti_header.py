"""The header of a NIfTI file: what it may state, and the geometry that it gives the voxels."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from input_pipeline.io.doubts import orientation_doubt
from input_pipeline.io.scan import SPACING_MM, axes_affine

MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # in each NIfTI unit; unknown counts as mm
MM_UNIT = 2
SINGLE, PAIR = (b"n+1", b"n+2"), (b"ni1", b"ni2")  # magics: voxels in the same file, or in .img
HEADERS, VOXELS = (".hdr", ".hdr.gz"), (".img", ".img.gz")  # of a pair of files
AGAIN = "copy or download it again"
LEAST_SIZE = 0.01  # relative difference of voxel sizes that gets a note
OFF_GRID = 0.1  # voxels by which qform and sform may differ without a note


class Geometry(NamedTuple):
    """Where the voxels of a file lie.

    Attributes:
        affine: `[4, 4]` from voxel indices to right, front, head.
        millimetres: in one unit of the affine.
        header: the file's header without what is wrong in it, for masks on the same grid.
        stated_axes: the user's axes, if the affine is made from them.
        notes: sentences about what is wrong in the header, and which part of it is used.
    """

    affine: np.ndarray
    millimetres: float
    header: nib.Nifti1Header
    stated_axes: str | None
    notes: tuple[str, ...]


def files_of(path: Path) -> list[Path]:
    """List the files in which a volume is stored: the file itself, and the other of a pair.

    Args:
        path: the file, or either of a pair; it need not exist.
    """
    name = path.name.lower()
    for own, others in ((HEADERS, VOXELS), (VOXELS, HEADERS)):
        for suffix in own[::-1]:
            if name.endswith(suffix):
                ends = (*others, *map(str.upper, others))
                beside = (path.with_name(path.name[: -len(suffix)] + end) for end in ends)
                other = next((file for file in beside if file.exists()), None)
                return [path] if other is None else [path, other]
    return [path]


def pair_of(path: Path) -> tuple[Path, Path]:
    """Return the files that hold header and voxels: one file twice, or the two of a pair.

    Args:
        path: the file, or either of the pair.

    Raises:
        ValueError: the other of the pair is missing.
    """
    name = path.name.lower()
    if not name.endswith((*HEADERS, *VOXELS)):
        return path, path
    files = files_of(path)
    if len(files) == 1:
        end = ".img" if name.endswith(HEADERS) else ".hdr"
        stem = path.name[: name.rindex(".hdr" if end == ".img" else ".img")]
        raise ValueError(
            f"{path}: is half of a pair, expected {stem}{end} or {stem}{end}.gz beside it; copy it "
            f"there"
        )
    return (files[0], files[1]) if name.endswith(HEADERS) else (files[1], files[0])


def read_header(file: BinaryIO, path: Path) -> nib.Nifti1Header:
    """Read the header, without extensions, and check what voxels it states.

    Args:
        file: the uncompressed file at its beginning.
        path: the file, for messages.

    Raises:
        ValueError: it is no NIfTI header, or states other voxels than one frame of grey values.
    """
    block = file.read(nib.Nifti1Header.sizeof_hdr)
    kind = nib.Nifti1Header
    if len(block) >= 12 and block[4:8] in (b"n+2\0", b"ni2\0"):
        block += file.read(nib.Nifti2Header.sizeof_hdr - len(block))
        kind = nib.Nifti2Header
    if len(block) < kind.sizeof_hdr:
        raise ValueError(f"{path}: ends within its header ({len(block)} bytes); {AGAIN}")
    header = kind(block, check=False)
    magic = bytes(header["magic"])
    if int(header["sizeof_hdr"]) != kind.sizeof_hdr or magic[:3] not in (*SINGLE, *PAIR):
        what = "a single-file NIfTI or the .hdr of a pair; convert it to .nii.gz"
        if int(header["sizeof_hdr"]) == kind.sizeof_hdr and not magic.strip(b"\0"):
            what = (
                "a NIfTI: it is in the format Analyze, which does not state left and right; convert"
                " it to .nii.gz with a program that is told its orientation"
            )
        raise ValueError(
            f"{path}: begins with {block[:4]!r} and has the magic {magic[:4]!r}, expected {what}"
        )
    check_shape(header.get_data_shape(), path)
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
    if np.isinf(header["scl_slope"]):
        raise ValueError(f"{path}: damaged header (scl_slope is infinite); {AGAIN}")
    return header


def check_shape(shape: Sequence[int], path: Path) -> None:
    """Check that a shape is that of one slice or one volume, with or without axes of length 1.

    Args:
        shape: of the file's array.
        path: the file, for the message.

    Raises:
        ValueError: it has several frames, an empty axis, or fewer than two axes.
    """
    if not 2 <= len(shape) <= 7 or min(shape) < 1 or any(n > 1 for n in shape[3:]):
        raise ValueError(
            f"{path}: has the shape {tuple(map(int, shape))}, expected 2 or 3 axes and at most one "
            f"frame; save each frame as a file of its own"
        )


def voxel_offset(header: nib.Nifti1Header, path: Path, *, pair: bool) -> int:
    """Return the position of the first voxel in its file.

    Args:
        header: a checked header.
        path: the file, for the message.
        pair: whether the voxels are in a file of their own.

    Raises:
        ValueError: the position is no whole number, or lies within the header.
    """
    offset, least = float(header["vox_offset"]), 0 if pair else int(header.sizeof_hdr)
    if not least <= offset < 2**31 or offset != int(offset):
        raise ValueError(
            f"{path}: voxels begin at byte {offset:g}, expected {least + (0 if pair else 4)} or "
            f"later; the header is damaged, {AGAIN}"
        )
    return math.floor(offset)


def geometry(header: nib.Nifti1Header, path: Path, axes: str | None) -> Geometry:
    """Return the geometry of a file: by its sform, else its qform, else the user's axes.

    The user's axes also count where the header's affine is only a program's default.

    Args:
        header: a checked header.
        path: the file, for messages.
        axes: directions of the file's axes that the user states, as in 'LPS'; None if not stated.

    Raises:
        ValueError: unit or codes that NIfTI does not have, no orientation and none stated, or
            neither transform can be used.
    """
    header, sizes = header.copy(), np.asarray(header["pixdim"][1:4], np.float64)
    unit, codes = int(header["xyzt_units"]) & 7, _codes(header)
    if unit not in MILLIMETRES or not all(0 <= code <= 5 for code in codes):
        raise ValueError(
            f"{path}: unit {unit} and transform codes {codes}, expected 0 to 3 and 0 to 5; the "
            f"header is damaged, {AGAIN}"
        )
    if not any(codes):
        if axes is None:
            raise ValueError(
                f"{path}: does not state its orientation (no sform, no qform), so left and right "
                f"are unknown; set one of them, or state its axes (for instance 'LPS', by "
                f"--axes LPS)"
            )
        _check_sizes(sizes, path)
        millimetres, notes = _millimetres(header, sizes)
        return Geometry(axes_affine(axes, sizes), millimetres, header, axes, tuple(notes))
    affine, notes = _affine(header, sizes, path)
    found = np.linalg.norm(affine[:3, :3], axis=0)
    millimetres, more = _millimetres(header, found)
    doubt = orientation_doubt(affine, sizes)
    if axes is not None:
        stated = axes_affine(axes, found)
        if doubt:
            return Geometry(stated, millimetres, header, axes, (*notes, *more))
        own = "".join(nib.aff2axcodes(affine))
        if own != axes:
            more.append(f"its axes point to {own} by its header, which is used, not --axes {axes}")
    elif doubt:
        more.append(doubt)
    return Geometry(affine, millimetres, header, None, (*notes, *more))


def _codes(header: nib.Nifti1Header) -> tuple[int, int]:
    """Return the codes of sform and qform."""
    return int(header["sform_code"]), int(header["qform_code"])


def _check_sizes(sizes: np.ndarray, path: Path) -> None:
    """Check the header's voxel sizes where nothing else states them."""
    if not _are_sizes(sizes):
        raise ValueError(
            f"{path}: voxel sizes (pixdim) are {_three(sizes)}, expected positive millimetres; set "
            f"them in the header"
        )


def _are_sizes(sizes: np.ndarray) -> bool:
    """Say whether voxel sizes are positive numbers."""
    return bool(np.isfinite(sizes).all() and (sizes > 0).all())


def _millimetres(header: nib.Nifti1Header, sizes: np.ndarray) -> tuple[float, list[str]]:
    """Return the millimetres in a unit, and a note if the header's makes no sense.

    Such a unit counts as mm, and is set to it.
    """
    unit, (low, high) = int(header["xyzt_units"]) & 7, SPACING_MM
    stated = MILLIMETRES[unit]
    fits = [(low <= sizes * scale).all() and (sizes * scale <= high).all() for scale in (stated, 1)]
    if fits[0] or not fits[1]:
        return stated, []
    header["xyzt_units"] = int(header["xyzt_units"]) - unit + MM_UNIT
    return 1.0, [
        f"the header's unit makes voxels of {_three(sizes * stated)} mm; {_three(sizes)} mm is "
        f"used, set the unit to mm"
    ]


def _affine(
    header: nib.Nifti1Header, sizes: np.ndarray, path: Path
) -> tuple[np.ndarray, list[str]]:
    """Return the affine of the sform, or of the qform where there is no valid sform, and notes.

    What is damaged is removed from the header.
    """
    codes = _codes(header)
    qform, reason = _qform(header, sizes) if codes[1] else (None, "")
    if not codes[0]:
        if qform is None:
            raise ValueError(f"{path}: damaged header (qform: {reason}); {AGAIN}")
        return qform, [f"{reason} in the header's qform"] if reason else []
    affine = header.get_sform()
    wrong = "" if np.isfinite(affine).all() else "holds NaN or infinity"
    if not wrong and np.linalg.det(affine[:3, :3]) == 0:
        wrong = "is singular"
    if wrong and qform is not None:
        header["sform_code"] = 0
        return qform, [f"the header's sform {wrong}; its qform is used, correct the sform"]
    if wrong and not np.isfinite(affine).all():
        raise ValueError(f"{path}: its affine holds NaN or infinity; correct its sform or qform")
    if qform is None:
        header["qform_code"] = 0
    found = np.linalg.norm(affine[:3, :3], axis=0)
    if not _are_sizes(sizes) or not np.allclose(found, sizes, rtol=LEAST_SIZE):
        if not _are_sizes(sizes):
            header["pixdim"][1:4] = found
        return affine, [
            f"the header's voxel sizes {_three(sizes)} disagree with its sform {_three(found)}, "
            f"which is used; correct pixdim if the sform is right"
        ]
    if codes[1] and qform is None:
        return affine, [f"the header's qform is damaged ({reason}); sform is used"]
    if qform is not None and not np.allclose(qform, affine, atol=OFF_GRID * sizes.min()):
        return affine, ["the header's qform and sform place the scan differently; sform is used"]
    return affine, []


def _qform(header: nib.Nifti1Header, sizes: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Return the affine of the qform, or None; and what is wrong in it."""
    if not _are_sizes(sizes):
        return None, f"voxel sizes (pixdim) are {_three(sizes)}, expected positive numbers"
    qfac = float(header["pixdim"][0])
    reason = "qfac (pixdim[0]) is 0, which counts as 1," if qfac == 0 else ""
    header["pixdim"][0] = qfac or 1
    try:
        affine = header.get_qform()
    except (ValueError, HeaderDataError) as error:  # no rotation, or another qfac
        header["pixdim"][0] = 1
        return None, " ".join(str(error).split())
    return (affine, reason) if np.isfinite(affine).all() else (None, "it holds NaN or infinity")


def _three(sizes: np.ndarray) -> str:
    """Return sizes as text, such as '0.5 x 0.75 x 2.5'."""
    return " x ".join(f"{size:.4g}" for size in sizes)
