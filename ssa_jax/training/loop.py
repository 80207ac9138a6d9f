"""The training loop: steps, validation and checkpoints; resumed, it gives the same bits."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np

from ssa_jax.training.checkpoint import Checkpoints
from ssa_jax.training.mapping import MappedStep
from ssa_jax.training.speed import StepClock
from ssa_jax.training.state import TrainState, Variables
from ssa_jax.training.step import TrainMetrics
from ssa_jax.training.stopping import Interrupted
from ssa_jax.training.watch import COMPUTING, READING, VALIDATING

MEND = (
    "the last good checkpoint is kept; lower optim.learning_rate, set optim.clip_norm, or use "
    "float32"
)
IN_VALIDATION = "in_validation"  # of a saved progress: the validation after its step is to be done
RESUMES = "the same command resumes from there."


class Batches(Protocol):
    """An endless iterator of batches whose position can be saved and restored."""

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> Any:
        """Return the position, which JSON can hold."""

    def set_state(self, state: Any) -> None:
        """Move to a position that `get_state` returned."""


class TrainingDiverged(RuntimeError):
    """The loss or the gradient is not finite.

    Attributes:
        step: number of the step; no checkpoint holds its update.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class Meter:
    """Metrics of the steps of an epoch.

    The numbers of a step are read when the next one is running, so that the host does not wait.

    Args:
        fetch: returns the host copy of metrics on the devices, see `mapping.MappedStep`.
        skip_nonfinite: steps in a row that may be skipped, see `step.make_train_step`.

    Attributes:
        skipped: steps that were skipped since the training's start, and the last ones in a row.
    """

    def __init__(self, fetch: Callable[[Any], Any], skip_nonfinite: int = 0) -> None:
        self._fetch = fetch
        self._limit = skip_nonfinite
        self.skipped = (0, 0)
        self._pending: tuple[int, TrainMetrics] | None = None
        self._total: TrainMetrics | None = None

    def push(self, step: int, metrics: TrainMetrics) -> None:
        """Add the metrics of the previous step, and keep those of this one until the next call.

        Args:
            step: number of the step.
            metrics: of the step, on the devices.

        Raises:
            TrainingDiverged: as `flush`, of the previous step.
        """
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Add the metrics of the pending step.

        Raises:
            TrainingDiverged: its loss or gradient norm is not finite, or too many steps in a row
                were skipped for that.
        """
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        # float64 here and from a checkpoint, because NumPy and JAX round a division differently.
        metrics = jax.tree.map(np.float64, self._fetch(metrics))
        if self._skipped(step, metrics):
            return
        values = {name: float(value) for name, value in metrics.compute().items()}
        if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
            terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            raise TrainingDiverged(
                f"step {step}: the loss or its gradient is not finite ({terms}); {MEND}",
                step,
            )
        self._total = metrics if self._total is None else self._total.merge(metrics)

    def _skipped(self, step: int, metrics: TrainMetrics) -> bool:
        """Return whether the step was skipped, whose metrics then have no sample."""
        total, in_row = self.skipped
        if float(metrics.loss.count):
            self.skipped = (total, 0)
            return False
        self.skipped = (total + 1, in_row + 1)
        if in_row + 1 > self._limit:
            raise TrainingDiverged(
                f"step {step}: the loss or its gradient is not finite for {in_row + 1} steps in a "
                f"row, optim.skip_nonfinite={self._limit} passes over {self._limit}; {MEND}",
                step,
            )
        return True

    def summary(self) -> dict[str, float]:
        """Return the means over the steps added so far, by name; nothing if all were skipped."""
        if self._total is None:
            return {}
        return {name: float(value) for name, value in self._total.compute().items()}

    def reset(self) -> None:
        """Forget all steps, at the start of an epoch."""
        self._total = None

    def get_state(self) -> list[float] | None:
        """Return the sums, which JSON holds exactly; None before the first step."""
        if self._total is None:
            return None
        return [float(x) for x in jax.tree.leaves(self._total)]

    def set_state(self, sums: list[float] | None) -> None:
        """Continue from sums that `get_state` returned."""
        if sums is not None:
            structure = jax.tree.structure(TrainMetrics.empty())
            self._total = jax.tree.unflatten(structure, map(np.float64, sums))


def fit(
    state: TrainState,
    mapped: MappedStep,
    batches: Batches,
    checkpoints: Checkpoints,
    *,
    epochs: int,
    steps_per_epoch: int,
    validate_every: int,
    validate: Callable[[Variables, Callable[[], bool]], float],
    skip_nonfinite: int = 0,
    resumed: dict[str, Any] | None,
    facts: Callable[[], dict[str, Any]],
    report: Callable[[int, dict[str, float]], None],
    ticks: Callable[[int], Any],
    stop_requested: Callable[[int], bool],
    clock: StepClock | None = None,
    saved: Callable[[], Any] = lambda: None,
    doing: Callable[[int, int], Any] = lambda step, what: None,
) -> TrainState:
    """Train to the end.

    Args:
        state: on the host, the initial one or that of a checkpoint.
        mapped: the step, see `mapping.map_step`.
        batches: endless and resumable.
        checkpoints: of the workdir.
        epochs: length of the training.
        steps_per_epoch: steps between two reports.
        validate_every: epochs between two validations and checkpoints.
        validate: returns the validation DSC of variables on the host, nan where it is undefined;
            the same in all processes. It is also given a function that says whether to stop, and
            raises Interrupted then, in all processes at the same place.
        skip_nonfinite: steps in a row that may be skipped, see `Meter`.
        resumed: the progress that the checkpoint holds; None to start.
        facts: returns more to save with each checkpoint, JSON values.
        report: called with (step, values by name) after each epoch.
        ticks: called with the step's number after each step (a progress bar).
        stop_requested: called with the step's number after each step; True ends the training, in
            all processes at the same step.
        clock: measures the steps.
        saved: called after each checkpoint of the state.
        doing: called with the step's number and what begins, see `watch.Doing`.

    Returns:
        The final state on the host.

    Raises:
        TrainingDiverged: as `Meter.flush`; nothing was saved after the last good checkpoint.
        Interrupted: `stop_requested` returned True; the state is saved at that step, and a
            validation that was cut short is done again at the next start.
    """
    meter = Meter(mapped.fetch, skip_nonfinite)
    clock = clock or StepClock()
    best = -math.inf
    step = int(state.step)
    if resumed is not None:
        batches.set_state(resumed["batches"])
        meter.set_state(resumed["sums"])
        best = resumed["best"]
        meter.skipped = tuple(resumed.get("skipped", meter.skipped))
    placed = mapped.place_state(state)

    def save(*, in_validation: bool = False) -> None:
        progress = {"batches": batches.get_state(), "sums": meter.get_state(), "best": best}
        if skip_nonfinite:
            progress["skipped"] = meter.skipped
        if in_validation:
            progress[IN_VALIDATION] = True
        checkpoints.save_last(mapped.fetch(placed), progress | facts())
        saved()

    def validated() -> float:
        nonlocal best
        doing(step, VALIDATING)
        variables = mapped.fetch(placed.variables)
        try:
            dsc = validate(variables, partial(stop_requested, step))
        except Interrupted as error:
            save(in_validation=True)
            raise Interrupted(f"Stopped in the validation after step {step}; {RESUMES}") from error
        if dsc > best:
            best = dsc
            checkpoints.save_best(step, variables, {"step": step, "validation_dsc": dsc})
        return dsc

    def end_epoch() -> bool:
        meter.flush()
        values = {f"train/{name}": value for name, value in meter.summary().items()}
        if skip_nonfinite:
            values["train/skipped_steps"] = float(meter.skipped[0])
        epoch = step // steps_per_epoch
        due = epoch % validate_every == 0 or epoch == epochs
        if due:
            values["validation/dsc"] = validated()
        meter.reset()
        report(step, values | {"epoch": float(epoch)})
        if due:
            save()
            clock.pause()
        return due

    if resumed is not None and resumed.get(IN_VALIDATION):
        end_epoch()
    while step < epochs * steps_per_epoch:
        doing(step + 1, READING)
        with clock.waiting():
            batch = mapped.place_batch(next(batches))
        doing(step + 1, COMPUTING)
        placed, metrics = mapped.step(placed, batch)
        step += 1
        meter.push(step, metrics)
        clock.step()
        ticks(step)
        saved_now = step % steps_per_epoch == 0 and end_epoch()
        if stop_requested(step):
            if not saved_now:
                meter.flush()
                save()
            raise Interrupted(f"Stopped at step {step}; {RESUMES}")
    return mapped.fetch(placed)
