"""Parts of a data set that several jobs build, and what becomes of them.

Part I of N has the I-th of N runs of volumes, so that the records of all parts, one after the
other, are those of the whole. Each part is a data set of its own beside the whole one.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from input_pipeline.records import Records, open_folder

T = TypeVar("T")
Part = tuple[int, int]  # its number, from 1, and that of all parts
FOLDER = ".parts"


def folder_of(whole: Path, part: Part) -> Path:
    """Return the folder of a part's records.

    Args:
        whole: folder of the records of the data set.
        part: which one.
    """
    number, count = part
    return whole.parent / FOLDER / f"{whole.name}-{number}-of-{count}"


def share(splits: Mapping[str, Sequence[T]], part: Part) -> dict[str, list[T]]:
    """Return the items of a part by split, in order; splits without any are left out.

    Args:
        splits: items of the whole by split.
        part: which one.

    Raises:
        ValueError: there are more parts than items.

    Example:
        >>> [share({"train": "abc", "test": "de"}, (number, 2)) for number in (1, 2)]
        [{'train': ['a', 'b', 'c']}, {'test': ['d', 'e']}]
    """
    number, count = part
    everything = [(split, item) for split, items in splits.items() for item in items]
    if count > len(everything):
        raise ValueError(
            f"--shard {number}/{count}: there are {len(everything)} volumes; expected as many "
            "parts or fewer"
        )
    chosen: dict[str, list[T]] = {}
    for place in np.array_split(np.arange(len(everything)), count)[number - 1]:
        split, item = everything[place]
        chosen.setdefault(split, []).append(item)
    return chosen


def built(whole: Path) -> list[Path]:
    """Return the folders of all parts, in their order; none if none was begun.

    Args:
        whole: folder of the records of the data set.

    Raises:
        ValueError: some are missing, or there are parts of several divisions.
    """
    there = sorted((whole.parent / FOLDER).glob(f"{whole.name}-*-of-*"))
    if not there:
        return []
    counts = {int(path.name.rpartition("-")[2]) for path in there}
    mend = f"build what is missing with --shard, or remove {there[0].parent} to read all files here"
    if len(counts) > 1:
        listed = " and of ".join(map(str, sorted(counts)))
        raise ValueError(
            f"{there[0].parent}: there are parts of {listed}; remove the folders of one division"
        )
    (count,) = counts
    wanted = [folder_of(whole, (number, count)) for number in range(1, count + 1)]
    missing = [f"{number}/{count}" for number, path in enumerate(wanted, 1) if path not in there]
    if missing:
        raise ValueError(f"{there[0].parent}: parts {', '.join(missing)} are missing; {mend}")
    return wanted


def records_of(folders: Sequence[Path], split: str, mend: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a split of all parts.

    Args:
        folders: of the parts, in their order.
        split: name of the split, which a part without a volume of it lacks.
        mend: what to do if they are damaged, for the message.

    Raises:
        ValueError: they are damaged.
    """
    for folder in folders:
        if split in open_folder(folder, mend).info.splits:
            yield from Records(folder, split, mend)
