"""Checkpoints of a training: the last state, and the best network by validation DSC."""

import errno
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ssa_jax.state import TrainState, Variables

WHICH = ("best", "last")


class Checkpoints:
    """The folder `checkpoints` of a workdir: `last/STEP` and `best/STEP`, one step each.

    orbax writes to a temporary name and renames, so a folder named STEP is complete; the previous
    one goes when the new one stands.
    """

    def __init__(self, workdir: Path, *, create: bool = True) -> None:
        """Open the folder; `create` makes it where it is missing (not needed to read)."""
        folder = Path(workdir).absolute() / "checkpoints"
        self._last = _manager(folder / "last", create)
        self._best = _manager(folder / "best", create)

    @property
    def last_step(self) -> int | None:
        """Step of the last saved state, None before the first."""
        return self._last.latest_step()

    def save_last(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Save a host state and what a resumed training needs besides it (JSON values).

        Raises:
          OSError: the disk has no room for it; nothing was written.
        """
        step = int(state.step)
        if step == self._last.latest_step():
            return
        _require_space(self._last, state)
        self._last.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_without_empty(state)),
                progress=ocp.args.JsonSave(progress),
            ),
        )
        self._last.wait_until_finished()

    def restore_last(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The last saved state and its progress; `like` gives structure, shapes and types.

        Raises:
          ValueError: the checkpoint is of another network or optimiser.
        """
        step = self._last.latest_step()
        try:
            restored = self._last.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(_without_empty(_host(like))),
                    progress=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError) as error:
            raise ValueError(_mismatch(self._last, step)) from error
        # orbax restores other shapes without a word.
        if not _same_shapes(restored["state"], _without_empty(like)):
            raise ValueError(_mismatch(self._last, step))
        state = TrainState(**{"average": None, **restored["state"]})
        return state, restored["progress"]

    def save_best(self, step: int, variables: Variables, record: dict[str, Any]) -> None:
        """Save a network that beat all before it, and why (JSON values).

        Raises:
          OSError: the disk has no room for it; nothing was written.
        """
        if step in self._best.all_steps():  # a resumed training comes by the same step again
            return
        _require_space(self._best, variables)
        self._best.save(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(variables), record=ocp.args.JsonSave(record)
            ),
        )
        self._best.wait_until_finished()

    def restore_variables(self, which: str, like: Variables) -> tuple[Variables, int]:
        """The network to evaluate ('best' or 'last') and its step.

        Raises:
          FileNotFoundError: no such checkpoint.
          ValueError: the checkpoint is of another network, or damaged.
        """
        manager = self._best if which == "best" else self._last
        step = manager.latest_step()
        if step is None:
            raise FileNotFoundError(
                f"{manager.directory}: no checkpoint. Train first, or name a workdir that has one."
            )
        try:
            if which == "best":
                args = ocp.args.Composite(variables=ocp.args.StandardRestore(_host(like)))
                variables = manager.restore(step, args=args)["variables"]
            else:
                args = ocp.args.Composite(state=ocp.args.StandardRestore())
                state = manager.restore(step, args=args)["state"]
                variables = state.get("average") or {k: state[k] for k in like}
        except (ValueError, KeyError) as error:
            raise ValueError(_mismatch(manager, step)) from error
        if not _same_shapes(variables, like):
            raise ValueError(_mismatch(manager, step))
        return variables, step

    def close(self) -> None:
        """Wait for what is being written."""
        self._last.close()
        self._best.close()


def _manager(folder: Path, create: bool) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, enable_async_checkpointing=False, create=create
    )
    return ocp.CheckpointManager(folder, options=options)


def _require_space(manager: ocp.CheckpointManager, tree: Any) -> None:
    """Ask the disk first: on a full one orbax's threads fill standard error with tracebacks."""
    folder = str(manager.directory)
    needed = 1.1 * sum(x.nbytes for x in jax.tree.leaves(tree))
    free = shutil.disk_usage(folder).free
    if free < needed:
        reason = f"no space left: needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
        raise OSError(errno.ENOSPC, reason, folder)


def _host(tree: Any) -> Any:
    """Arrays (or their shapes) as shapes of host arrays."""
    return jax.tree.map(lambda x: np.empty(x.shape, x.dtype), tree)


def _without_empty(state: TrainState) -> dict[str, Any]:
    """The state as a dictionary, without the average where there is none."""
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    return {name: value for name, value in fields.items() if value is not None}


def _same_shapes(ours: Any, theirs: Any) -> bool:
    shapes = [jax.tree.map(lambda x: tuple(x.shape), tree) for tree in (ours, theirs)]
    return bool(shapes[0] == shapes[1])


def _mismatch(manager: ocp.CheckpointManager, step: int | None) -> str:
    return (
        f"{manager.directory}/{step}: the checkpoint is damaged, or does not fit the network of "
        "this configuration. Use the configuration it was trained with, or another --workdir."
    )
