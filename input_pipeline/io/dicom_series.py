"""Read a CT series in DICOM, from one file or from a folder and its subfolders."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from input_pipeline.io.dicom_choice import (
    MOST_SCOUTS,
    SCOUT_DEGREES,
    choose_acquisition,
    kinds_of,
    places,
    split_wanted,
)
from input_pipeline.io.dicom_file import Image, listed
from input_pipeline.io.dicom_header import POSITION, RESCALE
from input_pipeline.io.dicom_pixels import PixelReader
from input_pipeline.io.dicom_slices import find_slices
from input_pipeline.io.dicom_stack import affine_of, lay_out, line_of, lone_step, notes_of
from input_pipeline.io.scan import Scan, oriented
from input_pipeline.io.stack import Stack

AIR_AND_LUNG_HU = (-1100, -300)
UNSPECIFIED = "US"  # as a unit
LEAST_AIR = 0.005  # share of the voxels of a chest that are air or lung


def read_dicom(path: Path, *, series: str | None = None) -> Scan:
    """Read a CT series, compressed or not, in Hounsfield units.

    Slices, also the frames of an enhanced CT, are sorted by position. Copies of slices and all
    files that are no slice of the series are left out; the scan's notes count them, and mention
    tags whose value is assumed, gaps, uneven distances and gantry tilt. `Scan.slice_mm` has the
    extents of uneven slices, and `Scan.planes` says where slices are missing.

    Values are rescaled as the file states. MONOCHROME1 concerns the display and does not change
    Hounsfield units.

    Args:
        path: one file, or a folder, whose subfolders belong to it; a file DICOMDIR means its
            folder.
        series: number, UID or description of the series; '3:2' is acquisition 2 of series 3. None
            if there is only one.

    Returns:
        The scan; the file's own grid is (columns, rows, planes along the normal).

    Raises:
        ValueError: there is nothing to read, or there are several series or acquisitions (the
            message lists them); a file of the series is damaged; the slices are not one stack;
            values are not Hounsfield units. The message names the file.
        OSError: a file or the folder cannot be opened.
    """
    if path.name.lower() == "dicomdir" and path.is_file():
        path = path.parent
    notes: list[str] = []
    images = find_slices(path, series, notes)
    _, acquisition = split_wanted(series, images)
    images = sorted(_without_scouts(images, notes), key=lambda image: image.height)
    pixels = PixelReader()
    images = choose_acquisition(path, images, acquisition, lambda groups: _differ(groups, pixels))
    _check_kind(images, path)
    groups = places(images)
    first = [group[0] for group in groups]
    stack = _read_stack(groups, pixels, path, notes)
    _check_assumed(first, stack.array, path)  # before padding counts as air
    notes += _unit_notes(first, stack.array)
    return _placed(stack, first, path, notes)


def _without_scouts(images: list[Image], notes: list[str]) -> list[Image]:
    """Return the slices without unmarked localisers."""
    main, *others = kinds_of(images)
    kept = list(main)
    for kind in others:
        angle = np.degrees(np.arccos(min(1.0, abs(kind[0].normal @ main[0].normal))))
        if angle > SCOUT_DEGREES and len(kind) <= MOST_SCOUTS < len(main):
            notes.append(
                f"{listed([image.name for image in kind])} left out: localiser (at an angle "
                f"to the other slices)"
            )
        else:
            kept += kind
    return kept


def _check_kind(images: Sequence[Image], path: Path) -> None:
    """Check that slices have one geometry, and that all lack the same tags."""
    kinds = kinds_of(images)
    if len(kinds) > 1:
        described = "; ".join(
            f"{len(kind)} of {kind[0].shape[0]} x {kind[0].shape[1]} pixels of "
            f"{kind[0].spacing[0]:g} x {kind[0].spacing[1]:g} mm such as {kind[0].name}"
            for kind in kinds
        )
        raise ValueError(
            f"{path}: one series with slices of different size, spacing or orientation, expected "
            f"one stack; remove all but one kind: {described}"
        )
    if len({image.assumed for image in images}) > 1:
        odd = min(images, key=lambda image: -len(image.assumed))
        raise ValueError(
            f"{odd.path}: has no {', '.join(odd.assumed)}, expected these as in the other slices; "
            f"remove it, or export it again"
        )


def _differ(groups: Sequence[Sequence[Image]], pixels: PixelReader) -> bool:
    """Say whether slices at one position have other pixels, and are not copies by name."""
    for group in groups:
        others = [image for image in group[1:] if image.key != group[0].key]
        if others:
            first = pixels.read(group[0])
            if any(not np.array_equal(first, pixels.read(image)) for image in others):
                return True
    return False


def _read_stack(
    groups: list[list[Image]], pixels: PixelReader, path: Path, notes: list[str]
) -> Stack:
    """Read the pixels of the first slice at each position, and check that the others equal it."""
    stack = Stack((len(groups), *groups[0][0].shape), "hu")
    copies = 0
    for index, group in enumerate(groups):
        values = pixels.read(group[0])
        for other in group[1:]:
            if not np.array_equal(values, pixels.read(other)):
                raise ValueError(
                    f"{path}: {group[0].name} and {other.name} are different slices of "
                    f"one series at one position, expected one acquisition; keep one of the two"
                )
        stack.put(index, values, group[0].path)
        copies += len(group) - 1
    if copies:
        notes.append(f"{copies} copies of slices were left out")
    return stack


def _placed(stack: Stack, images: Sequence[Image], path: Path, notes: list[str]) -> Scan:
    """Return the scan of slices sorted by position, with their extents and planes."""
    rows, columns = images[0].shape
    states_hu = not any(name in RESCALE for name in images[0].assumed)
    if len(images) == 1:
        affine = affine_of(images, lone_step(images[0], notes))
        notes += _tag_notes(images)
        return oriented(
            stack,
            affine,
            path,
            file_shape=(columns, rows, 1),
            notes=tuple(notes),
            states_hu=states_hu,
        )
    way = line_of(images, path)
    thick = [image.thickness for image in images if image.thickness]
    heights = np.array([image.height for image in images])
    try:
        layout = lay_out(heights, float(np.median(thick)) if thick else None)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    notes += [*notes_of(layout, images), *_tag_notes(images)]
    planes = layout.planes
    scan = oriented(
        stack,
        affine_of(images, way * layout.step),
        path,
        file_shape=(columns, rows, len(images) if planes is None else len(planes)),
        notes=tuple(notes),
        states_hu=states_hu,
    )
    if planes is None and layout.slice_mm is None:
        return scan
    if scan.axes[0] != 2:
        raise ValueError(
            f"{path}: slices are missing or uneven ({'; '.join(notes_of(layout, images))}), "
            f"expected an even stack as it is not axial; export axial slices"
        )
    assert scan.spacing is not None
    down = scan.flips[0]
    if planes is not None and down:
        planes = tuple(len(images) - 1 - k if k >= 0 else -1 for k in reversed(planes))
    extents = layout.slice_mm
    return replace(
        scan,
        spacing=(layout.usual, *scan.spacing[1:]),
        planes=planes,
        slice_mm=extents[::-1] if extents is not None and down else extents,
    )


def _tag_notes(images: Sequence[Image]) -> list[str]:
    """Return notes on tags that are absent, or that look as if they mattered and do not."""
    notes = []
    assumed = images[0].assumed
    if any(name in RESCALE for name in assumed):
        named = " and ".join(name for name in assumed if name in RESCALE)
        notes.append(f"has no {named}: slope 1 and intercept 0 are assumed, which the values fit")
    if POSITION in assumed:
        notes.append(
            "has no ImagePositionPatient: SliceLocation is used, as mm towards the head; check "
            "that the slices are not upside down, and do not rely on positions in the mask"
        )
    if any(image.inverted for image in images):
        notes.append("stored as MONOCHROME1, which changes the display but not Hounsfield units")
    return notes


def _check_assumed(images: Sequence[Image], values: np.ndarray, path: Path) -> None:
    """Check that values without a stated rescale slope or intercept are Hounsfield units."""
    absent = [name for name in images[0].assumed if name in RESCALE]
    if not absent:
        return
    low, high = AIR_AND_LUNG_HU
    share = _air_share(values)
    if share < LEAST_AIR:
        raise ValueError(
            f"{images[0].path}: has no {', '.join(absent)}, and {share:.1%} of the voxels of "
            f"{path.name} lie in {low} to {high}, expected {LEAST_AIR:.1%} or more (air and lung) "
            f"in Hounsfield units; export the original series, or set the tags (the intercept is "
            f"-1024 in most scanners)"
        )


def _unit_notes(images: Sequence[Image], values: np.ndarray) -> list[str]:
    """Doubt values whose stated unit is none, or is not known to be another than Hounsfield's."""
    units = {image.unit for image in images} - {""}
    share = _air_share(values)
    if units <= {UNSPECIFIED} and (not units or share >= LEAST_AIR):
        return []
    low, high = AIR_AND_LUNG_HU
    return [
        f"states its values as {', '.join(sorted(units))} (RescaleType), expected HU, and "
        f"{share:.1%} of the voxels lie in {low} to {high} (air and lung in Hounsfield units); if "
        "they are in another unit, name a series in Hounsfield units"
    ]


def _air_share(values: np.ndarray) -> float:
    """Return the share of the voxels that are air or lung if the values are Hounsfield units."""
    low, high = AIR_AND_LUNG_HU
    return float(((values >= low) & (values <= high)).mean())
