"""Where lung masks come from: the record in a folder of them, and in what is made from them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.verified import read_signed

THRESHOLD, UNET, LUNGMASK = METHODS = ("threshold", "unet", "lungmask")
FILES = "files"  # of unknown origin
RECORD = "lung_masks.json"  # origin of the masks in a folder
MEND = f"restore it from a copy, or remove it where the masks are not of `ssa-jax {RECORD[:-5]}`"
SHOWN = 12  # characters of a hash that are shown


class LungOrigin(NamedTuple):
    """The origin of lung masks.

    Attributes:
        method: one of `METHODS`, or 'files' for masks whose origin is unknown.
        weights: name of the file of the U-Net's weights; None without a network.
        sha256: of that file.
    """

    method: str
    weights: str | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        """Say it in a few words for the user."""
        if self.method == THRESHOLD:
            return "threshold masks"
        if self.method == FILES:
            return "lung masks from files"
        return f"lung masks of the U-Net ({self.weights}, sha256 {str(self.sha256)[:SHOWN]}...)"

    @property
    def remedy(self) -> str:
        """What to give to `predict` for masks of this origin."""
        if self.method == THRESHOLD:
            return "leave --lungs out for the same"
        if self.method == FILES:
            return "give --lungs DIR, a folder of masks made in the same way, for the same"
        return "give --lungs unet:WEIGHTS for the same"

    def same(self, other: "LungOrigin") -> bool:
        """Say whether masks of another origin are alike; the U-Net and the package lungmask are.

        Args:
            other: the other origin.
        """
        ours, theirs = (
            (UNET if one.method == LUNGMASK else one.method, one.sha256) for one in (self, other)
        )
        return ours == theirs


def origin_of(record: Any, path: Path, mend: str = MEND) -> LungOrigin:
    """Return the origin that a record names.

    Args:
        record: method, weights and sha256, see `LungOrigin`.
        path: its file, for the message.
        mend: what to do if it names none, for the message.

    Raises:
        ValueError: it names none.
    """
    if not isinstance(record, dict) or record.get("method") not in (*METHODS, FILES):
        raise ValueError(f"{path}: holds {record!r:.100}, expected the origin of masks; {mend}")
    return LungOrigin(record["method"], record.get("weights"), record.get("sha256"))


def origin_of_files(files: Iterable[Path]) -> LungOrigin:
    """Return the origin of lung masks, as `lung_masks.json` beside them says.

    Args:
        files: the masks.

    Returns:
        The origin that all share, else 'files'.

    Raises:
        ValueError: a record is damaged.
        OSError: it cannot be read.
    """
    records = [folder / RECORD for folder in {path.parent for path in files}]
    found = {_read(record) for record in records}
    return found.pop() if len(found) == 1 else LungOrigin(FILES)


def _read(path: Path) -> LungOrigin:
    return origin_of(read_signed(path, MEND), path) if path.exists() else LungOrigin(FILES)
