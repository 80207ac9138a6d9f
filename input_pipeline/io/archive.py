"""Unpack a zip archive into a temporary folder, without trusting it."""

import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

SUFFIX = ".zip"
MOST_BYTES = 8 * 2**30  # of all files of an archive; a study of 10,000 slices has 5 GiB
MOST_FILES = 100_000
BLOCK = 2**20


def is_archive(path: Path) -> bool:
    """Return whether a path is a zip archive, by its name.

    Args:
        path: file or folder.
    """
    return path.suffix.lower() == SUFFIX and path.is_file()


def archive_of(path: Path) -> Path | None:
    """Return the archive that a path is or lies in; None if it lies in none.

    Args:
        path: a path such as `study.zip/SE1`.
    """
    return next((part for part in (path, *path.parents) if is_archive(part)), None)


@contextmanager
def unpacked(archive: Path, inside: Path = Path()) -> Iterator[Path]:
    """Unpack an archive into a temporary folder, which is removed afterwards.

    Links are left out. Nothing is written outside the folder.

    Args:
        archive: the zip file.
        inside: a file or folder in it; only this is unpacked.

    Raises:
        ValueError: it is no zip archive, damaged, encrypted, larger than 8 GiB or of more than
            100,000 files, or names a file outside itself or twice. The message names it.
        OSError: it cannot be opened, or the temporary folder is full.
    """
    with tempfile.TemporaryDirectory(prefix="ssa_jax_") as temporary:
        folder = Path(temporary)
        try:
            with zipfile.ZipFile(archive) as packed:
                _unpack(packed, archive, inside, folder)
        except Exception as error:  # damaged bytes raise many types
            if str(error).startswith(f"{archive}:") or getattr(error, "filename", None):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(
                f"{archive}: cannot be unpacked ({reason}), expected a zip archive; copy it again "
                f"or unpack it yourself"
            ) from None
        yield folder


def _unpack(packed: zipfile.ZipFile, archive: Path, inside: Path, folder: Path) -> None:
    """Write the files of an open archive to a folder, after checking their names and sizes."""
    files = [
        item
        for item in packed.infolist()
        if not item.is_dir() and not stat.S_ISLNK(item.external_attr >> 16)
    ]
    places = {item: _place(item.filename, archive) for item in files}
    if len(set(places.values())) < len(files):
        raise ValueError(f"{archive}: holds two files of one name; unpack it yourself")
    size = sum(item.file_size for item in files)
    if len(files) > MOST_FILES or size > MOST_BYTES:
        raise ValueError(
            f"{archive}: holds {len(files)} files of {size / 2**30:.1f} GiB, expected {MOST_FILES} "
            f"files of {MOST_BYTES / 2**30:.0f} GiB at most; unpack it yourself"
        )
    for item, place in places.items():
        if not place.is_relative_to(PurePosixPath(inside.as_posix())):
            continue
        if item.flag_bits & 1:
            raise ValueError(f"{archive}: is encrypted; unpack it yourself")
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        with packed.open(item) as source, target.open("xb") as file:
            # zipfile reads no more than the size that was checked above
            shutil.copyfileobj(source, file, BLOCK)


def _place(name: str, archive: Path) -> PurePosixPath:
    """Return the place of a file in an archive, which must lie inside it."""
    place = PurePosixPath(name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts or ":" in place.parts[0] or not place.parts:
        raise ValueError(
            f"{archive}: names the file {name[:80]!r}, expected one inside the archive; do not "
            f"use it"
        )
    return place
