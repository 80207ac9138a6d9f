"""Which folders below a folder are DICOM scans."""

import os
from collections.abc import Iterator
from pathlib import Path

from input_pipeline.io.dicom_choice import are_scouts, is_named, split_wanted
from input_pipeline.io.dicom_file import Image, LeftOut
from input_pipeline.io.dicom_header import read_header

HIDDEN = (".", "__MACOSX")  # how the names of hidden files and folders begin


def walk(folder: Path) -> Iterator[Path]:
    """List the files of a folder and its subfolders, sorted, without hidden ones.

    Links to files that are not there are listed too, so that none is lost unnoticed.

    Args:
        folder: the folder.

    Raises:
        OSError: it cannot be read.
    """

    def inside(place: Path, above: frozenset[str]) -> Iterator[Path]:
        real = os.path.realpath(place)
        if real in above:  # a link that leads back
            return
        for entry in sorted(place.iterdir()):
            if entry.name.startswith(HIDDEN):
                continue
            if entry.is_dir():
                yield from inside(entry, above | {real})
            elif entry.is_file() or entry.is_symlink():
                yield entry

    return inside(folder, frozenset())


def dicom_scans(folder: Path, series: str | None) -> list[Path]:
    """List the folders below a folder that are a scan each.

    A scan is all that lies in and below its folder. So a series that is spread over several folders
    counts as one scan, of the folder that holds these; a folder with other scans below it is one
    scan with them, from which the user must choose a series.

    Args:
        folder: the folder.
        series: which series is wanted, see `choose_series`; None if each folder has only one.

    Returns:
        Folders with CT slices, sorted; `folder` itself if there is only one, or none.

    Raises:
        OSError: the folder or a file cannot be read.
    """
    if len({file.parent for file in walk(folder)}) < 2:
        return [folder]
    slices: dict[Path, list[Image]] = {}
    for file in walk(folder):
        found = read_header(file)
        if not isinstance(found, LeftOut):
            slices.setdefault(file.parent, []).extend(found)
    of_folder = {place: _series(images, series) for place, images in slices.items()}
    scans: dict[Path, set[str]] = {}
    for place, uids in of_folder.items():
        if uids:
            _add(scans, place, uids)
    return sorted(scans) if len(scans) > 1 else [folder]


def _series(images: list[Image], wanted: str | None) -> set[str]:
    """Return the UIDs of the series of a folder that are wanted, without localisers."""
    found: dict[str, list[Image]] = {}
    for image in images:
        found.setdefault(image.series.uid, []).append(image)
    name = split_wanted(wanted, images)[0]
    return {
        uid
        for uid, slices in found.items()
        if (not are_scouts(slices) if name is None else is_named(slices[0].series, name))
    }


def _add(scans: dict[Path, set[str]], place: Path, uids: set[str]) -> None:
    """Add a folder of slices to the scans; unite it with those that share a series or contain it.

    Args:
        scans: the series of each scan's folder; changed in place.
        place: the folder.
        uids: of its series.
    """
    while True:
        for other, theirs in scans.items():
            shared = Path(os.path.commonpath([place, other]))
            if uids & theirs or shared in (place, other):
                place, uids = shared, uids | theirs
                del scans[other]
                break
        else:
            scans[place] = uids
            return
