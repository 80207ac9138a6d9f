"""CT series in DICOM: a file, or a folder of one or more series, into one `Scan`."""

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

from input_pipeline.scans import Scan, Stack, oriented

SUFFIXES = (".dcm", ".dicom", ".ima")
IGNORED = ("DICOMDIR", "Thumbs.db", "desktop.ini")
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
RESCALE = ("RescaleSlope", "RescaleIntercept")
WIDEST = 4096  # pixels; no CT slice is wider, a damaged header may be
SAME_PLACE_MM = 0.02  # slices this close lie on each other
STRAY_MM = 1.0  # a slice this far off the line of the others belongs to another stack
UNEVEN = 0.05  # of the usual distance between slices; scanners round positions
SCOUT_DEGREES, MOST_SCOUTS = 30.0, 3
AGAIN = "copy or export it again"
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # of JPEG and JPEG-LS


@dataclass(frozen=True, eq=False)
class _Image:
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


def read_dicom(path: Path, *, series: str | None = None) -> Scan:
    """Read a CT series (compressed or not) as Hounsfield units.

    Slices are sorted by position; copies of a slice are dropped; localisers, other modalities
    and files that are no DICOM are left out. All of this, gaps, uneven steps and gantry tilt are
    in the scan's notes. A gap is not filled: the affine steps as most slices do.

    Values are rescaled as the file states. MONOCHROME1 says how to display a slice and changes no
    Hounsfield unit.

    Args:
        path: one file, or a folder whose files (not those of subfolders) are read.
        series: its SeriesInstanceUID or series number, where the folder holds several.

    Returns:
        The scan; the file's own grid is (columns, rows, slices along the normal).

    Raises:
        ValueError: nothing to read, several series (they are listed), a file that is damaged, has
            several frames, colours, no geometry or no rescale slope and intercept, slices that
            do not fit together, or values that are no Hounsfield units. The message names the
            file.
        OSError: a file or the folder cannot be opened.
    """
    notes: list[str] = []
    images = _choose(path, _find(path, notes), series)
    images = _without_scouts(images, path, notes)
    images = sorted(images, key=lambda image: image.height)
    groups = _places(images)
    first = [group[0] for group in groups]
    affine = _affine(first, path, notes)
    if any(image.inverted for image in first):
        notes.append("stored as MONOCHROME1, which changes the display and no Hounsfield unit")
    rows, columns = first[0].shape
    stack = Stack((len(groups), rows, columns), "hu")
    copies = 0
    for index, group in enumerate(groups):
        values = _pixels(group[0])
        for other in group[1:]:
            if not np.array_equal(values, _pixels(other)):
                raise ValueError(
                    f"{path}: {group[0].path.name} and {other.path.name} are different slices of "
                    f"one series at one position, expected one acquisition; keep one of the two"
                )
        stack.put(index, values, group[0].path)
        copies += len(group) - 1
    if copies:
        notes.append(f"{copies} copies of slices were left out")
    return oriented(
        stack, affine, path, file_shape=(columns, rows, len(groups)), notes=tuple(notes)
    )


def _find(path: Path, notes: list[str]) -> list[_Image]:
    """The headers of the CT slices of a file or folder."""
    files = [path]
    if path.is_dir():
        entries = sorted(path.iterdir())
        files = [f for f in entries if f.is_file() and not f.name.startswith(".")]
        files = [f for f in files if f.name not in IGNORED]
        if not files:
            inside = ", ".join(entry.name for entry in entries if entry.is_dir()) or "nothing"
            raise ValueError(f"{path}: no file in it but {inside[:80]}; name the folder of slices")
    images, left_out = [], dict[str, list[str]]()
    for file in files:
        found = _read_header(file, alone=not path.is_dir())
        if isinstance(found, _Image):
            images.append(found)
        else:
            left_out.setdefault(found, []).append(file.name)
    told = [f"{_listed(names)} left out: {reason}" for reason, names in left_out.items()]
    if not images:
        raise ValueError(f"{path}: no CT slice in it ({'; '.join(told)}); name a CT series")
    notes += told
    return images


def _read_header(file: Path, *, alone: bool) -> _Image | str:
    """The header of a slice, or why the file is none."""
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


def _image(header: pydicom.Dataset, file: Path) -> _Image:
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
    return _Image(
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


def _choose(path: Path, images: list[_Image], series: str | None) -> list[_Image]:
    """The slices of one series."""
    found: dict[str, list[_Image]] = {}
    for image in images:
        found.setdefault(image.series, []).append(image)
    if series is not None:
        found = {
            uid: slices for uid, slices in found.items() if series in (uid, slices[0].title)
        } or found
        chosen = series in found or any(series == s[0].title for s in found.values())
    if len(found) == 1 and (series is None or chosen):
        return next(iter(found.values()))
    listed = "; ".join(
        f"{uid} (number {slices[0].title}, {len(slices)} slices)" for uid, slices in found.items()
    )
    if series is not None:
        raise ValueError(f"{path}: no single series is {series!r}, it holds {listed}; name one")
    raise ValueError(
        f"{path}: holds {len(found)} series, expected one; choose one by its UID or number (the "
        f"option series), or put each into a folder of its own: {listed}"
    )


def _without_scouts(images: list[_Image], path: Path, notes: list[str]) -> list[_Image]:
    """Drop localisers that are not marked as such, and refuse slices that do not fit together."""
    kinds: list[list[_Image]] = []
    for image in images:
        for kind in kinds:
            if _fits(image, kind[0]):
                kind.append(image)
                break
        else:
            kinds.append([image])
    kinds.sort(key=len, reverse=True)
    main, kept = kinds[0], [kinds[0]]
    for kind in kinds[1:]:
        angle = np.degrees(np.arccos(min(1.0, abs(kind[0].normal @ main[0].normal))))
        if angle > SCOUT_DEGREES and len(kind) <= MOST_SCOUTS < len(main):
            notes.append(
                f"{_listed([image.path.name for image in kind])} left out: localiser (lies across "
                f"the other slices)"
            )
        else:
            kept.append(kind)
    if len(kept) > 1:
        listed = "; ".join(
            f"{len(kind)} of {kind[0].shape[0]} x {kind[0].shape[1]} pixels of "
            f"{kind[0].spacing[0]:g} x {kind[0].spacing[1]:g} mm such as {kind[0].path.name}"
            for kind in kept
        )
        raise ValueError(
            f"{path}: one series with slices of different size, spacing or orientation, expected "
            f"one stack; move all but one kind away: {listed}"
        )
    return main


def _fits(image: _Image, other: _Image) -> bool:
    return (
        image.shape == other.shape
        and np.allclose(image.spacing, other.spacing, rtol=1e-3)
        and np.allclose(image.directions, other.directions, atol=1e-2)
    )


def _places(images: Sequence[_Image]) -> list[list[_Image]]:
    """Sorted slices, those at one position together."""
    groups = [[images[0]]]
    for image in images[1:]:
        if image.height - groups[-1][0].height < SAME_PLACE_MM:
            groups[-1].append(image)
        else:
            groups.append([image])
    return groups


def _affine(images: Sequence[_Image], path: Path, notes: list[str]) -> np.ndarray:
    """[4, 4] from (column, row, slice) to right, front, head; gaps and odd steps are noted."""
    first = images[0]
    if len(images) == 1:
        thickness = first.thickness
        if thickness is None:
            thickness = 1.0
            notes.append("slice thickness is not stated, 1 mm is assumed: volumes are not known")
        if thickness <= 0:
            raise ValueError(
                f"{first.path}: SliceThickness is {thickness:g}, expected positive millimetres; "
                f"{AGAIN}"
            )
        step = first.normal * thickness
    else:
        step = _step(images, path, notes)
    affine = np.eye(4)
    affine[:3, 0] = first.directions[:, 0] * first.spacing[1]
    affine[:3, 1] = first.directions[:, 1] * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _step(images: Sequence[_Image], path: Path, notes: list[str]) -> np.ndarray:
    """The usual way [3] from one slice to the next, mm."""
    positions = np.stack([image.position for image in images])
    heights = np.array([image.height for image in images])
    apart = np.diff(heights)
    usual = float(np.median(apart))
    step = (positions[-1] - positions[0]) / (heights[-1] - heights[0]) * usual
    line = positions[0] + np.outer((heights - heights[0]) / usual, step)
    astray = np.linalg.norm(positions - line, axis=1)
    if astray.max() > STRAY_MM:
        worst = images[int(astray.argmax())].path.name
        raise ValueError(
            f"{path}: {worst} lies {astray.max():.1f} mm beside the line of the other slices, "
            f"expected one straight stack; move it away if it belongs to another scan"
        )
    uneven = 0
    for index, distance in enumerate(apart):
        absent = round(distance / usual) - 1
        if absent and abs(distance - (absent + 1) * usual) <= 0.2 * usual:
            notes.append(
                f"gap of {distance:.4g} mm between {images[index].path.name} and "
                f"{images[index + 1].path.name}: {absent} slices seem to be missing"
            )
        elif abs(distance - usual) > UNEVEN * usual:
            uneven += 1
    if uneven:
        notes.append(
            f"{uneven} of {len(apart)} steps between slices are uneven ({apart.min():.4g} to "
            f"{apart.max():.4g} mm); {usual:.4g} mm is used for all"
        )
    return step


def _pixels(image: _Image) -> np.ndarray:
    """Hounsfield units of a slice, [rows, columns], integer or float64."""
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


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
