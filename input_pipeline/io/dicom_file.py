"""What is known of one DICOM file: the slices that its header describes, or why it has none."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

SUFFIXES = (".dcm", ".dicom", ".ima")
AGAIN = "copy or export it again"


@dataclass(frozen=True)
class Series:
    """The series of a slice.

    Attributes:
        uid: its UID (SeriesInstanceUID); 'unnamed' if it has none.
        number: SeriesNumber; '?' if it has none.
        description: SeriesDescription; '' if it has none.
        study: UID of the study, and its date.
        patient: PatientID.
    """

    uid: str
    number: str
    description: str = ""
    study: tuple[str, str] = ("", "")
    patient: str = ""


@dataclass(frozen=True, eq=False)
class Image:
    """The header of one slice: of a file, or of a frame of a file.

    Positions and directions are in DICOM's coordinates: left, back, head, in mm.

    Attributes:
        path: the file.
        frame: index of the frame; None in a file of one slice.
        uid: SOPInstanceUID of the file; '' if it has none.
        series: its series.
        shape: (rows, columns).
        position: `[3]` centre of the first pixel.
        directions: `[3, 2]` unit vectors along a row (to the next column) and along a column (to
            the next row).
        spacing: `[2]` millimetres between (rows, columns).
        thickness: millimetres; None if not stated.
        slope: factor from stored values to Hounsfield units, not 0.
        inter: offset from stored values to Hounsfield units.
        inverted: whether the slice is stored for an inverted display (MONOCHROME1).
        assumed: names of the tags that the file lacks and whose value is assumed.
        unit: of the values, where the file states one (RescaleType) that may not be Hounsfield's.
        marks: values, as text, of the tags by which acquisitions may differ.
    """

    path: Path
    frame: int | None
    uid: str
    series: Series
    shape: tuple[int, int]
    position: np.ndarray
    directions: np.ndarray
    spacing: np.ndarray
    thickness: float | None
    slope: float
    inter: float
    inverted: bool
    assumed: tuple[str, ...] = ()
    unit: str = ""
    marks: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def normal(self) -> np.ndarray:
        """Unit vector `[3]` at right angles to the slice."""
        return np.cross(self.directions[:, 0], self.directions[:, 1])

    @property
    def height(self) -> float:
        """Position of the slice along its normal, in mm."""
        return float(self.normal @ self.position)

    @property
    def key(self) -> tuple[str, int | None]:
        """What copies of one slice share: the UID of its file, and the frame."""
        return self.uid or str(self.path), self.frame

    @property
    def name(self) -> str:
        """The file's name, with the number of the frame if it has several."""
        return self.path.name + ("" if self.frame is None else f" frame {self.frame + 1}")


@dataclass(frozen=True)
class LeftOut:
    """A file that gives no slice.

    Attributes:
        path: the file.
        reason: why, in a few words that follow a number of files: 'not DICOM', 'of modality MR'.
        error: the message for a user who needs this file.
        damaged: whether it may be a slice of a CT series all the same, and so must not be left out
            of its series.
        series: UID of its series; None if unknown.
    """

    path: Path
    reason: str
    error: str
    damaged: bool = False
    series: str | None = None


def open_file(file: Path, *, pixels: bool) -> pydicom.Dataset:
    """Read a DICOM file, with or without its 128 bytes of preamble.

    Args:
        file: the file.
        pixels: whether to read its pixels too.

    Raises:
        InvalidDicomError: it is not DICOM.
        Exception: it is damaged; of many types, see `decoding`.
    """
    return pydicom.dcmread(file, stop_before_pixels=not pixels, force=_lacks_preamble(file))


def is_dicom(file: Path) -> bool:
    """Return whether a file has a suffix of DICOM, its mark, or its first element.

    Args:
        file: a file, or a link to none.

    Raises:
        OSError: the file cannot be opened.
    """
    if not file.exists():
        return False
    if file.suffix.lower() in SUFFIXES or _lacks_preamble(file):
        return True
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _lacks_preamble(file: Path) -> bool:
    """Say whether a file begins with its first element, as old programs write it.

    Such a file has no 128 bytes of preamble and no mark 'DICM'; its first element is of group 2
    (the file's own) or 8 (the data's).
    """
    with file.open("rb") as stream:
        start = stream.read(132)
    return start[128:] != b"DICM" and start[:2] in (b"\x02\x00", b"\x08\x00")


@contextmanager
def decoding(file: Path) -> Iterator[None]:
    """Turn any exception of pydicom and its decoders into a ValueError that names the file.

    Args:
        file: the file.
    """
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


def words(value: Any) -> list[str]:
    """Return a header's value of one or more words as a list, in capitals.

    Args:
        value: of a tag such as ImageType; None if it is absent.
    """
    if value is None or isinstance(value, str):
        return [str(value).upper()]
    return [str(word).upper() for word in value] if isinstance(value, Sequence) else []


def listed(names: Sequence[str]) -> str:
    """Return up to three names, and the number of the others.

    Args:
        names: of files.
    """
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def _reason(file: Path, error: Exception) -> str:
    """Return an error message of one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{file}: cannot be decoded ({reason[:200]}); {AGAIN}, or convert it to NIfTI"
