"""One file of a user's into arrays; every defect of the file becomes one clear line.

`read_scan` reads any scan; 8-bit pictures of slices, label masks (PNG, JPEG) and arrays (NPY) are
read here, `nifti` and `dicom` read the rest.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline import dicom, dicom_slice, nifti
from input_pipeline.scans import Scan, Stack, check_intensity, upright

SUFFIXES = (".png", ".jpg", ".jpeg")
GREY_MODES = ("1", "L")
COLOUR_MODES = ("P", "RGB", "RGBA", "LA")
INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L")


def read_scan(
    path: Path,
    *,
    intensity: str | None = None,
    series: str | None = None,
    axes: str | None = None,
    spacing: tuple[float, float, float] | None = None,
) -> Scan:
    """Read a scan: NIfTI, DICOM (a file, or a folder of slices), a PNG, JPEG or NPY file.

    Args:
        path: file or folder.
        intensity: 'hu' or 'uint8'; NIfTI and NPY cannot say which and need it. DICOM is 'hu' and
            pictures are 'uint8', and anything else is refused.
        series: which series of a DICOM folder, see `read_dicom`.
        axes: of a NIfTI file that does not state its orientation, see `read_nifti`.
        spacing: millimetres between (slices, rows, columns) of an NPY file.

    Raises:
        ValueError: an unknown format, an intensity that is missing or does not suit, or what the
            format's own reader refuses. The message names the file.
        OSError: it cannot be opened.
    """
    kind = _format_of(path)
    fixed = {"dicom": "hu", "picture": "uint8"}.get(kind)
    stated = intensity or fixed
    if stated is None:
        raise ValueError(
            f"{path}: the format does not say whether values are Hounsfield units or grey values; "
            f"state the intensity: --intensity hu, or windowed (launch.predict) for grey values"
        )
    check_intensity(stated)
    if fixed is not None and stated != fixed:
        raise ValueError(f"{path}: intensity is {stated!r}, but such a file holds {fixed!r}")
    if kind == "dicom":
        return dicom.read_dicom(path, series=series)
    if kind == "nifti":
        return nifti.read_nifti(path, intensity=stated, axes=axes)
    if kind == "picture":
        picture = read_image(path)
        one = Stack((1, picture.shape[0], picture.shape[1]), stated)
        one.put(0, picture, path)
        return upright(one, path, spacing=None, file_shape=picture.shape)
    return read_npy(path, intensity=stated, spacing=spacing)


def read_npy(
    path: Path, *, intensity: str, spacing: tuple[float, float, float] | None = None
) -> Scan:
    """Read an array that lies as `Scan.voxels` does: rows to the back, columns to the left.

    Args:
        path: NPY file of a [rows, columns] or [slices, rows, columns] array of real numbers.
        intensity: 'hu' or 'uint8'.
        spacing: millimetres between (slices, rows, columns); None when unknown.

    Raises:
        ValueError: empty, truncated or no NPY file, another shape or dtype, or values that are
            NaN, infinite or out of range. The message names the file.
        OSError: the file cannot be opened.
    """
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty; copy it again")
    array = _map_npy(path)
    if array.dtype.kind not in "iuf" or array.ndim not in (2, 3) or not array.size:
        raise ValueError(
            f"{path}: array is {array.shape} of {array.dtype}, expected numbers as [rows, columns] "
            f"or [slices, rows, columns]; save it so"
        )
    slices = array[None] if array.ndim == 2 else array
    stack = Stack((slices.shape[0], slices.shape[1], slices.shape[2]), intensity)
    for index, values in enumerate(slices):
        stack.put(index, values, path)
    return upright(stack, path, spacing=spacing, file_shape=array.shape)


def read_image(path: Path) -> np.ndarray:
    """Read an 8-bit grey picture of one slice.

    Colour files whose channels are equal count as grey.

    Args:
        path: PNG or JPEG.

    Returns:
        [H, W] uint8.

    Raises:
        ValueError: empty, truncated or no picture, coloured, transparent, or not 8 bits deep.
        OSError: the file cannot be opened.
    """
    picture = _open(path)
    if picture.mode in GREY_MODES:
        return np.asarray(picture.convert("L"))
    if picture.mode in COLOUR_MODES:
        return _equal_channels(picture, path)
    raise ValueError(
        f"{path}: pixels are {picture.mode!r}, expected an 8-bit grey picture; "
        f"save the slice as 8-bit grey with a lung window"
    )


def read_mask(path: Path, labels: Sequence[int]) -> np.ndarray:
    """Read a label mask.

    Pixels are class indices, palette indices (whatever the palette's colours) or, when `labels`
    are just 0 and 1, also 0 and 255.

    Args:
        path: PNG (JPEG blurs labels and is refused as soon as it did).
        labels: what the mask may hold, (0, 1) or (0, 1, 2).

    Returns:
        [H, W] uint8 class indices.

    Raises:
        ValueError: as `read_image`, or the mask holds other labels, which are listed.
        OSError: the file cannot be opened.
    """
    picture = _open(path)
    if picture.mode == "1":
        mask = np.asarray(picture, np.int64)
    elif picture.mode in ("L", "P", *INTEGER_MODES):
        mask = np.asarray(picture).astype(np.int64)
    elif picture.mode in COLOUR_MODES:
        mask = _equal_channels(picture, path).astype(np.int64)
    else:
        raise ValueError(f"{path}: pixels are {picture.mode!r}, expected class indices in a PNG")
    found = set(np.unique(mask).tolist())
    if set(labels) == {0, 1} and found <= {0, 255}:
        return (mask > 0).astype(np.uint8)
    stray = sorted(found - set(labels))
    if stray:
        listed = ", ".join(map(str, stray[:8])) + (", ..." if len(stray) > 8 else "")
        allowed = ", ".join(map(str, labels)) + (" (or 0 and 255)" if len(labels) == 2 else "")
        raise ValueError(
            f"{path}: mask holds labels {listed}, expected only {allowed}; "
            f"save it as a PNG of class indices"
        )
    return mask.astype(np.uint8)


def _format_of(path: Path) -> str:
    """'nifti', 'dicom', 'picture' or 'npy', by name, and by content where the name says nothing."""
    name = path.name.lower()
    if path.is_dir():
        return "dicom"
    for kind, suffixes in (
        ("nifti", nifti.SUFFIXES),
        ("dicom", dicom_slice.SUFFIXES),
        ("picture", SUFFIXES),
        ("npy", (".npy",)),
    ):
        if name.endswith(suffixes):
            return kind
    with path.open("rb") as file:
        if file.read(132)[128:] == b"DICM":
            return "dicom"
    raise ValueError(
        f"{path}: unknown kind of file, expected NIfTI (.nii, .nii.gz), DICOM (a folder, or .dcm), "
        f"PNG, JPEG or NPY; convert it"
    )


def _map_npy(path: Path) -> np.ndarray:
    """The array of an NPY file, its bytes left on the disk."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's parser on a damaged header
            array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # NumPy evaluates the header, which may raise anything
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: truncated, damaged or no NPY file ({reason}); save it again with numpy.save"
        ) from None
    if path.stat().st_size != array.offset + array.nbytes:
        raise ValueError(
            f"{path}: holds {path.stat().st_size} bytes, expected {array.offset + array.nbytes} "
            f"for {array.shape} of {array.dtype}; save it again with numpy.save"
        )
    return array


def _open(path: Path) -> Image.Image:
    """Decode the whole picture, so that damage shows here and nowhere later."""
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path}: the file is empty; copy or download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Decoding alone checks no checksum of a PNG's pixels; `verify` does.
            Image.open(io.BytesIO(data), formats=("PNG", "JPEG")).verify()
            picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
            picture.load()
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path}: not a PNG or JPEG picture; convert or remove it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{path}: far too large for one CT slice; remove it") from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged bytes
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: truncated or damaged ({reason}); copy or download it again"
        ) from None
    return picture


def _equal_channels(picture: Image.Image, path: Path) -> np.ndarray:
    """Grey values of a colour picture that shows no colour, [H, W] uint8."""
    colours = np.asarray(picture.convert("RGBA"))
    grey = colours[..., :1]
    if (colours[..., :3] != grey).any() or (colours[..., 3] != 255).any():
        raise ValueError(
            f"{path}: has colours or transparent pixels, expected a grey picture; "
            f"save it as 8-bit grey without annotations"
        )
    return grey[..., 0].copy()
