"""The rounds of one workdir as every part of them sees it, and who watches."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from input_pipeline.files import write_json
from input_pipeline.pseudo_labels import PseudoLabels, read_manifest
from input_pipeline.verified import read_signed
from ssa_jax.experiment import workdir
from ssa_jax.experiment.network import Network
from ssa_jax.experiment.pools import Pools
from ssa_jax.experiment.settings import Settings
from ssa_jax.training.checkpoint import Damaged
from ssa_jax.training.distributed import is_main_process
from ssa_jax.training.state import Variables

RENAMED = {"moved": "added", "renewed": "relabelled"}  # fields in records of older versions
Row = dict[str, Any]


class Observer(Protocol):
    """Callbacks that draw and print the results of the rounds, for the main process alone."""

    def labels_written(self, run: "Run", number: int, labels: PseudoLabels) -> None:
        """Handle the pseudo-labels of a round, before their folder is renamed to its final name.

        Args:
            run: the rounds of a workdir.
            number: of the round, 1 or more.
            labels: all of the round's.
        """

    def round_scored(self, run: "Run", rows: Sequence[Row]) -> None:
        """Handle a scored round, whose scores may be of an earlier process.

        Args:
            run: the rounds of a workdir.
            rows: of all rounds so far, this one last.
        """

    def finished(self, run: "Run", rows: Sequence[Row], summary: dict[str, Any]) -> None:
        """Handle the end of the rounds, after the best one was scored on the test split.

        Args:
            run: the rounds of a workdir.
            rows: of all rounds.
            summary: see `self_train`.
        """


@dataclass(frozen=True)
class Run:
    """The rounds of one workdir.

    Attributes:
        settings: of all rounds.
        workdir: folder of all rounds.
        slices: labelled and unlabelled ones.
        compiled: makes a network from variables, see `network.compile_network`.
        observer: draws and prints.
        quiet: show no progress.
    """

    settings: Settings
    workdir: Path
    slices: Pools
    compiled: Callable[[Variables], Network]
    observer: Observer
    quiet: bool

    def folder(self, number: int) -> Path:
        """Return the workdir of a round.

        Args:
            number: of the round, 1 or more.
        """
        return workdir.round_folder(self.workdir, number)

    def variables(self, number: int) -> tuple[Variables, int]:
        """Restore the last variables of a round, and their step.

        Args:
            number: of the round, 1 or more.

        Raises:
            ValueError: its checkpoint is damaged.
        """
        folder = self.folder(number)
        try:
            return workdir.trained_variables(self.settings, folder, "last")
        except Damaged as error:
            raise ValueError(f"{error.found}; {mend_round(folder)}") from error


def mend_round(folder: Path) -> str:
    """Compose what to do about a damaged file of a round.

    Args:
        folder: workdir of the round.
    """
    return (
        f"restore it from a copy, or remove {folder} and the rounds after it and run the same "
        "command again"
    )


def read_row(path: Path) -> Row:
    """Read the row of a round, of this or an older version.

    Args:
        path: its `round.json`.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    return with_new_names(read_signed(path, mend_round(path.parent)))


def with_new_names(record: dict[str, Any]) -> dict[str, Any]:
    """Rename the fields of a record that an older version wrote."""
    return {RENAMED.get(name, name): value for name, value in record.items()}


def manifest_of(folder: Path) -> dict[str, Any]:
    """Read the manifest of pseudo-labels, of this or an older version.

    Args:
        folder: of the pseudo-labels.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    return with_new_names(read_manifest(folder))


@contextmanager
def timed(path: Path) -> Iterator[None]:
    """Write the time of the block to a file of its own, as it differs between runs."""
    start = time.perf_counter()
    yield
    if is_main_process():
        write_json(path, time.perf_counter() - start)
