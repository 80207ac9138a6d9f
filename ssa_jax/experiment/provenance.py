"""What a network was trained on, as its masks and tables say it."""

from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.files import write_json
from input_pipeline.verified import read_signed, signed
from ssa_jax.experiment.settings import Settings
from ssa_jax.training.state import Variables, weights_sha256

FILE = "training.json"
PHANTOMS = ("ct_phantom", "ct_phantom_domains")  # data sets of made-up chests
MEND = "restore it from a copy, or remove it"
SHOWN = 12  # characters of a hash that are shown


class Provenance(NamedTuple):
    """The origin of a network.

    Attributes:
        data: what it was trained on.
        slices: number of its training slices; None if unknown.
        date: when its training began, ISO; None if unknown.
        weights: SHA-256 of its variables; '' if unknown.
        phantoms: whether it was trained on made-up chests alone.
    """

    data: str
    slices: int | None
    date: str | None
    weights: str
    phantoms: bool

    def __str__(self) -> str:
        """Say it in less than 80 characters where the name of the data set is short."""
        known = [f"{self.slices} slices" if self.slices else None, self.date]
        weights = f"weights {self.weights[:SHOWN]}" if self.weights else None
        return ", ".join(filter(None, [self.data, *known, weights]))


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
        _write(workdir, settings.data.name, slices)


def keep_import(workdir: Path, source: Path) -> None:
    """Note that the weights of a workdir come from a file.

    Args:
        workdir: of the network.
        source: file of its weights.

    Raises:
        OSError: the note cannot be written.
    """
    _write(workdir, f"imported from {source.name}", None)


def read_provenance(workdir: Path, settings: Settings, variables: Variables) -> Provenance:
    """Return the origin of a workdir's network.

    Args:
        workdir: of the network; one of an older version, without a note, names only the data set.
        settings: of the network.
        variables: of the network.

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
        note = {name: read[name] for name in note}
    return Provenance(**note, weights=weights_sha256(variables), phantoms=note["data"] in PHANTOMS)


def _write(workdir: Path, data: str, slices: int | None) -> None:
    """Write the note of a network that begins today."""
    note = {"data": data, "slices": slices, "date": date.today().isoformat()}
    write_json(workdir / FILE, signed(note))
