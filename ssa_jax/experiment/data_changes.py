"""Whether the slices are still those that a training began with, by a hash of each."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from input_pipeline.datasets import catalog
from input_pipeline.verified import read_signed
from ssa_jax.experiment.settings import Settings

DATA_FILE = "data.json"  # in the workdir: the hash of every slice, by split and id
SHOWN = 3  # ids in a message
MEND = "restore it from a copy, or remove it to take the data as they are now"
Hashes = dict[str, dict[str, str]]  # by split and id


def hashes_of(settings: Settings, splits: Iterable[str]) -> Hashes:
    """Return the hash of every slice as the data set is now.

    Args:
        settings: whose data group is read.
        splits: names of splits; those that the data set lacks are left out.

    Raises:
        ValueError: the data set is not built, or damaged.
    """
    data = settings.data
    where: dict[str, Any] = {"data_dir": Path(data.data_dir), "task": data.task}
    there = catalog.split_names(data.name, **where)
    wanted = [split for split in dict.fromkeys(splits) if split in there]
    return {split: catalog.slice_hashes(data.name, split, **where) for split in wanted}


def stored_hashes(workdir: Path) -> Hashes | None:
    """Return the hashes that a training began with; None where none are stored.

    Args:
        workdir: of the training.

    Raises:
        ValueError: the file is damaged.
    """
    path = workdir / DATA_FILE
    if not path.exists():
        return None
    stored = read_signed(path, MEND)
    if not all(isinstance(part, dict) for part in stored.values()):
        raise ValueError(f"{path}: holds no hashes by split and id; {MEND}")
    return stored


def changes(before: Mapping[str, Mapping[str, str]], now: Hashes) -> str:
    """Say which slices were added, gone or changed; '' if none.

    Args:
        before: hashes by split and id.
        now: the same, later; splits that are in one of them alone are left out.
    """
    found = []
    for split in now:
        if split not in before:
            continue
        old, new = before[split], now[split]
        kinds = {
            "added": [name for name in new if name not in old],
            "gone": [name for name in old if name not in new],
            "changed": [name for name in new if name in old and new[name] != old[name]],
        }
        found += [f"{_count(names)} of {split!r} {kind}" for kind, names in kinds.items() if names]
    return ", ".join(found)


def _count(names: list[str]) -> str:
    """Compose a number of slices and the first names."""
    shown = ", ".join([*names[:SHOWN], *["..."] * (len(names) > SHOWN)])
    return f"{len(names)} slice{'s' * (len(names) != 1)} ({shown})"
