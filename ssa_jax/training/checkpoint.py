"""Checkpoints of a training: the last states, and the best network by validation DSC.

Each holds the hashes of its files, which are checked before it is read: orbax itself does not
notice a changed byte of an array. Checkpoints of older versions hold none and are read unchecked.
"""

import errno
import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ssa_jax.training.distributed import barrier, decided, is_main_process
from ssa_jax.training.state import TrainState, Variables, weights_sha256

WHICH = ("best", "last")
KEPT = {"best": 1, "last": 2}  # how many of each are kept
HASHES = "hashes.json"  # in a checkpoint: its step, and the SHA-256 of each file
UNFINISHED = ".unfinished"  # beside `best` and `last`: where a checkpoint is written


class Damaged(ValueError):
    """A checkpoint is not what was written, or does not fit the network.

    Attributes:
        found: what was found, without the way out.
    """

    def __init__(self, found: str, way_out: str) -> None:
        super().__init__(f"{found}; {way_out}")
        self.found = found


class Checkpoints:
    """The folder `checkpoints` of a workdir: `last/STEP`, the last two, and `best/STEP`.

    A checkpoint is written in another folder and renamed, so a folder named STEP is complete. An
    older one is deleted once the new one is complete.

    Args:
        workdir: folder of the training; nothing is written before something is saved.

    Attributes:
        notes: what `restore_last` found damaged and passed over.
    """

    def __init__(self, workdir: Path) -> None:
        folder = Path(workdir).absolute() / "checkpoints"
        self._folders = {which: folder / which for which in WHICH}
        self._damaged: list[int] = []  # last states that `restore_last` passed over
        self.notes: list[str] = []

    @property
    def last_step(self) -> int | None:
        """Step of the last saved state, or None if there is none."""
        return max(decided(lambda: self._steps("last")), default=None)

    def save_last(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Save the state of a training, in place of damaged ones and of one of the same step.

        Args:
            state: on the host.
            progress: what a resumed training needs besides it, JSON values.

        Raises:
            OSError: the disk has no room for it; nothing was written.
        """
        fields = _stored(state)
        items = {
            "state": ocp.args.StandardSave(fields),
            "progress": ocp.args.JsonSave(progress),
        }
        self._save("last", int(state.step), items, _bytes(fields))
        self._damaged = []

    def restore_last(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restore the last saved state, or the one before if that is damaged, see `notes`.

        Args:
            like: a state of the same structure, shapes and types.

        Returns:
            The state on the host, and the progress saved with it.

        Raises:
            ValueError: every checkpoint is damaged, or is of another network or optimiser.
            FileNotFoundError: there is none.
        """
        errors: list[Damaged] = []
        for step in reversed(decided(lambda: self._steps("last"))):
            try:
                state, progress = self._restore_state(step, like)
            except Damaged as error:
                errors.append(error)
                self._damaged.append(step)
                continue
            self.notes += [f"{error.found}; going on from checkpoint {step}" for error in errors]
            return state, progress
        raise errors[0] if errors else self.absent("last")

    def save_best(self, step: int, variables: Variables, record: dict[str, Any]) -> None:
        """Save the best network so far.

        Args:
            step: training step that it was saved at.
            variables: 'params' and 'batch_stats', on the host.
            record: the reason, JSON values.

        Raises:
            OSError: the disk has no room for it; nothing was written.
        """
        if decided(lambda: step in self._steps("best")):  # a resumed training repeats steps
            try:
                there, _ = self.restore_variables("best", variables)
                if decided(lambda: weights_sha256(there) == weights_sha256(variables)):
                    return
            except Damaged:
                pass
        items = {
            "variables": ocp.args.StandardSave(variables),
            "record": ocp.args.JsonSave(record),
        }
        self._save("best", step, items, _bytes(variables))

    def restore_variables(self, which: str, like: Variables) -> tuple[Variables, int]:
        """Restore a network.

        Args:
            which: 'best', or 'last' (the moving average of its weights where there is one).
            like: variables of the same structure and shapes.

        Returns:
            The variables on the host, and the step they were saved at.

        Raises:
            FileNotFoundError: no such checkpoint.
            ValueError: the checkpoint is of another network, or damaged.
        """
        if which not in WHICH:
            raise ValueError(f"checkpoint is {which!r}; expected one of {WHICH}")
        step = max(decided(lambda: self._steps(which)), default=None)
        if step is None:
            raise self.absent(which)
        if which == "best":
            items = {"variables": ocp.args.StandardRestore(_host(like))}
            return self._read(which, step, items, "variables", like)["variables"], step
        found = self._read(which, step, {"state": ocp.args.StandardRestore()})["state"]
        variables = found.get("average") or {name: found.get(name) for name in like}
        if not _same_shapes(variables, like):
            raise self._other_network(which, step)
        return variables, step

    def absent(self, which: str) -> FileNotFoundError:
        """Compose the error about a checkpoint that is not there.

        Args:
            which: 'best' or 'last'.
        """
        there = [f"use --which {name}" for name in WHICH if name != which and self._steps(name)]
        way_out = " or ".join([*there, "train first, or name a workdir that has one"][:1])
        return FileNotFoundError(f"{self._folders[which]}: no checkpoint; {way_out}")

    def _restore_state(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restore one of the last states and its progress."""
        expected = _stored(like)
        items = {
            "state": ocp.args.StandardRestore(_host(expected)),
            "progress": ocp.args.JsonRestore(),
        }
        found = self._read("last", step, items, "state", expected)
        return TrainState(**{"average": None, **found["state"]}), found["progress"]

    def _save(self, which: str, step: int, items: dict[str, Any], size: int) -> None:
        """Save the items of a checkpoint, in place of damaged ones and those of later steps."""
        folder = self._folders[which]
        unfinished = folder.with_name(UNFINISHED)

        def make_room() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            _require_space(folder, size)
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed

        decided(make_room)
        with _checkpointer() as checkpointer:
            checkpointer.save(unfinished / str(step), args=ocp.args.Composite(**items))
        if is_main_process():
            self._finish(which, step, unfinished / str(step))
        barrier("checkpoint saved")

    def _finish(self, which: str, step: int, made: Path) -> None:
        """Add the hashes to a written checkpoint, rename it and delete those that it replaces."""
        folder = self._folders[which]
        written = {"step": step, "files": _file_hashes(made)}
        (made / HASHES).write_text(json.dumps(written, indent=2), encoding="utf-8")
        if (folder / str(step)).exists():
            shutil.rmtree(folder / str(step))
        os.replace(made, folder / str(step))
        damaged = self._damaged if which == "last" else []
        sound = [k for k in self._steps(which) if k <= step and k not in {*damaged} - {step}]
        for old in {*self._steps(which)} - {*sound[-KEPT[which] :]}:
            shutil.rmtree(folder / str(old))
        shutil.rmtree(made.parent)

    def _read(
        self, which: str, step: int, items: dict[str, Any], name: str = "", like: Any = None
    ) -> dict[str, Any]:
        """Check and read items of a checkpoint; the item `name` is to have the shapes of `like`."""
        folder = self._folders[which]
        checked, reason = decided(lambda: _checked(folder / str(step), step))
        if reason:
            raise self._refused(which, step, f"is damaged ({reason})")
        try:
            with _checkpointer() as checkpointer:
                path = folder / str(step)
                restored = checkpointer.restore(path, args=ocp.args.Composite(**items))
                found = {item: restored[item] for item in items}
            # orbax restores other shapes without an error.
            fits = not name or _same_shapes(found[name], like)
        except PermissionError:
            raise
        except Exception as error:  # of JSON, protobuf, tensorstore, and of senseless sizes
            if checked:
                raise self._other_network(which, step) from error
            what = "is damaged, or does not fit the network of this configuration"
            raise self._refused(which, step, f"{what} ({type(error).__name__})") from error
        if not fits:
            raise self._other_network(which, step)
        return found

    def _other_network(self, which: str, step: int) -> Damaged:
        return self._refused(which, step, "does not fit the network of this configuration")

    def _refused(self, which: str, step: int, what: str) -> Damaged:
        """Compose the error about a checkpoint that cannot be used."""
        others = "use the configuration it was trained with, or another --workdir"
        if which == "best" and self._steps("last"):
            way_out = f"use --which last, or {others}"
        else:
            way_out = (
                "restore it from a copy, or run the command that trained it again, which goes on "
                f"from the checkpoint before; or {others}"
                if len(self._steps(which)) > 1
                else f"restore it from a copy, {others}"
            )
        return Damaged(f"{self._folders[which]}/{step}: the checkpoint {what}", way_out)

    def _steps(self, which: str) -> list[int]:
        """Return the steps on disk, ascending; orbax would leave out damaged ones."""
        return steps_in(self._folders[which])


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, ascending.

    Args:
        folder: `checkpoints/last` or `checkpoints/best`; need not exist.
    """
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def _checkpointer() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler())


def _require_space(folder: Path, size: int) -> None:
    """Check the free space: on a full disk orbax's threads print tracebacks to standard error."""
    needed, free = 1.1 * size, shutil.disk_usage(str(folder)).free
    if free < needed:
        reason = f"no space left: needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
        raise OSError(errno.ENOSPC, reason, str(folder))


def _bytes(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def _file_hashes(folder: Path) -> dict[str, str]:
    """Hash every file below a folder; hashing releases Python's lock, so that threads save time."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != HASHES)
    with ThreadPoolExecutor() as threads:
        found = threads.map(_file_sha256, paths)
        return {
            path.relative_to(folder).as_posix(): h for path, h in zip(paths, found, strict=True)
        }


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(folder: Path, step: int) -> tuple[bool, str]:
    """Say whether a checkpoint has hashes, and how it differs from them; '' if it does not."""
    checked = (folder / HASHES).exists()
    return checked, _difference(folder, step) if checked else ""


def _difference(folder: Path, step: int) -> str:
    """Say how a checkpoint differs from what was written; '' if it does not."""
    try:
        written = json.loads((folder / HASHES).read_text(encoding="utf-8"))
        expected, told = written["files"], written["step"]
        found = _file_hashes(folder)
        wrong = [name for name, digest in expected.items() if found.get(name) != digest]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{HASHES} cannot be read"
    if wrong:
        return f"{min(wrong)} is not what was written"
    return "" if told == step else f"it was written as checkpoint {told}"


def _host(tree: Any) -> Any:
    """Make host arrays of the shapes and types of the arrays of a tree."""
    return jax.tree.map(lambda x: np.empty(x.shape, x.dtype), tree)


def _stored(state: TrainState) -> dict[str, Any]:
    """Return the fields that a checkpoint holds, without the average where there is none."""
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    return {name: value for name, value in fields.items() if value is not None}


def _same_shapes(ours: Any, theirs: Any) -> bool:
    trees = [jax.tree.map(lambda x: tuple(np.shape(x)), tree) for tree in (ours, theirs)]
    return bool(trees[0] == trees[1])
