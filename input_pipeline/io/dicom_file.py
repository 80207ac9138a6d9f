"""Read one DICOM file: the checked header of a CT slice, and its pixels in Hounsfield units."""

import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.pixels import get_decoder
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

SUFFIXES = (".dcm", ".dicom", ".ima")
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
RESCALE = ("RescaleSlope", "RescaleIntercept")
TISSUE_RANGE = (-1024, 3071)  # HU; a header that names padding within it is not believed
WIDEST = 4096  # pixels; a CT slice is never larger, but a damaged header may state more
AGAIN = "copy or export it again"
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # in JPEG and JPEG-LS


@dataclass(frozen=True, eq=False)
class Image:
    """The header of one slice.

    Positions and directions are in DICOM's coordinates: left, back, head, in mm.

    Attributes:
        path: the file.
        series: UID of its series; 'unnamed' if it has none.
        title: number of its series; '?' if it has none.
        shape: (rows, columns).
        position: `[3]` centre of the first pixel.
        directions: `[3, 2]` unit vectors along a row (to the next column) and along a column (to
            the next row).
        spacing: `[2]` millimetres between (rows, columns).
        thickness: millimetres; None if not stated.
        slope: factor from stored values to Hounsfield units, not 0.
        inter: offset from stored values to Hounsfield units.
        inverted: whether the slice is stored for an inverted display (MONOCHROME1).
    """

    path: Path
    series: str
    title: str
    shape: tuple[int, int]
    position: np.ndarray
    directions: np.ndarray
    spacing: np.ndarray
    thickness: float | None
    slope: float
    inter: float
    inverted: bool

    @property
    def normal(self) -> np.ndarray:
        """Unit vector `[3]` at right angles to the slice."""
        return np.cross(self.directions[:, 0], self.directions[:, 1])

    @property
    def height(self) -> float:
        """Position of the slice along its normal, in mm."""
        return float(self.normal @ self.position)


def read_header(file: Path, *, alone: bool) -> Image | str:
    """Read the header of a slice.

    Args:
        file: the file.
        alone: whether the user named this file, and not its folder.

    Returns:
        The header; or the reason to leave the file out, if it is not DICOM, of another modality or
        a localiser.

    Raises:
        ValueError: the file is empty, damaged or not an original CT slice; if it is `alone` or has
            a suffix of DICOM, also if it is not DICOM. The message names the file.
        OSError: the file cannot be opened.
    """
    if not file.stat().st_size:
        raise ValueError(f"{file}: the file is empty; {AGAIN}")
    with _decoding(file):
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=_lacks_preamble(file))
        except InvalidDicomError:
            if alone or file.suffix.lower() in SUFFIXES:
                raise ValueError(f"{file}: not a DICOM file (no DICM mark); {AGAIN}") from None
            return "not a DICOM file"
        if header.get("Modality") not in ("CT", None, ""):
            return f"modality {header.Modality}, not CT"
        if "Rows" not in header or "Columns" not in header:
            raise ValueError(f"{file}: ends before its image (no Rows, no Columns); {AGAIN}")
        if "LOCALIZER" in _words(header.get("ImageType")):
            return "localiser"
        return _image(header, file)


def _lacks_preamble(file: Path) -> bool:
    """Say whether a file begins with its first element, as old programs write it.

    Such a file has no 128 bytes of preamble and no mark 'DICM'; its first element is of group 2
    (the file's own) or 8 (the data's).
    """
    with file.open("rb") as stream:
        start = stream.read(132)
    return start[128:] != b"DICM" and start[:2] in (b"\x02\x00", b"\x08\x00")


def _image(header: pydicom.Dataset, file: Path) -> Image:
    """Check the header of one slice, and return the part of it that is used."""
    if (frames := int(header.get("NumberOfFrames") or 1)) != 1:
        raise ValueError(
            f"{file}: holds {frames} frames, expected one slice per file; convert it to NIfTI, "
            f"for instance with dcm2niix"
        )
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise ValueError(
            f"{file}: is coloured, expected grey CT values; export the original series, not "
            f"screenshots"
        )
    missing = [name for name in (*GEOMETRY, *RESCALE) if header.get(name) in (None, "")]
    if missing:
        raise ValueError(
            f"{file}: has no {', '.join(missing)}, expected an original CT slice; export the "
            f"original series, not screenshots or derived pictures"
        )
    position, cosines, spacing = (np.asarray(header[name].value, np.float64) for name in GEOMETRY)
    slope, inter = (float(header[name].value) for name in RESCALE)
    shape = (int(header.Rows), int(header.Columns))
    if (position.shape, cosines.shape, spacing.shape) != ((3,), (6,), (2,)):
        raise ValueError(f"{file}: position, orientation or spacing is incomplete; {AGAIN}")
    directions = cosines.reshape(2, 3).T
    numbers = np.concatenate([position, cosines, spacing, (slope, inter)])
    if not np.isfinite(numbers).all() or slope == 0 or not 1 <= min(shape) <= max(shape) <= WIDEST:
        raise ValueError(
            f"{file}: {shape[0]} x {shape[1]} pixels, rescale slope {slope:g}, or a geometry that "
            f"is not finite, expected 1 to {WIDEST} pixels and a slope other than 0; {AGAIN}"
        )
    if not np.allclose(directions.T @ directions, np.eye(2), atol=0.01):
        raise ValueError(
            f"{file}: ImageOrientationPatient is {cosines.tolist()}, expected two unit vectors at "
            f"right angles; {AGAIN}"
        )
    thickness = header.get("SliceThickness")
    return Image(
        path=file,
        series=str(header.get("SeriesInstanceUID") or "unnamed"),
        title=f"{header.get('SeriesNumber') or '?'}",
        shape=shape,
        position=position,
        directions=directions / np.linalg.norm(directions, axis=0),
        spacing=spacing,
        thickness=float(thickness) if thickness else None,
        slope=slope,
        inter=inter,
        inverted=header.get("PhotometricInterpretation") == "MONOCHROME1",
    )


def read_pixels(image: Image) -> np.ndarray:
    """Read the pixels of a slice in Hounsfield units.

    Args:
        image: header of the slice.

    Returns:
        `[rows, columns]`, integer or float64.

    Raises:
        ValueError: the pixels are missing, damaged, of another size than the header states, or
            compressed in a way for which no decoder is installed. The message names the file.
        OSError: the file cannot be opened.
    """
    with _decoding(image.path):
        dataset = pydicom.dcmread(image.path, force=_lacks_preamble(image.path))
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # DICOM's default
        if "PixelData" not in dataset:
            raise ValueError(f"{image.path}: ends before its pixels; {AGAIN}")
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_compressed:
            # Damaged bytes do not crash these decoders; others panic or abort the process.
            plugin = "pydicom" if syntax == RLELossless else "pylibjpeg"
            if plugin not in get_decoder(syntax).available_plugins:
                raise ValueError(
                    f"{image.path}: is compressed as {syntax.name}, for which no decoder is "
                    f"installed; pip install pylibjpeg-libjpeg (GPL-3.0), or {AGAIN} uncompressed"
                )
            dataset.pixel_array_options(decoding_plugin=plugin)
            if syntax != RLELossless and (size := _stated_size(dataset)) != image.shape:
                # The decoders rely on the frame's own header, and may allocate gigabytes for it.
                raise ValueError(
                    f"{image.path}: its compressed frame states (rows, columns) {size}, expected "
                    f"{image.shape}; {AGAIN}"
                )
        else:
            wanted = image.shape[0] * image.shape[1] * int(dataset.BitsAllocated) // 8
            if len(dataset.PixelData) != wanted + wanted % 2:
                raise ValueError(
                    f"{image.path}: holds {len(dataset.PixelData)} bytes of pixels, expected "
                    f"{wanted} for {image.shape[0]} x {image.shape[1]}; {AGAIN}"
                )
        pixels = dataset.pixel_array
    if pixels.shape != image.shape or pixels.dtype.kind not in "iu":
        raise ValueError(
            f"{image.path}: pixels are {pixels.shape} {pixels.dtype}, expected integers of shape "
            f"{image.shape}; {AGAIN}"
        )
    padding, value = _named_range(dataset, pixels)
    if (image.slope, image.inter) != (1.0, 0.0):
        pixels = pixels * np.float64(image.slope) + image.inter
        value = value * image.slope + image.inter
    if padding.any():
        least, most = TISSUE_RANGE
        pixels = np.where(padding & ((pixels < least) | (pixels > most)), value, pixels)
    return pixels


def _named_range(dataset: pydicom.Dataset, pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Return where pixels are in the range of values that the header names as padding.

    Args:
        dataset: the file.
        pixels: `[rows, columns]` its stored values.

    Returns:
        `[rows, columns]` bool, all false if it names one value or none; and PixelPaddingValue.
    """
    named = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if any(not isinstance(value, int) for value in named):
        return np.zeros(pixels.shape, bool), 0.0
    stored = np.array(named).astype(pixels.dtype)  # some files name signed values as unsigned
    return (pixels >= stored.min()) & (pixels <= stored.max()), float(stored[0])


def _stated_size(dataset: pydicom.Dataset) -> tuple[int, int] | None:
    """Return the rows and columns that a JPEG, JPEG-LS or JPEG 2000 frame states; None if none."""
    data = next(generate_frames(dataset.PixelData, number_of_frames=1))
    if data[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: right and lower end, left and upper start
        right, lower, left, upper = struct.unpack_from(">4I", data, 8)
        return lower - upper, right - left
    if data[:2] != b"\xff\xd8":
        return None
    place = 2
    while data[place : place + 1] == b"\xff" and place + 10 <= len(data):
        # A segment starts with a marker (0xFF and its type) and a length that includes itself.
        if data[place + 1] in FRAME_MARKERS:
            rows, columns = struct.unpack_from(">HH", data, place + 5)
            return (rows, columns) if data[place + 9] == 1 else None
        place += 2 + max(2, *struct.unpack_from(">H", data, place + 2))
    return None


@contextmanager
def _decoding(file: Path) -> Iterator[None]:
    """Turn any exception of pydicom and its decoders into a ValueError that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual values; those in use are checked
            yield
    except ValueError as error:
        if str(error).startswith(f"{file}:"):
            raise
        raise ValueError(_reason(file, error)) from None
    except OSError as error:
        if error.filename is not None:
            raise
        raise ValueError(_reason(file, error)) from None
    except Exception as error:  # damaged bytes raise many types
        raise ValueError(_reason(file, error)) from None


def _reason(file: Path, error: Exception) -> str:
    """Return an error message of one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{file}: cannot be decoded ({reason[:200]}); {AGAIN}, or convert it to NIfTI"


def _words(value: object) -> list[str]:
    """Return a header's value of one or more words as a list, in capitals."""
    if value is None or isinstance(value, str):
        return [str(value).upper()]
    return [str(word).upper() for word in value] if isinstance(value, Sequence) else []
