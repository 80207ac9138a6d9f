"""Which files of a folder are slices of the wanted series; the others are left out and counted."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from input_pipeline.io.dicom_choice import choose_series, split_wanted
from input_pipeline.io.dicom_file import SUFFIXES, Image, LeftOut, listed
from input_pipeline.io.dicom_header import read_header
from input_pipeline.io.dicom_tree import walk

IGNORED = ("dicomdir", "thumbs.db", "desktop.ini")
PATTERNS = 3  # of the names of a series' slices; with more, any file may be one of them


def find_slices(path: Path, series: str | None, notes: list[str]) -> list[Image]:
    """Read the headers of a file, or of a folder and its subfolders.

    Args:
        path: the file or folder.
        series: which series is wanted, see `choose_series`; None if there is only one.
        notes: sentences for the user; one on all files that are left out is added.

    Returns:
        The slices of one series.

    Raises:
        ValueError: there is none, or not one that is wanted; or a file is damaged that may be one
            of its slices: its header names the series, or else it is named like the slices but
            for digits.
        OSError: a file or the folder cannot be opened.
    """
    files = [path]
    if path.is_dir():
        files = [file for file in walk(path) if file.name.lower() not in IGNORED]
        if not files:
            folders = ", ".join(sorted(entry.name for entry in path.iterdir() if entry.is_dir()))
            content = f"only the folders {folders[:80]}" if folders else "nothing"
            raise ValueError(
                f"{path}: holds {content}, expected files of CT slices; name the folder of slices"
            )
    images: list[Image] = []
    left_out: list[LeftOut] = []
    for file in files:
        found = read_header(file)
        if isinstance(found, LeftOut):
            left_out.append(found)
        else:
            images += found
    if not images:
        _refuse(path, left_out)
    chosen = choose_series(path, images, split_wanted(series, images)[0])
    for one in left_out:
        if one.damaged and _may_belong(one, chosen):
            raise ValueError(one.error)
    notes += _counted(left_out, images, chosen)
    return chosen


def _refuse(path: Path, left_out: Sequence[LeftOut]) -> None:
    """Raise the error of a file or folder without CT slices."""
    for one in left_out:
        if not path.is_dir() or (one.damaged and one.series):
            raise ValueError(one.error)
    raise ValueError(
        f"{path}: holds no CT slice ({_reasons(left_out)}), expected those of a series; name the "
        f"folder of a CT series"
    )


def _may_belong(one: LeftOut, chosen: Sequence[Image]) -> bool:
    """Say whether a damaged file may be a slice of the chosen series.

    Its series is stated, or else it is named like the slices but for digits.
    """
    if one.series is not None:
        return one.series == chosen[0].series.uid
    patterns = {_pattern(image.path) for image in chosen}
    return _pattern(one.path) in patterns or len(patterns) > PATTERNS


def _pattern(file: Path) -> str:
    """Return the name of a file with '#' for numbers, and without a suffix of DICOM."""
    name = file.stem if file.suffix.lower() in SUFFIXES else file.name
    return re.sub(r"\d+", "#", name)


def _counted(
    left_out: Sequence[LeftOut], images: Sequence[Image], chosen: Sequence[Image]
) -> list[str]:
    """Return a note on the files that were left out, if there are any."""
    others = {image.path for image in images} - {image.path for image in chosen}
    extra = [LeftOut(file, "of other series", "") for file in sorted(others)]
    every = [*left_out, *extra]
    if not every:
        return []
    return [f"{len(every)} file{'s' * (len(every) > 1)} left out: {_reasons(every)}"]


def _reasons(left_out: Sequence[LeftOut]) -> str:
    """Return the reasons, each with the number of files and some of their names."""
    counts = Counter(one.reason for one in left_out)
    return "; ".join(
        f"{count} {reason} ({listed([o.path.name for o in left_out if o.reason == reason])})"
        for reason, count in counts.most_common()
    )
