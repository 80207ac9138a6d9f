"""Checkpoints of a training: the last state, and the best network by validation DSC."""

import errno
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ssa_jax.training.state import TrainState, Variables

WHICH = ("best", "last")


class Checkpoints:
    """The folder `checkpoints` of a workdir: `last/STEP` and `best/STEP`, one step each.

    orbax writes to a temporary name and renames, so a folder named STEP is complete. The previous
    checkpoint is deleted once the new one is complete.

    Args:
        workdir: folder of the training.
        create: whether to make the folder where it is missing; not needed to read.
    """

    def __init__(self, workdir: Path, *, create: bool = True) -> None:
        folder = Path(workdir).absolute() / "checkpoints"
        self._last = _manager(folder / "last", create)
        self._best = _manager(folder / "best", create)

    @property
    def last_step(self) -> int | None:
        """Step of the last saved state, or None if there is none."""
        return self._last.latest_step()

    def save_last(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Save the state of a training.

        Args:
            state: on the host.
            progress: what a resumed training needs besides it, JSON values.

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
        """Restore the last saved state.

        Args:
            like: a state of the same structure, shapes and types.

        Returns:
            The state on the host, and the progress saved with it.

        Raises:
            ValueError: the checkpoint is of another network or optimiser, or damaged.
        """
        step = self._last.latest_step()
        try:
            restored = self._last.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(_without_empty(_host_arrays(like))),
                    progress=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError) as error:
            raise ValueError(_mismatch(self._last, step)) from error
        # orbax restores other shapes without an error.
        if not _same_shapes(restored["state"], _without_empty(like)):
            raise ValueError(_mismatch(self._last, step))
        state = TrainState(**{"average": None, **restored["state"]})
        return state, restored["progress"]

    def save_best(self, step: int, variables: Variables, record: dict[str, Any]) -> None:
        """Save the best network so far.

        Args:
            step: training step that it was saved at.
            variables: 'params' and 'batch_stats', on the host.
            record: the reason, JSON values.

        Raises:
            OSError: the disk has no room for it; nothing was written.
        """
        if step in self._best.all_steps():  # a resumed training repeats steps
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
        manager = self._best if which == "best" else self._last
        step = manager.latest_step()
        if step is None:
            raise FileNotFoundError(
                f"{manager.directory}: no checkpoint; train first, or name a workdir that has one"
            )
        try:
            if which == "best":
                args = ocp.args.Composite(variables=ocp.args.StandardRestore(_host_arrays(like)))
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
        """Wait for pending writes and release the folder."""
        self._last.close()
        self._best.close()


def _manager(folder: Path, create: bool) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, enable_async_checkpointing=False, create=create
    )
    return ocp.CheckpointManager(folder, options=options)


def _require_space(manager: ocp.CheckpointManager, tree: Any) -> None:
    """Check the free space: on a full disk orbax's threads print tracebacks to standard error."""
    folder = str(manager.directory)
    needed = 1.1 * sum(x.nbytes for x in jax.tree.leaves(tree))
    free = shutil.disk_usage(folder).free
    if free < needed:
        reason = f"no space left: needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
        raise OSError(errno.ENOSPC, reason, folder)


def _host_arrays(tree: Any) -> Any:
    """Make host arrays of the shapes and types of the arrays of a tree."""
    return jax.tree.map(lambda x: np.empty(x.shape, x.dtype), tree)


def _without_empty(state: TrainState) -> dict[str, Any]:
    """Return the state as a dictionary, without the average where there is none."""
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    return {name: value for name, value in fields.items() if value is not None}


def _same_shapes(ours: Any, theirs: Any) -> bool:
    shapes = [jax.tree.map(lambda x: tuple(x.shape), tree) for tree in (ours, theirs)]
    return bool(shapes[0] == shapes[1])


def _mismatch(manager: ocp.CheckpointManager, step: int | None) -> str:
    return (
        f"{manager.directory}/{step}: the checkpoint is damaged, or does not fit the network of "
        "this configuration; use the configuration it was trained with, or another --workdir"
    )
