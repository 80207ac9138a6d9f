"""Read the pixels of a DICOM slice in Hounsfield units."""

import struct
from pathlib import Path

import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import (
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from input_pipeline.io.dicom_file import AGAIN, Image, decoding, open_file

TISSUE_RANGE = (-1024, 3071)  # HU; a header that names padding within it is not believed
JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
JPEG_LS = (JPEGLSLossless, JPEGLSNearLossless)
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # in JPEG and JPEG-LS
END = b"\xff\xd9"  # of each of these
MOST_PADDING = 16  # bytes at the end of a frame that are searched for the end


class PixelReader:
    """Reads the pixels of slices; keeps the last file, of which the next slice may be a frame."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._dataset = pydicom.Dataset()

    def read(self, image: Image) -> np.ndarray:
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
        with decoding(image.path):
            if image.path != self._path or image.frame is None:
                self._dataset = open_file(image.path, pixels=True)
                self._path = image.path
            pixels = _decode(self._dataset, image)
        if pixels.shape != image.shape or pixels.dtype.kind not in "iu":
            raise ValueError(
                f"{image.path}: pixels are {pixels.shape} {pixels.dtype}, expected integers of "
                f"shape {image.shape}; {AGAIN}"
            )
        padding, value = _named_range(self._dataset, pixels)
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


def _decode(dataset: pydicom.Dataset, image: Image) -> np.ndarray:
    """Return the stored values of a slice, after checking that the file holds as many."""
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # DICOM's default
    if "PixelData" not in dataset:
        raise ValueError(f"{image.path}: ends before its pixels; {AGAIN}")
    syntax = dataset.file_meta.TransferSyntaxUID
    frames = int(dataset.get("NumberOfFrames") or 1)
    plugin = ""
    if syntax.is_compressed:
        if syntax != RLELossless:
            data = get_frame(dataset.PixelData, image.frame or 0, number_of_frames=frames)
            _check_frame(data, image)
            if syntax in (*JPEG, *JPEG_LS):
                return _decode_jpeg(data, dataset, image)
        # Damaged bytes do not crash these decoders; others panic or abort the process.
        plugin = "pydicom" if syntax == RLELossless else "pylibjpeg"
        if plugin not in get_decoder(syntax).available_plugins:
            raise _no_decoder(dataset, image)
    else:
        wanted = frames * image.shape[0] * image.shape[1] * int(dataset.BitsAllocated) // 8
        if len(dataset.PixelData) != wanted + wanted % 2:
            raise ValueError(
                f"{image.path}: holds {len(dataset.PixelData)} bytes of pixels, expected "
                f"{wanted} for {image.shape[0]} x {image.shape[1]}; {AGAIN}"
            )
    if image.frame is None:
        dataset.pixel_array_options(decoding_plugin=plugin)
        return dataset.pixel_array
    return get_decoder(syntax).as_array(
        dataset, index=image.frame, raw=True, decoding_plugin=plugin
    )[0]


def _check_frame(data: bytes, image: Image) -> None:
    """Check the size that a compressed frame states.

    The decoders rely on the frame's own header, and may allocate gigabytes for it.
    """
    if (size := _stated_size(data)) != image.shape:
        raise ValueError(
            f"{image.path}: its compressed frame states (rows, columns) {size}, expected "
            f"{image.shape}; {AGAIN}"
        )


def _decode_jpeg(data: bytes, dataset: pydicom.Dataset, image: Image) -> np.ndarray:
    """Decode a JPEG (lossy or lossless) or JPEG-LS frame; return the stored values."""
    try:
        import imagecodecs
    except ImportError:
        raise _no_decoder(dataset, image) from None
    # The decoder of JPEG fills up a cut frame with grey; that of JPEG-LS works on it for seconds.
    if END not in data[-MOST_PADDING:]:
        raise ValueError(f"{image.path}: its compressed frame has no end, so it is cut; {AGAIN}")
    ls = dataset.file_meta.TransferSyntaxUID in JPEG_LS
    values = (imagecodecs.jpegls_decode if ls else imagecodecs.jpeg8_decode)(data)
    bits = 8 * values.itemsize
    unused = bits - int(dataset.BitsStored)
    if values.dtype.kind != "u" or not 0 <= unused < bits:
        raise ValueError(
            f"{image.path}: its compressed frame holds {values.dtype}, expected "
            f"{dataset.BitsStored} bits; {AGAIN}"
        )
    if not dataset.PixelRepresentation:
        return values
    return (values << unused).view(f"i{values.itemsize}") >> unused  # two's complement


def _no_decoder(dataset: pydicom.Dataset, image: Image) -> ValueError:
    """Return the error of a file for whose compression no decoder is installed."""
    name = dataset.file_meta.TransferSyntaxUID.name
    return ValueError(
        f"{image.path}: is compressed as {name}, for which no decoder is installed; pip install "
        f"imagecodecs pylibjpeg-openjpeg (the extra dicom), or {AGAIN} uncompressed"
    )


def _stated_size(data: bytes) -> tuple[int, int] | None:
    """Return the rows and columns that a JPEG, JPEG-LS or JPEG 2000 frame states; None if none."""
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
