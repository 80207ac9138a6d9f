"""List the scans and pictures in the files and folders that a user names."""

from collections.abc import Sequence
from pathlib import Path

from input_pipeline.io import nifti
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
        path: file or folder. A folder without files counts as one of pictures.

    Raises:
        OSError: the folder cannot be read.
    """
    if path.is_dir():
        names = [entry.name.lower() for entry in path.iterdir() if entry.is_file()]
        return any(name.endswith(SUFFIXES) for name in names) or not names
    return is_picture_name(path)


def find_scans(inputs: Sequence[Path]) -> dict[str, Path]:
    """List scans by the names of their masks.

    Args:
        inputs: NIfTI files, DICOM files, and folders. A folder with NIfTI files means each of them;
            any other folder is one DICOM scan.

    Returns:
        The path of each scan by the name of its mask, NAME.nii.gz.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: two scans have the same name.
    """
    scans: dict[str, Path] = {}
    for entry in inputs:
        if not entry.exists():
            raise FileNotFoundError(f"{entry}: no such file or folder")
        volumes = []
        if entry.is_dir():
            volumes = sorted(p for p in entry.iterdir() if _is_volume(p))
        for path in volumes or [entry]:
            name = f"{name_of(path)}.nii.gz"
            if name in scans:
                raise ValueError(
                    f"{path}: it and {scans[name]} would both become {name}; rename one of them, "
                    "or use different --out folders"
                )
            scans[name] = path
    return scans


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
                raise ValueError(
                    f"{path}: it and {first[name]} would both become {name}; rename one of them, "
                    "or use different --out folders"
                )
            first[name] = path
    return paths


def output_names(picture: Path) -> tuple[str, str]:
    """Return the file names of a picture's label mask and of its overlay.

    Args:
        picture: the picture.
    """
    return f"{picture.stem}.png", f"{picture.stem}_overlay.png"


def _is_volume(path: Path) -> bool:
    """Say whether a folder's entry is a NIfTI file; hidden files (a Mac's `._NAME`) are not."""
    return path.name.lower().endswith(nifti.SUFFIXES) and not path.name.startswith(".")


def _is_input(path: Path) -> bool:
    """Return whether an entry of a folder is a picture; hidden files are not."""
    return is_picture_name(path) and not path.name.startswith(".") and path.is_file()
