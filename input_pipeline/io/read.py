"""Read one scan, picture or mask; every defect of the file becomes an error of one line.

`read_scan` reads a scan of any supported format. Pictures and label masks (PNG, JPEG) and arrays
(NPY) are read in this module, the other formats in `nifti` and `dicom_series`.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline.io import dicom_file, dicom_series, nifti, nifti_header
from input_pipeline.io.archive import archive_of, unpacked
from input_pipeline.io.scan import Scan, axes_affine, name_of, oriented, upright
from input_pipeline.io.stack import Stack, check_intensity

SUFFIXES = (".png", ".jpg", ".jpeg")
GREY_MODES = ("1", "L")
COLOUR_MODES = ("P", "RGB", "RGBA", "LA")
MOST_TINT = 2  # grey values between the channels of a grey picture; JPEG's chroma rounds by them
INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L")


def read_scan(
    path: Path,
    *,
    intensity: str | None = None,
    series: str | None = None,
    axes: str | None = None,
    spacing: tuple[float, float, float] | None = None,
) -> Scan:
    """Read a scan: a NIfTI, PNG, JPEG or NPY file, a DICOM file, or a folder of DICOM files.

    Args:
        path: the file or folder; or one in a zip archive, as if the archive were a folder.
        intensity: 'hu' or 'uint8'. NIfTI and NPY do not state it, so it is required for them. DICOM
            is always 'hu' and a picture is always 'uint8'.
        series: which series to read from a DICOM folder, see `read_dicom`.
        axes: directions of the axes of a NIfTI file that states no orientation, see `read_nifti`.
        spacing: millimetres between (slices, rows, columns) of an NPY file; None if unknown.

    Raises:
        ValueError: the format is unknown, the intensity is missing or another than the format's
            own, or the reader of the format refuses the file. The message names the file.
        OSError: the file cannot be opened.
    """
    if (archive := archive_of(path)) is not None:
        read = partial(read_scan, intensity=intensity, series=series, axes=axes, spacing=spacing)
        return _read_archive(path, archive, read)
    kind = _format_of(path)
    fixed = {"dicom": "hu", "picture": "uint8"}.get(kind)
    stated = intensity or fixed
    if stated is None:
        raise ValueError(
            f"{path}: its format does not state whether values are Hounsfield units or grey "
            f"values; state the intensity: --intensity hu, or windowed for grey values"
        )
    check_intensity(stated)
    if fixed is not None and stated != fixed:
        raise ValueError(
            f"{path}: intensity is {stated!r}, expected {fixed!r} for such a file, whose format "
            f"says so; leave --intensity out"
        )
    if kind == "dicom":
        return dicom_series.read_dicom(path, series=series)
    if kind == "nifti":
        return nifti.read_nifti(path, intensity=stated, axes=axes)
    if kind == "picture":
        picture = read_image(path)
        one = Stack((1, picture.shape[0], picture.shape[1]), stated)
        one.put(0, picture, path)
        return upright(one, path, spacing=None, file_shape=picture.shape)
    return read_npy(path, intensity=stated, spacing=spacing)


def _read_archive(path: Path, archive: Path, read: Callable[[Path], Scan]) -> Scan:
    """Read a scan of a zip archive, as if the archive were a folder."""
    inside = path.relative_to(archive)
    with unpacked(archive, inside) as folder:
        try:
            return replace(read(folder / inside), id=name_of(path))
        except (ValueError, OSError) as error:
            raise ValueError(str(error).replace(str(folder), str(archive))) from None


def read_array(
    array: np.ndarray,
    *,
    intensity: str,
    spacing: Sequence[float] | None,
    axes: str | None,
) -> Scan:
    """Return the scan of an array in memory.

    Args:
        array: `[i, j, k]` real numbers, Hounsfield units or grey values.
        intensity: 'hu' or 'uint8', which of the two.
        spacing: millimetres between voxels along i, j and k; required.
        axes: the directions of i, j and k, one letter each of R/L, A/P and S/I; required. 'SPL' is
            slices from the feet to the head, rows from the front to the back, and columns from the
            patient's right to the left.

    Raises:
        ValueError: the array has another shape or dtype, values are NaN, infinite or out of range,
            or the spacing or the axes are missing or wrong.
    """
    path = Path("array")
    if array.ndim != 3 or not array.size or array.dtype.kind not in "iuf":
        raise ValueError(f"array is {array.shape} of {array.dtype}, expected numbers as [i, j, k]")
    if spacing is None or axes is None or len(spacing) != 3:
        raise ValueError(
            f"array has spacing {spacing} and axes {axes!r}, expected three sizes in mm and three "
            "letters; state them as in spacing=(5, 0.7, 0.7), axes='SPL'"
        )
    stack = Stack((array.shape[2], array.shape[1], array.shape[0]), intensity)
    for index in range(len(stack.array)):
        stack.put(index, array[..., index].T, path)
    return oriented(stack, axes_affine(axes, spacing), path, file_shape=array.shape)


def read_npy(
    path: Path, *, intensity: str, spacing: tuple[float, float, float] | None = None
) -> Scan:
    """Read an array that has the orientation of `Scan.voxels`.

    Args:
        path: NPY file of real numbers, `[rows, columns]` or `[slices, rows, columns]`; slices from
            the feet to the head, rows to the back, columns to the patient's left.
        intensity: 'hu' or 'uint8'.
        spacing: millimetres between (slices, rows, columns); None if unknown.

    Raises:
        ValueError: the file is empty, truncated or not NPY, the array has another shape or dtype,
            or values are NaN, infinite or out of range. The message names the file.
        OSError: the file cannot be opened.
    """
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty; copy it again")
    array = _map_npy(path)
    if array.dtype.kind not in "iuf" or array.ndim not in (2, 3) or not array.size:
        raise ValueError(
            f"{path}: array is {array.shape} of {array.dtype}, expected numbers as [rows, columns] "
            f"or [slices, rows, columns]; save it in this form"
        )
    slices = array[None] if array.ndim == 2 else array
    stack = Stack((slices.shape[0], slices.shape[1], slices.shape[2]), intensity)
    for index, values in enumerate(slices):
        stack.put(index, values, path)
    return upright(stack, path, spacing=spacing, file_shape=array.shape)


def read_image(path: Path) -> np.ndarray:
    """Read an 8-bit grey picture of one slice.

    Colour files whose channels differ by at most two grey values, as JPEG's compression makes them,
    count as grey; their luminance (0.299 R + 0.587 G + 0.114 B, rounded) is read.

    Args:
        path: PNG or JPEG file.

    Returns:
        `[H, W]` uint8.

    Raises:
        ValueError: the file is empty, truncated or not a picture, or the picture is coloured,
            transparent or not 8 bits deep. The message names the file.
        OSError: the file cannot be opened.
    """
    picture = _open(path)
    if picture.mode in GREY_MODES:
        return np.asarray(picture.convert("L"))
    if picture.mode in COLOUR_MODES:
        return _luminance(picture, path)
    raise ValueError(
        f"{path}: pixels are {picture.mode!r}, expected an 8-bit grey picture; "
        f"save the slice as 8-bit grey with a lung window"
    )


def read_mask(
    path: Path, labels: Sequence[int], *, remedy: str = "save it as a PNG of class indices"
) -> np.ndarray:
    """Read a label mask.

    Pixels are class indices or palette indices (the colours of the palette do not matter). If
    `labels` are 0 and 1, they may also be 0 and 255, and in a colour file within two grey values of
    these. Class indices must be equal in all channels, as a tint would change them.

    Args:
        path: PNG file; a JPEG file is refused if its compression has changed a label.
        labels: the labels that the mask may hold, as (0, 1) or (0, 1, 2).
        remedy: what to do about other labels, for the message.

    Returns:
        `[H, W]` uint8 class indices.

    Raises:
        ValueError: as for `read_image`, or the mask holds other labels, which the message lists.
        OSError: the file cannot be opened.
    """
    picture = _open(path)
    if picture.mode == "1":
        mask = np.asarray(picture, np.int64)
    elif picture.mode in ("L", "P", *INTEGER_MODES):
        mask = np.asarray(picture).astype(np.int64)
    elif picture.mode in COLOUR_MODES:
        mask = _mask_of_colours(picture, path, set(labels) == {0, 1})
    else:
        raise ValueError(f"{path}: pixels are {picture.mode!r}, expected class indices in a PNG")
    found = set(np.unique(mask).tolist())
    if set(labels) == {0, 1} and found <= {0, 255}:
        return (mask > 0).astype(np.uint8)
    stray = sorted(found - set(labels))
    if stray:
        listed = ", ".join(map(str, stray[:8])) + (", ..." if len(stray) > 8 else "")
        allowed = ", ".join(map(str, labels)) + (" (or 0 and 255)" if len(labels) == 2 else "")
        raise ValueError(f"{path}: mask holds labels {listed}, expected only {allowed}; {remedy}")
    return mask.astype(np.uint8)


def _format_of(path: Path) -> str:
    """Return 'nifti', 'dicom', 'picture' or 'npy', by the file's name or else by its content."""
    name = path.name.lower()
    if path.is_dir():
        return "dicom"
    for kind, suffixes in (
        ("nifti", (*nifti.SUFFIXES, *nifti_header.VOXELS)),
        ("dicom", dicom_file.SUFFIXES),
        ("picture", SUFFIXES),
        ("npy", (".npy",)),
    ):
        if name.endswith(suffixes):
            return kind
    with path.open("rb") as file:
        if file.read(132)[128:] == b"DICM":
            return "dicom"
    raise ValueError(
        f"{path}: unknown kind of file, expected NIfTI (.nii, .nii.gz, .hdr with .img), DICOM (a "
        f"folder, or .dcm), PNG, JPEG or NPY; convert it"
    )


def _map_npy(path: Path) -> np.ndarray:
    """Map the array of an NPY file into memory, without reading it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's parser, for a damaged header
            array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # NumPy evaluates the header, which may raise any type
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: truncated, damaged or not NPY ({reason}); save it again with numpy.save"
        ) from None
    if path.stat().st_size != array.offset + array.nbytes:
        raise ValueError(
            f"{path}: holds {path.stat().st_size} bytes, expected {array.offset + array.nbytes} "
            f"for {array.shape} of {array.dtype}; save it again with numpy.save"
        )
    return array


def _open(path: Path) -> Image.Image:
    """Open a picture and decode all of it, so that any damage raises an error here."""
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path}: the file is empty; copy or download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Decoding alone does not compare the checksums of a PNG's pixels; `verify` does.
            Image.open(io.BytesIO(data), formats=("PNG", "JPEG")).verify()
            picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
            picture.load()
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path}: not a PNG or JPEG picture; convert or remove it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{path}: too large for one CT slice; remove it") from None
    except Exception as error:  # Pillow's decoders raise many types for damaged bytes
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: truncated or damaged ({reason}); copy or download it again"
        ) from None
    return picture


def _mask_of_colours(picture: Image.Image, path: Path, binary: bool) -> np.ndarray:
    """Return the class indices of a colour picture; tinted black and white are 0 and 255."""
    grey = _luminance(picture, path).astype(np.int64)
    channels = np.asarray(picture.convert("RGB"))
    if not np.ptp(channels, axis=-1).any():
        return grey
    white = grey >= 255 - MOST_TINT
    if not binary or not (white | (grey <= MOST_TINT)).all() or not white.any():
        raise ValueError(
            f"{path}: its channels differ by up to {np.ptp(channels, axis=-1).max()} grey values, "
            f"which changes class indices; save it as a PNG of class indices"
        )
    return np.where(white, 255, 0)


def _luminance(picture: Image.Image, path: Path) -> np.ndarray:
    """Return the grey values, `[H, W]` uint8, of a colour picture without colours."""
    colours = np.asarray(picture.convert("RGBA"))
    tint = np.ptp(colours[..., :3], axis=-1)
    if tint.max() > MOST_TINT or (colours[..., 3] != 255).any():
        raise ValueError(
            f"{path}: has colours ({np.count_nonzero(tint > MOST_TINT)} pixels, whose channels "
            f"differ by up to {tint.max()} grey values) or transparent pixels, expected a grey "
            f"picture; save it as 8-bit grey without annotations"
        )
    return np.asarray(picture.convert("RGB").convert("L"))
