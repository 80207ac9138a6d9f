"""What a network was trained on, as its masks and tables say it."""

import json
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.files import write_json
from ssa_jax.experiment.settings import Settings
from ssa_jax.training.state import Variables, weights_sha256

FILE = "training.json"
PHANTOMS = ("ct_phantom",)  # data sets of made-up chests
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
        today = date.today().isoformat()
        _write(workdir, {"data": settings.data.name, "slices": slices, "date": today})


def keep_import(workdir: Path, source: Path) -> None:
    """Note that the weights of a workdir come from a file.

    Args:
        workdir: of the network.
        source: file of its weights.

    Raises:
        OSError: the note cannot be written.
    """
    today = date.today().isoformat()
    _write(workdir, {"data": f"imported from {source.name}", "slices": None, "date": today})


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
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            note = {name: read[name] for name in note}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: damaged ({error}); remove it") from None
    return Provenance(**note, weights=weights_sha256(variables), phantoms=note["data"] in PHANTOMS)


def _write(workdir: Path, note: dict[str, Any]) -> None:
    write_json(workdir / FILE, note)
