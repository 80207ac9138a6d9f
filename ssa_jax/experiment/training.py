"""Training on disk: from settings and slices to checkpoints, metrics and TensorBoard events."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clu.parameter_overview
import jax

from input_pipeline.files import write_text
from input_pipeline.loader import train_iterator
from input_pipeline.slices import Slice
from ssa_jax.evaluation.scoring import mean_dsc
from ssa_jax.experiment import data, factory
from ssa_jax.experiment.network import compile_network
from ssa_jax.experiment.progress import progress
from ssa_jax.experiment.provenance import keep_training
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.workdir import save_settings, trained_variables
from ssa_jax.training.checkpoint import Checkpoints
from ssa_jax.training.loop import Batches, fit
from ssa_jax.training.mapping import map_step
from ssa_jax.training.metric_log import MetricWriter
from ssa_jax.training.state import TrainState, Variables, init_state
from ssa_jax.training.step import AXIS, LossWeights, Step, make_train_step


def train(settings: Settings, workdir: Path, *, quiet: bool) -> TrainState:
    """Train to the end, from the workdir's last checkpoint where there is one.

    Args:
        settings: of the data set, the network and the training.
        workdir: folder for checkpoints, metrics and the split.
        quiet: show no progress.

    Returns:
        The final state on the host.

    Raises:
        ValueError: invalid settings or data, or a workdir of other settings.
        OSError: a file cannot be read or written.
        TrainingDiverged: the loss is not finite.
        Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    factory.check(settings)
    data.build_records(settings)
    save_settings(settings, workdir)
    training, validation = data.training_slices(settings, workdir)
    return train_on(
        settings,
        workdir,
        training,
        validation,
        losses=factory.loss_weights(settings, _pixels(settings, training)),
        variables=initial_variables(settings),
        quiet=quiet,
    )


def train_on(
    settings: Settings,
    workdir: Path,
    training: Sequence[Slice],
    validation: Sequence[Slice],
    *,
    losses: LossWeights,
    variables: Variables,
    steps_per_epoch: int | None = None,
    quiet: bool,
    what: str | None = None,
) -> TrainState:
    """Train on given slices to the end, from the workdir's last checkpoint where there is one.

    Args:
        settings: of the network, the optimiser and the training.
        workdir: folder for checkpoints and metrics.
        training: labelled slices.
        validation: labelled slices to score the network on while it trains.
        losses: weights of the loss.
        variables: initial ones.
        steps_per_epoch: steps of an epoch; None for one pass over `training`.
        quiet: show no progress.
        what: label before the progress bar.

    Returns:
        The final state on the host.

    Raises:
        As `train`.
    """
    steps_per_epoch = steps_per_epoch or steps_of(settings, training)
    schedule, optimizer = factory.optimizer(settings, steps_per_epoch)
    step = make_step(settings, optimizer, losses, steps_per_epoch)
    _write_overview(workdir, variables)
    keep_training(workdir, settings, slices=len(training))
    state = init_state(variables, optimizer, average=settings.optim.average_decay > 0)
    network = compile_network(settings)

    def validate(current: Variables) -> float:
        return mean_dsc(network(current).predict(validation), len(settings.class_names))

    checkpoints = Checkpoints(workdir)
    start = checkpoints.last_step or 0
    total = settings.train.epochs * steps_per_epoch
    batches = _batches(settings, training)
    with (
        MetricWriter(workdir, resume_step=start) as writer,
        progress(total, initial=start, quiet=quiet, what=what) as bar,
        _stop_flag() as stop_requested,
    ):

        def report(step: int, values: dict[str, float]) -> None:
            update = step // settings.optim.accumulate_steps
            writer.write(step, values | {"learning_rate": float(schedule(update))})
            if "validation/dsc" in values:
                bar.set_postfix_str(f"validation DSC {values['validation/dsc']:.3f}")

        try:
            return fit(
                state,
                map_step(step, settings.train.mapping),
                batches,
                checkpoints,
                epochs=settings.train.epochs,
                steps_per_epoch=steps_per_epoch,
                validate_every=settings.train.validate_every,
                validate=validate,
                report=report,
                ticks=lambda step: bar.update(step - bar.n),
                stop_requested=stop_requested,
            )
        finally:
            checkpoints.close()


def make_step(
    settings: Settings, optimizer: Any, losses: LossWeights, steps_per_epoch: int
) -> Step:
    """Build the training step of the settings, to be mapped over devices.

    Args:
        settings: of the network and the moving average.
        optimizer: see `factory.optimizer`.
        losses: weights of the loss.
        steps_per_epoch: converts steps to epochs.
    """
    return make_train_step(
        factory.build_model(settings, AXIS),
        optimizer,
        losses,
        steps_per_epoch=steps_per_epoch,
        average_decay=settings.optim.average_decay,
    )


def steps_of(settings: Settings, training: Sequence[Slice]) -> int:
    """Return the number of steps of one pass over the training slices.

    Args:
        settings: whose `train.batch_size` is read.
        training: the slices.
    """
    return -(-len(training) // settings.train.batch_size)


def initial_variables(settings: Settings) -> Variables:
    """Draw fresh variables, or read those of `train.init_from`.

    Args:
        settings: of the network and the training.

    Raises:
        FileNotFoundError: the workdir `train.init_from` has no network.
        ValueError: its network has other parameters.
    """
    if not settings.train.init_from:
        return factory.fresh_variables(settings)
    return trained_variables(settings, Path(settings.train.init_from), "best")[0]


def _pixels(settings: Settings, training: Sequence[Slice]) -> list[float]:
    """Count the pixels of each class if they weight the loss; else return 1 for each."""
    if settings.loss.class_weight_over != "none" and settings.loss.cross_entropy > 0:
        return data.pixels_of(settings, training)
    return [1.0] * (len(settings.class_names) + 1)


def _batches(settings: Settings, training: Sequence[Slice]) -> Batches:
    """Make the endless iterator of this process's share of the training batches."""
    return train_iterator(
        training,
        factory.preprocessing(settings),
        settings.augment,
        batch_size=factory.local_batch(settings),
        seed=settings.seed,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
    )


def _write_overview(workdir: Path, variables: Variables) -> None:
    """Write a table of every parameter's name, shape and size."""
    text = clu.parameter_overview.get_parameter_overview(variables["params"])
    write_text(workdir / "parameters.txt", text + "\n")


@contextmanager
def _stop_flag() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGTERM or Ctrl-C was received.

    A second Ctrl-C interrupts at once.
    """
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        if not received:
            print("Stopping after this step; Ctrl-C stops at once.", file=sys.stderr, flush=True)
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
