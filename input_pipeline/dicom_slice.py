"""One DICOM file: the header of a CT slice, checked, and its pixels as Hounsfield units."""

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
from pydicom.uid import RLELossless

SUFFIXES = (".dcm", ".dicom", ".ima")
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
RESCALE = ("RescaleSlope", "RescaleIntercept")
WIDEST = 4096  # pixels; no CT slice is wider, a damaged header may be
AGAIN = "copy or export it again"
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # of JPEG and JPEG-LS


@dataclass(frozen=True, eq=False)
class Image:
    """The header of one slice.

    `directions` [3, 2] are unit vectors along a row (to the next column) and down a column, and
    `position` [3] the centre of the first pixel, both in DICOM's world (left, back, head; mm).
    `spacing` is between (rows, columns).
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
        return np.cross(self.directions[:, 0], self.directions[:, 1])

    @property
    def height(self) -> float:
        """Where the slice lies along its normal, mm."""
        return float(self.normal @ self.position)


def read_header(file: Path, *, alone: bool) -> Image | str:
    """The header of a slice, or why the file is none.

    Raises:
        ValueError: a file that is empty or damaged, or no original CT slice. With `alone`, or a
            suffix of DICOM, also one without DICOM's mark.
        OSError: it cannot be opened.
    """
    if not file.stat().st_size:
        raise ValueError(f"{file}: the file is empty; {AGAIN}")
    with _decoding(file):
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except InvalidDicomError:
            if alone or file.suffix.lower() in SUFFIXES:
                raise ValueError(f"{file}: not a DICOM file (no DICM mark); {AGAIN}") from None
            return "no DICOM file"
        if header.get("Modality") not in ("CT", None, ""):
            return f"modality {header.Modality}, not CT"
        if "Rows" not in header or "Columns" not in header:
            raise ValueError(f"{file}: ends before its picture (no Rows, no Columns); {AGAIN}")
        if "LOCALIZER" in _words(header.get("ImageType")):
            return "localiser"
        return _image(header, file)


def _image(header: pydicom.Dataset, file: Path) -> Image:
    """Check the header of one slice and take from it what we use."""
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
        raise ValueError(f"{file}: its position, orientation or spacing is incomplete; {AGAIN}")
    directions = cosines.reshape(2, 3).T
    numbers = np.concatenate([position, cosines, spacing, (slope, inter)])
    if not np.isfinite(numbers).all() or slope == 0 or not 1 <= min(shape) <= max(shape) <= WIDEST:
        raise ValueError(
            f"{file}: {shape[0]} x {shape[1]} pixels, rescale slope {slope:g}, or a geometry that "
            f"is not finite; expected up to {WIDEST} pixels and a slope other than 0; {AGAIN}"
        )
    if not np.allclose(directions.T @ directions, np.eye(2), atol=0.01):
        raise ValueError(
            f"{file}: ImageOrientationPatient {cosines.tolist()} is no pair of unit vectors at "
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
    """Hounsfield units of a slice, [rows, columns], integer or float64.

    Raises:
        ValueError: pixels that are missing, damaged, of another size, or compressed in a way that
            no decoder here undoes.
        OSError: the file cannot be opened.
    """
    with _decoding(image.path):
        dataset = pydicom.dcmread(image.path)
        if "PixelData" not in dataset:
            raise ValueError(f"{image.path}: ends before its pixels; {AGAIN}")
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_compressed:
            # Decoders that damaged bytes do not crash: others panic or abort the process.
            plugin = "pydicom" if syntax == RLELossless else "pylibjpeg"
            if plugin not in get_decoder(syntax).available_plugins:
                raise ValueError(
                    f"{image.path}: compressed as {syntax.name}, and no decoder of that is here; "
                    f"pip install pylibjpeg-libjpeg (GPL-3.0), or {AGAIN} uncompressed"
                )
            dataset.pixel_array_options(decoding_plugin=plugin)
            if syntax != RLELossless and (size := _stated_size(dataset)) != image.shape:
                # They believe the frame's own header, and fill gigabytes with what is not there.
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
            f"{image.path}: decodes to {pixels.shape} {pixels.dtype}, expected integers of "
            f"{image.shape}; {AGAIN}"
        )
    if (image.slope, image.inter) == (1.0, 0.0):
        return pixels
    return pixels * np.float64(image.slope) + image.inter


def _stated_size(dataset: pydicom.Dataset) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG-2000 frame states; None if it does not."""
    data = next(generate_frames(dataset.PixelData, number_of_frames=1))
    if data[:4] == b"\xff\x4f\xff\x51":  # JPEG-2000: right and lower end, then left and upper
        right, lower, left, upper = struct.unpack_from(">4I", data, 8)
        return lower - upper, right - left
    if data[:2] != b"\xff\xd8":
        return None
    place = 2
    while data[place : place + 1] == b"\xff" and place + 10 <= len(data):
        # A segment is a marker (0xFF and its kind) and a length, which counts itself.
        if data[place + 1] in FRAME_MARKERS:
            rows, columns = struct.unpack_from(">HH", data, place + 5)
            return (rows, columns) if data[place + 9] == 1 else None
        place += 2 + max(2, *struct.unpack_from(">H", data, place + 2))
    return None


@contextmanager
def _decoding(file: Path) -> Iterator[None]:
    """Turns whatever pydicom and its decoders raise on damaged bytes into one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd values; those that we use are checked
            yield
    except ValueError as error:
        if str(error).startswith(f"{file}:"):
            raise
        raise ValueError(_reason(file, error)) from None
    except OSError as error:
        if error.filename is not None:
            raise
        raise ValueError(_reason(file, error)) from None
    except Exception as error:  # they raise many kinds
        raise ValueError(_reason(file, error)) from None


def _reason(file: Path, error: Exception) -> str:
    told = " ".join(str(error).split()) or type(error).__name__
    return f"{file}: cannot be decoded ({told[:200]}); {AGAIN}, or convert it to NIfTI"


def _words(value: object) -> list[str]:
    if value is None or isinstance(value, str):
        return [str(value).upper()]
    return [str(word).upper() for word in value] if isinstance(value, Sequence) else []
