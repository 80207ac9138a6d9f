"""List the scans and pictures in the files and folders that a user names."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from input_pipeline.io import nifti
from input_pipeline.io.archive import is_archive, unpacked
from input_pipeline.io.dicom_file import is_dicom, listed
from input_pipeline.io.dicom_tree import dicom_scans, walk
from input_pipeline.io.nifti_header import VOXELS, files_of
from input_pipeline.io.read import SUFFIXES
from input_pipeline.io.scan import name_of


def is_picture_name(path: Path) -> bool:
    """Return whether a file has the suffix of an 8-bit picture.

    Args:
        path: the file; it need not exist.
    """
    return path.suffix.lower() in SUFFIXES


def holds_pictures(path: Path) -> bool:
    """Return whether an input is a picture or a folder of pictures; all others are scans.

    Args:
        path: file or folder. A folder without files counts as one of pictures; a folder that holds
            NIfTI or DICOM too does not.

    Raises:
        OSError: the folder cannot be read.
    """
    if not path.is_dir():
        return is_picture_name(path)
    others = [file for file in walk(path) if not _is_input(file)]
    if any(_is_volume(file) or is_archive(file) or is_dicom(file) for file in others):
        return False
    return not others or any(_is_input(file) for file in path.iterdir())


def find_scans(inputs: Sequence[Path], *, series: str | None = None) -> dict[str, Path]:
    """List scans by the names of their masks.

    A scan that is the only one of its input has the input's name, others that of their file or
    folder. Where names are equal, NIfTI files in folders take the folder's name, and then the names
    of more folders are put before.

    Args:
        inputs: NIfTI files, DICOM files, folders, files DICOMDIR (meaning their folder) and zip
            archives of these. A folder with NIfTI files means each of them; so does one with such
            folders at any depth, or with nothing but archives. Any other folder is one of DICOM,
            see `dicom_scans`. Both files of a pair mean one scan.
        series: which DICOM series is wanted; folders without it are left out.

    Returns:
        The path of each scan by the name of its mask, NAME.nii.gz. The path of a scan in an archive
        begins with that of the archive, as if this were a folder; `read_scan` reads it. An archive
        among others that cannot be unpacked is listed as it is, so that reading it says why.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: two scans have the same name, or no archive can be unpacked.
    """
    found: list[_Found] = []
    faults: list[Exception] = []
    for entry in _without_second_halves(inputs):
        if not entry.exists():
            raise FileNotFoundError(f"{entry}: no such file or folder")
        if entry.name.lower() == "dicomdir" and entry.is_file():
            entry = entry.parent
        archives = _only_archives(entry) if entry.is_dir() else [entry] * is_archive(entry)
        if not archives:
            given = _Found(entry, (name_of(entry),))
            found += _in_folder(entry, entry, series) if entry.is_dir() else [given]
        for archive in archives:
            try:
                found += _in_archive(archive, series)
            except (ValueError, OSError) as error:
                faults.append(error)
                found.append(_Found(archive, _names(archive, archive.parent, archive, file=True)))
    if len(faults) == len(found) and faults:
        raise faults[0]
    return _by_name(found)


def find_pictures(inputs: Sequence[Path]) -> list[Path]:
    """List pictures, sorted by name within each folder.

    Args:
        inputs: PNG or JPEG files, or folders of them (without their subfolders).

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: a folder holds no picture, or results of two pictures would have the same name.
    """
    paths: list[Path] = []
    for entry in inputs:
        if entry.is_dir():
            found = sorted(p for p in entry.iterdir() if _is_input(p))
            if not found:
                raise ValueError(f"{entry}: no picture in this folder, expected {SUFFIXES}")
            paths += found
        elif entry.exists():
            paths.append(entry)
        else:
            raise FileNotFoundError(f"{entry}: no such file or folder")
    first: dict[str, Path] = {}
    for path in paths:
        for name in output_names(path):
            if name in first:
                raise ValueError(_both(path, first[name], name))
            first[name] = path
    return paths


def output_names(picture: Path) -> tuple[str, str]:
    """Return the file names of a picture's label mask and of its overlay.

    Args:
        picture: the picture.
    """
    return f"{picture.stem}.png", f"{picture.stem}_overlay.png"


@dataclass(frozen=True)
class _Found:
    """A scan, and the names that its mask may get, the first that no other has."""

    path: Path
    names: tuple[str, ...]


def _without_second_halves(inputs: Sequence[Path]) -> list[Path]:
    """Leave out the voxels (`.img`) of a pair of files whose header is an input too."""
    given = set(inputs)
    halves = {p for p in given if p.name.lower().endswith(VOXELS) and p.is_file()}
    return [p for p in inputs if p not in halves or given.isdisjoint(files_of(p)[1:])]


def _only_archives(folder: Path) -> list[Path]:
    """Return the zip archives of a folder, and of those in it, that holds no scan besides."""
    archives = [path for path in walk(folder) if is_archive(path)]
    if not archives:
        return []
    others = (path for path in walk(folder) if not is_archive(path))
    return [] if any(_is_volume(path) or is_dicom(path) for path in others) else archives


def _in_archive(archive: Path, series: str | None) -> list[_Found]:
    """List the scans of a zip archive."""
    with unpacked(archive) as folder:
        return [
            _Found(archive / one.path.relative_to(folder), one.names)
            for one in _in_folder(folder, archive, series)
        ]


def _in_folder(folder: Path, given: Path, series: str | None) -> list[_Found]:
    """List the scans of a folder, which the user knows as `given`."""
    volumes, slices = _contents(folder)
    if volumes:
        _note_left_out(volumes, given)
    found = [_Found(path, _names(path, folder, given, file=True)) for path in volumes]
    if slices or not volumes:
        scans = dicom_scans(folder, series)
        found += [_Found(path, _names(path, folder, given, file=False)) for path in scans]
    return found


def _contents(folder: Path) -> tuple[list[Path], bool]:
    """Return the NIfTI files of a folder that are scans, and whether there is DICOM besides.

    Below a folder with scans lie masks and other results, as in the TotalSegmentator data set.
    """
    files: dict[Path, list[Path]] = {}
    for path in walk(folder):
        files.setdefault(path.parent, []).append(path)
    volumes: list[Path] = []
    with_scans: set[Path] = set()
    slices = False
    for place in sorted(files, key=lambda place: len(place.parts)):
        if not with_scans.isdisjoint(place.parents):
            continue
        found = [path for path in files[place] if _is_volume(path)]
        dicom = not found and any(is_dicom(path) for path in files[place])
        if found or dicom:
            with_scans.add(place)
        volumes += found
        slices |= dicom
    return sorted(volumes), slices


def _names(path: Path, folder: Path, given: Path, *, file: bool) -> tuple[str, ...]:
    """Return the names that a scan may get: its own, then with its folders' names before it."""
    parents = [part for part in given.parent.parts if part not in ("..", given.anchor)]
    above = [*parents, name_of(given), *path.relative_to(folder).parts]
    own = name_of(path) if file else above[-1]
    above = above[:-1]
    names = [own]
    if file:
        names.append(above[-1])
    names += ["_".join([*above[-count:], own]) for count in range(1, len(above) + 1)]
    return tuple(names)


def _by_name(found: Sequence[_Found]) -> dict[str, Path]:
    """Name scans: each gets the first of its names that no other scan has at that stage."""
    stage = [0] * len(found)
    while True:
        names = [f"{one.names[index]}.nii.gz" for one, index in zip(found, stage, strict=True)]
        counts = Counter(names)
        equal = [index for index, name in enumerate(names) if counts[name] > 1]
        if not equal:
            return dict(zip(names, (one.path for one in found), strict=True))
        last = [index for index in equal if stage[index] + 1 == len(found[index].names)]
        for index in equal:
            if index not in last:
                stage[index] += 1
        for name in {names[index] for index in last}:
            same = [found[index].path for index in last if names[index] == name]
            if len(same) > 1:
                raise ValueError(_both(same[1], same[0], name))


def _both(path: Path, other: Path, name: str) -> str:
    """Return the error of two inputs whose results would have the same name."""
    return (
        f"{path}: it and {other} would both become {name}; rename one of them, or use different "
        f"--out folders"
    )


def _note_left_out(volumes: Sequence[Path], given: Path) -> None:
    """Print which pictures and archives beside scans are left out."""
    places = sorted({path.parent for path in volumes})
    entries = [entry for place in places for entry in sorted(place.iterdir())]
    for what, is_one, then in (
        ("picture", _is_input, "pictures themselves to segment them"),
        ("archive", is_archive, "archives themselves to read them"),
    ):
        names = [entry.name for entry in entries if is_one(entry)]
        if names:
            print(
                f"{given}: {len(names)} {what}{'s' * (len(names) > 1)} left out beside the scans "
                f"({listed(names)}); name {then}",
                file=sys.stderr,
            )


def _is_volume(path: Path) -> bool:
    """Say whether a folder's entry is a NIfTI file; hidden files (a Mac's `._NAME`) are not."""
    return path.name.lower().endswith(nifti.SUFFIXES) and not path.name.startswith(".")


def _is_input(path: Path) -> bool:
    """Return whether an entry of a folder is a picture; hidden files are not."""
    return is_picture_name(path) and not path.name.startswith(".") and path.is_file()
