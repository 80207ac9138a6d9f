"""What a network was trained on, as its masks and tables say it."""

import hashlib
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.datasets import catalog
from input_pipeline.files import write_json
from input_pipeline.lungs.origin import THRESHOLD, LungOrigin, origin_of
from input_pipeline.verified import read_signed, signed
from ssa_jax.experiment.settings import Settings

FILE = "training.json"
# Data sets of made-up chests.
PHANTOMS = frozenset(name for name, info in catalog.DATASETS.items() if info.made_from is not None)
MEND = "restore it from a copy, or remove it"
SAVED = "saved"  # entry of the note once a network was saved
SHOWN = 12  # characters of a hash that are shown


class Provenance(NamedTuple):
    """The origin of a network.

    Attributes:
        data: what it was trained on.
        slices: number of its training slices; None if unknown.
        date: when its training began, ISO; None if unknown.
        weights: SHA-256 of its variables, of an ensemble that of its networks'; '' if unknown.
        phantoms: whether it was trained on made-up chests alone.
        lungs: where its lung masks came from; None without lung masks, or if unknown.
        members: of an ensemble the hashes of its networks' weights, sorted.
    """

    data: str
    slices: int | None
    date: str | None
    weights: str
    phantoms: bool
    lungs: LungOrigin | None = None
    members: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in less than 80 characters where the name of the data set is short."""
        each = " each" if self.members else ""
        known = [f"{self.slices} slices{each}" if self.slices else None, self.date]
        weights = f"weights {self.weights[:SHOWN]}" if self.weights else None
        return ", ".join(filter(None, [self.data, *known, weights]))

    def lung_notes(self, used: LungOrigin) -> list[str]:
        """Say if lung masks are others than those that the network was trained with.

        Args:
            used: origin of the masks that it gets.

        Returns:
            A sentence, or nothing.
        """
        if self.lungs is None or self.lungs.same(used):
            return []
        return [f"trained with {self.lungs}; {used} are used instead; {self.lungs.remedy}"]


def joined(origins: Sequence[Provenance]) -> Provenance:
    """Return the origin of an ensemble.

    Args:
        origins: of its networks, with the hashes of their weights; their order does not matter.
    """
    data = " and ".join(sorted({origin.data for origin in origins}))
    slices, dates = ({getattr(one, name) for one in origins} for name in ("slices", "date"))
    members = tuple(sorted(origin.weights for origin in origins))
    return Provenance(
        f"{data} ({len(origins)} networks)",
        slices.pop() if len(slices) == 1 else None,
        dates.pop() if len(dates) == 1 else None,
        hashlib.sha256("".join(members).encode()).hexdigest(),
        phantoms=all(origin.phantoms for origin in origins),
        lungs=origins[0].lungs,
        members=members,
    )


UNKNOWN = Provenance("unknown data", None, None, "", phantoms=False)


def keep_training(workdir: Path, settings: Settings, *, slices: int) -> None:
    """Note what a training uses, when it begins.

    Args:
        workdir: of the training; a note that is there stays.
        settings: of the training.
        slices: number of its training slices.

    Raises:
        OSError: the note cannot be written.
    """
    if not (workdir / FILE).exists():
        lungs = _lungs_of(settings)
        _write(workdir, settings.data.name, slices, lungs and lungs._asdict())


def keep_saved(workdir: Path) -> None:
    """Note that a state of a training was saved, so that its loss is noticed.

    Args:
        workdir: of the training, with its note.

    Raises:
        ValueError: the note is damaged.
        OSError: it cannot be read or written.
    """
    note = read_signed(workdir / FILE, MEND)
    if not note.get(SAVED):
        write_json(workdir / FILE, signed(note | {SAVED: True}))


def says_saved(workdir: Path) -> bool:
    """Say whether the note of a workdir says that a network was saved in it.

    Args:
        workdir: of a training, or of imported weights.

    Raises:
        ValueError: the note is damaged.
        OSError: it cannot be read.
    """
    path = workdir / FILE
    return path.exists() and bool(read_signed(path, MEND).get(SAVED))


def keep_import(workdir: Path, source: Path) -> None:
    """Note that the weights of a workdir come from a file.

    Args:
        workdir: of the network.
        source: file of its weights.

    Raises:
        OSError: the note cannot be written.
    """
    _write(workdir, f"imported from {source.name}", None, None)
    keep_saved(workdir)


def read_provenance(workdir: Path, settings: Settings) -> Provenance:
    """Return the origin of a workdir's network, without the hash of its weights.

    Args:
        workdir: of the network; one of an older version, without a note, names only the data set.
        settings: of the network.

    Raises:
        ValueError: the note is damaged.
        OSError: the note cannot be read.
    """
    path = workdir / FILE
    note: dict[str, Any] = {"data": settings.data.name, "slices": None, "date": None}
    if path.exists():
        read = read_signed(path, MEND)
        if missing := [name for name in note if name not in read]:
            raise ValueError(f"{path}: has no {', '.join(missing)}; {MEND}")
        note = {name: read[name] for name in (*note, "lungs") if name in read}
    lungs = note.pop("lungs", None)
    origin = None if lungs is None else origin_of(lungs, path, MEND)
    return Provenance(**note, weights="", phantoms=note["data"] in PHANTOMS, lungs=origin)


def _lungs_of(settings: Settings) -> LungOrigin | None:
    """Return where the lung masks of a training come from; None if it has none, or if unknown."""
    data = settings.data
    if data.lung_mask == "file":
        return catalog.lung_origin(data.name, data_dir=Path(data.data_dir), task=data.task)
    return LungOrigin(THRESHOLD) if data.lung_mask == "threshold" else None


def _write(workdir: Path, data: str, slices: int | None, lungs: dict[str, Any] | None) -> None:
    """Write the note of a network that begins today."""
    note = {"data": data, "slices": slices, "date": date.today().isoformat(), "lungs": lungs}
    write_json(workdir / FILE, signed(note))
