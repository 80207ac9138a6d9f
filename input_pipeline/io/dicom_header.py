"""Read the header of a DICOM file: its slices, one or a frame each, or why it gives none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

from input_pipeline.io.dicom_file import AGAIN, Image, LeftOut, Series, decoding, open_file, words

GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
RESCALE = ("RescaleSlope", "RescaleIntercept")
UNIT = "RescaleType"
# DICOM's names of other units: optical density, iodine, atomic number, electron density, percent.
OTHER_UNITS = ("OD", "MGML", "Z_EFF", "ED", "EDW", "PCT")
MARKS = (  # tags by which acquisitions within a series may differ
    "AcquisitionNumber", "TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase",
    "EchoNumbers", "KVP", "ConvolutionKernel", "StackID", "ImageType", "SliceThickness",
    "AcquisitionDateTime", "AcquisitionTime", "ContentTime", "InstanceNumber",
)  # fmt: skip
OTHERS = ("Rows", "Columns", "SliceLocation", "PhotometricInterpretation")
USED = (*GEOMETRY, *RESCALE, UNIT, *MARKS, *OTHERS)
FRAME_NAMES = {  # of tags that have another name where they belong to a frame
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameAcquisitionDateTime": "AcquisitionDateTime",
    "FrameType": "ImageType",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
}
SLICES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
ORIGINAL = {"ORIGINAL", "PRIMARY"}  # ImageType of a slice, but of no screenshot
POSITION = "ImagePositionPatient"
FRAMES = "PerFrameFunctionalGroupsSequence"
UNNAMED = "unnamed"
NAME_CT = "name a CT series"
ORIGINAL_SERIES = "export the original series, not screenshots or derived pictures"
LOCALISER = ("of a localiser", f"is a localiser, expected a CT slice; {NAME_CT}", False)
WIDEST = 4096  # pixels; a CT slice is never larger, but a damaged header may state more


def read_header(file: Path) -> list[Image] | LeftOut:
    """Read the header of a file.

    Args:
        file: the file.

    Returns:
        Its slices, or why it has none: it is empty, damaged, not DICOM, of another modality, a
        localiser, coloured, or has no geometry.

    Raises:
        OSError: the file cannot be opened.
    """
    if file.is_symlink() and not file.exists():
        error = f"{file}: is a link to a file that is not there, expected a slice; fetch it"
        return LeftOut(file, "of broken links", error, damaged=True)
    if not file.stat().st_size:
        return LeftOut(file, "empty", f"{file}: the file is empty; {AGAIN}", damaged=True)
    series = None
    try:
        with decoding(file):
            try:
                header = open_file(file, pixels=False)
            except InvalidDicomError:
                error = f"{file}: not a DICOM file (no DICM mark); {AGAIN}"
                return LeftOut(file, "not DICOM", error, damaged=True)
            series = _series(header)
            reason = _without_slice(header)
            if reason is None:
                frames = [tags for tags in _frames(header, file) if not _is_localiser(tags)]
                reason = _other_unit(frames) if frames else LOCALISER
                reason = reason or _without_geometry(frames, header)
            if reason is not None:
                few, error, damaged = reason
                return LeftOut(file, few, f"{file}: {error}", damaged, _known(series))
            return [_image(tags, header, series, file) for tags in frames]
    except ValueError as error:
        return LeftOut(file, "damaged", str(error), damaged=True, series=_known(series))


def _known(series: Series | None) -> str | None:
    """Return the UID of a series; None if it is unknown."""
    return None if series is None or series.uid == UNNAMED else series.uid


def _series(header: pydicom.Dataset) -> Series:
    """Return the series that a header names."""
    study = (str(header.get("StudyInstanceUID") or ""), str(header.get("StudyDate") or ""))
    number = header.get("SeriesNumber")
    return Series(
        uid=str(header.get("SeriesInstanceUID") or UNNAMED),
        number="?" if number is None else str(number),
        description=" ".join(str(header.get("SeriesDescription") or "").split()),
        study=study,
        patient=str(header.get("PatientID") or ""),
    )


def _without_slice(header: pydicom.Dataset) -> tuple[str, str, bool] | None:
    """Return why a file holds no CT slice: in few words, as an error, and whether it is damaged."""
    if (modality := header.get("Modality")) not in ("CT", None, ""):
        return f"of modality {modality}", f"is of modality {modality}, not CT; {NAME_CT}", False
    kind = _kind(header)
    if kind == MediaStorageDirectoryStorage:
        return "of an index (DICOMDIR)", f"is the index of a disc; {NAME_CT}", False
    if "Rows" not in header or "Columns" not in header:
        if modality in (None, "") or kind is None or kind in SLICES:
            return "damaged", f"ends before its image (no Rows, no Columns); {AGAIN}", True
        return "without an image", f"has no image; {NAME_CT}", False
    if _is_localiser({"ImageType": header.get("ImageType")}):
        return LOCALISER
    if int(header.get("SamplesPerPixel") or 1) != 1:
        return "coloured", f"is coloured, expected grey CT values; {ORIGINAL_SERIES}", False
    count = int(header.get("NumberOfFrames") or 1)
    if count != 1 and FRAMES not in header:
        error = f"holds {count} frames without positions, expected those of an enhanced CT; "
        return "of several frames without positions", error + ORIGINAL_SERIES, False
    return None


def _other_unit(frames: list[dict[str, Any]]) -> tuple[str, str, bool] | None:
    """Return why values are not Hounsfield units where they have another, as `_without_slice`."""
    unit = next((unit for unit in map(_unit, frames) if unit in OTHER_UNITS), None)
    if unit is None:
        return None
    error = f"states its values as {unit} (RescaleType), expected Hounsfield units; {NAME_CT}"
    return f"of values in {unit}, not HU", error, False


def _unit(tags: Mapping[str, Any]) -> str:
    """Return the unit that a slice states; '' for none, and for Hounsfield's."""
    unit = "" if _absent(tags, UNIT) else _text(tags[UNIT]).strip().upper()
    return "" if unit == "HU" or unit.startswith("HOUNSFIELD") else unit


def _without_geometry(
    frames: list[dict[str, Any]], header: pydicom.Dataset
) -> tuple[str, str, bool] | None:
    """Return why slices cannot be placed in the patient, as `_without_slice` does."""
    missing = [
        name
        for name in GEOMETRY
        if any(_absent(tags, name) for tags in frames)
        and (name != POSITION or any(_absent(tags, "SliceLocation") for tags in frames))
    ]
    if not missing:
        return None
    named = ", ".join(f"{POSITION} or SliceLocation" if n == POSITION else n for n in missing)
    error = f"has no {named}, expected an original CT slice; {ORIGINAL_SERIES}"
    original = set(words(header.get("ImageType"))) >= ORIGINAL
    return "without geometry", error, original and _kind(header) in (None, *SLICES)


def _frames(header: pydicom.Dataset, file: Path) -> list[dict[str, Any]]:
    """Return the tags of each slice: those of the file, or of each frame of an enhanced CT."""
    whole = {name: header.get(name) for name in USED}
    if FRAMES not in header:
        return [whole]
    frames = header[FRAMES].value
    if len(frames) != int(header.get("NumberOfFrames") or 1):
        raise ValueError(
            f"{file}: describes {len(frames)} frames, expected {header.get('NumberOfFrames')}; "
            f"{AGAIN}"
        )
    shared = [_of_groups(item) for item in header.get("SharedFunctionalGroupsSequence") or ()]
    for tags in shared[:1]:
        whole |= tags
    numbers = {"InstanceNumber": None}  # the file's, which is no frame's
    return [
        whole | numbers | _of_groups(item) | {"frame": index} for index, item in enumerate(frames)
    ]


def _of_groups(item: pydicom.Dataset) -> dict[str, Any]:
    """Return the tags in use from the functional groups of a frame, or of all frames."""
    found = {}
    for group in item:
        if group.VR != "SQ" or not group.value:
            continue
        for element in group.value[0]:
            name = FRAME_NAMES.get(element.keyword, element.keyword)
            if name in USED:
                found[name] = element.value
    return found


def _image(tags: Mapping[str, Any], header: pydicom.Dataset, series: Series, file: Path) -> Image:
    """Check the tags of one slice, and return them."""
    assumed = [name for name in (POSITION, *RESCALE) if _absent(tags, name)]
    cosines, spacing = (np.asarray(tags[name], np.float64) for name in GEOMETRY[1:])
    if (cosines.shape, spacing.shape) != ((6,), (2,)):
        raise ValueError(f"{file}: orientation or spacing is incomplete; {AGAIN}")
    directions = cosines.reshape(2, 3).T
    position = _position(tags, directions)
    slope = 1.0 if "RescaleSlope" in assumed else float(tags["RescaleSlope"])
    inter = 0.0 if "RescaleIntercept" in assumed else float(tags["RescaleIntercept"])
    shape = (int(tags["Rows"]), int(tags["Columns"]))
    if position.shape != (3,):
        raise ValueError(f"{file}: position is incomplete; {AGAIN}")
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
    thickness = tags.get("SliceThickness")
    return Image(
        path=file,
        frame=tags.get("frame"),
        uid=str(header.get("SOPInstanceUID") or ""),
        series=series,
        shape=shape,
        position=position,
        directions=directions / np.linalg.norm(directions, axis=0),
        spacing=spacing,
        thickness=float(thickness) if thickness else None,
        slope=slope,
        inter=inter,
        inverted=tags.get("PhotometricInterpretation") == "MONOCHROME1",
        assumed=tuple(assumed),
        unit=_unit(tags),
        marks={name: _text(tags[name]) for name in MARKS if not _absent(tags, name)},
    )


def _position(tags: Mapping[str, Any], directions: np.ndarray) -> np.ndarray:
    """Return the position of a slice; from SliceLocation, on the line through the origin."""
    if not _absent(tags, POSITION):
        return np.asarray(tags[POSITION], np.float64)
    normal = np.cross(directions[:, 0], directions[:, 1])
    towards_head = 1.0 if normal[2] >= 0 else -1.0
    return normal * towards_head * float(tags["SliceLocation"])


def _kind(header: pydicom.Dataset) -> str | None:
    """Return the UID of the kind of object (SOP class) that a file holds."""
    return header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")


def _is_localiser(tags: Mapping[str, Any]) -> bool:
    """Say whether a slice is marked as a localiser."""
    return "LOCALIZER" in words(tags["ImageType"])


def _absent(tags: Mapping[str, Any], name: str) -> bool:
    """Say whether a tag is absent or empty."""
    value = tags.get(name)
    return value is None or value == ""


def _text(value: Any) -> str:
    """Return a tag's value as text, so that equal values are equal."""
    if isinstance(value, int | float):
        return f"{value:.10g}"
    return str(value) if isinstance(value, str) else "\\".join(map(_text, value))
