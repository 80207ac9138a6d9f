"""Read a CT series in DICOM, from one file or from a folder of files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from input_pipeline.io.dicom_file import AGAIN, Image, read_header, read_pixels
from input_pipeline.io.scan import Scan, Stack, oriented

IGNORED = ("DICOMDIR", "Thumbs.db", "desktop.ini")
SAME_PLACE_MM = 0.02  # slices closer than this are at the same position
STRAY_MM = 1.0  # a slice further than this from the line of the others is of another stack
UNEVEN = 0.05  # share of the usual distance of slices; scanners round positions
SCOUT_DEGREES = 30.0  # slices at a larger angle to the others are localisers
MOST_SCOUTS = 3  # a series has at most this many localisers


def read_dicom(path: Path, *, series: str | None = None) -> Scan:
    """Read a CT series, compressed or not, in Hounsfield units.

    Slices are sorted by position. Copies of slices, localisers, other modalities and files that are
    not DICOM are left out. The scan's notes mention these, and gaps, uneven distances and gantry
    tilt. Gaps are not filled: the affine has the distance of most slices.

    Values are rescaled as the file states. MONOCHROME1 concerns the display and does not change
    Hounsfield units.

    Args:
        path: one file, or a folder whose files (not those of subfolders) are read.
        series: UID (SeriesInstanceUID) or number of the series; None if the folder has only one.

    Returns:
        The scan; the file's own grid is (columns, rows, slices along the normal).

    Raises:
        ValueError: there is nothing to read, or there are several series (the message lists them);
            a file is damaged or coloured, has several frames, no geometry or no rescale slope and
            intercept; the slices are not one stack; values are not Hounsfield units. The message
            names the file.
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
        notes.append("stored as MONOCHROME1, which changes the display but not Hounsfield units")
    stack = _read_stack(groups, path, notes)
    rows, columns = first[0].shape
    return oriented(
        stack,
        affine,
        path,
        file_shape=(columns, rows, len(groups)),
        notes=tuple(notes),
        states_hu=True,
    )


def _read_stack(groups: list[list[Image]], path: Path, notes: list[str]) -> Stack:
    """Read the pixels of the first slice at each position, and check that the others equal it."""
    stack = Stack((len(groups), *groups[0][0].shape), "hu")
    copies = 0
    for index, group in enumerate(groups):
        values = read_pixels(group[0])
        for other in group[1:]:
            if not np.array_equal(values, read_pixels(other)):
                raise ValueError(
                    f"{path}: {group[0].path.name} and {other.path.name} are different slices of "
                    f"one series at one position, expected one acquisition; keep one of the two"
                )
        stack.put(index, values, group[0].path)
        copies += len(group) - 1
    if copies:
        notes.append(f"{copies} copies of slices were left out")
    return stack


def _find(path: Path, notes: list[str]) -> list[Image]:
    """Read the headers of the CT slices of a file or folder, and note the files left out."""
    files = [path]
    if path.is_dir():
        entries = sorted(path.iterdir())
        files = [f for f in entries if f.is_file() and not f.name.startswith(".")]
        files = [f for f in files if f.name not in IGNORED]
        if not files:
            folders = ", ".join(entry.name for entry in entries if entry.is_dir())
            content = f"only the folders {folders[:80]}" if folders else "nothing"
            raise ValueError(
                f"{path}: holds {content}, expected files of CT slices; name the folder of slices"
            )
    images, left_out = [], dict[str, list[str]]()
    for file in files:
        found = read_header(file, alone=not path.is_dir())
        if isinstance(found, Image):
            images.append(found)
        else:
            left_out.setdefault(found, []).append(file.name)
    reasons = [f"{_listed(names)} left out: {reason}" for reason, names in left_out.items()]
    if not images:
        raise ValueError(f"{path}: holds no CT slice ({'; '.join(reasons)}); name a CT series")
    notes += reasons
    return images


def _choose(path: Path, images: list[Image], series: str | None) -> list[Image]:
    """Return the slices of the series that the user names, or of the only one."""
    found: dict[str, list[Image]] = {}
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
        raise ValueError(
            f"{path}: no single series is {series!r}, expected the UID or number of one: {listed}"
        )
    raise ValueError(
        f"{path}: holds {len(found)} series, expected one; choose one by its UID or number (the "
        f"option series), or put each into a folder of its own: {listed}"
    )


def _without_scouts(images: list[Image], path: Path, notes: list[str]) -> list[Image]:
    """Return the slices without unmarked localisers, and check that they have one geometry."""
    kinds: list[list[Image]] = []
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
                f"{_listed([image.path.name for image in kind])} left out: localiser (at an angle "
                f"to the other slices)"
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
            f"one stack; remove all but one kind: {listed}"
        )
    return main


def _fits(image: Image, other: Image) -> bool:
    """Return whether two slices have the same size, spacing and orientation."""
    return (
        image.shape == other.shape
        and np.allclose(image.spacing, other.spacing, rtol=1e-3)
        and np.allclose(image.directions, other.directions, atol=1e-2)
    )


def _places(images: Sequence[Image]) -> list[list[Image]]:
    """Group sorted slices by position."""
    groups = [[images[0]]]
    for image in images[1:]:
        if image.height - groups[-1][0].height < SAME_PLACE_MM:
            groups[-1].append(image)
        else:
            groups.append([image])
    return groups


def _affine(images: Sequence[Image], path: Path, notes: list[str]) -> np.ndarray:
    """Return the affine `[4, 4]` from (column, row, slice) to right, front, head; add notes."""
    first = images[0]
    if len(images) == 1:
        thickness = first.thickness
        if thickness is None:
            thickness = 1.0
            notes.append("slice thickness is not stated, 1 mm is assumed: volumes are unknown")
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


def _step(images: Sequence[Image], path: Path, notes: list[str]) -> np.ndarray:
    """Return the usual vector `[3]` from one slice to the next, in mm; note gaps and uneven steps.

    Args:
        images: two slices or more, sorted by position.
        path: the file or folder, for messages.
        notes: sentences for the user; more are added.
    """
    positions = np.stack([image.position for image in images])
    heights = np.array([image.height for image in images])
    distances = np.diff(heights)
    usual = float(np.median(distances))
    step = (positions[-1] - positions[0]) / (heights[-1] - heights[0]) * usual
    line = positions[0] + np.outer((heights - heights[0]) / usual, step)
    offsets = np.linalg.norm(positions - line, axis=1)
    if offsets.max() > STRAY_MM:
        worst = images[int(offsets.argmax())].path.name
        raise ValueError(
            f"{path}: {worst} lies {offsets.max():.1f} mm beside the line of the other slices, "
            f"expected one straight stack; remove it if it belongs to another scan"
        )
    uneven = 0
    for index, distance in enumerate(distances):
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
            f"{uneven} of {len(distances)} steps between slices are uneven "
            f"({distances.min():.4g} to {distances.max():.4g} mm); {usual:.4g} mm is used for all"
        )
    return step


def _listed(names: Sequence[str]) -> str:
    """Return up to three names, and the number of the others."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
