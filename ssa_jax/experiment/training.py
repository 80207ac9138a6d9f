"""Training on disk: from settings and slices to checkpoints, metrics and TensorBoard events."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import clu.parameter_overview
import jax
import numpy as np

from input_pipeline.files import remove, write_json, write_text
from input_pipeline.loader import Batches, Pool, teacher_iterator, train_iterator, two_pool_iterator
from input_pipeline.slices import Slice, Subset
from ssa_jax.evaluation.scoring import mean_dsc, slice_dsc
from ssa_jax.experiment import data, factory, pools
from ssa_jax.experiment import workdir as workdirs
from ssa_jax.experiment.initial import check_initial, initial_variables
from ssa_jax.experiment.lock import in_use
from ssa_jax.experiment.network import Network, compile_network
from ssa_jax.experiment.provenance import keep_saved, keep_training, says_saved
from ssa_jax.experiment.reporting import reporting
from ssa_jax.experiment.settings import Settings
from ssa_jax.models.ssa_net import SSANet
from ssa_jax.training.checkpoint import Checkpoints
from ssa_jax.training.distributed import barrier, decided, gathered, say
from ssa_jax.training.loop import IN_VALIDATION, TrainingDiverged, fit
from ssa_jax.training.mapping import map_step
from ssa_jax.training.metric_log import log_sha256, require_log
from ssa_jax.training.state import TrainState, Variables, init_state
from ssa_jax.training.step import AXIS, Step, make_train_step
from ssa_jax.training.stopping import Interrupted, stop_flag, until_stopped
from ssa_jax.training.watch import Watch

PRETRAINED = "pretrained.json"  # in the workdir of a pretraining that is done
WAIT_SECONDS = 1.0  # between looks at a pretraining that another process does


def train(
    settings: Settings,
    workdir: Path,
    *,
    accept_data_changes: bool = False,
    profile: int = 0,
    quiet: bool,
) -> TrainState:
    """Train to the end, from the workdir's last checkpoint where there is one.

    Args:
        settings: of the data set, the network and the training.
        workdir: folder for checkpoints, metrics and the split.
        accept_data_changes: go on with slices that were added, gone or changed since.
        profile: number of steps to profile, soon after the start, in `workdir/profile`.
        quiet: show no progress.

    Returns:
        The final state on the host.

    Raises:
        ValueError: invalid settings or data, or a workdir of other settings or data, or damaged.
        OSError: a file cannot be read or written, or another process uses the workdir.
        TrainingDiverged: the loss is not finite; what to do is said.
        Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    try:
        return train_in(
            settings,
            workdir,
            accept_data_changes=accept_data_changes,
            profile=profile,
            quiet=quiet,
        )
    except TrainingDiverged as error:
        raise TrainingDiverged(
            f"{error} by the same command, --config.optim.learning_rate="
            f"{settings.optim.learning_rate / 4:g} for instance; it goes on from step "
            f"{Checkpoints(workdir).last_step or 0}",
            error.step,
        ) from error


def train_in(
    settings: Settings,
    workdir: Path,
    *,
    accept_data_changes: bool = False,
    profile: int = 0,
    quiet: bool,
) -> TrainState:
    """Train as `train` does; the error about a loss that is not finite leaves out what to do."""
    factory.check(settings)
    choose = partial(
        data.plan,
        folder=workdir,
        also=[data.UNLABELLED] if settings.train.consistency else [],
        accept_changes=accept_data_changes,
        way_out="add --accept-data-changes to go on with the slices as they are now, or name "
        "another --workdir to train anew",
    )

    def check(there: Settings) -> None:
        slices = len(choose(there).training)
        check_start(there, slices)
        done = Checkpoints(workdir).last_step or 0
        _require_epochs(there, workdir, done, steps_of(there, slices))

    with in_use(workdir):
        may_change = workdirs.goes_on(settings)
        changed = workdirs.changed_settings(settings, workdir, may_change)
        data.build_records(settings, check)
        plan = choose(settings)

        def commit() -> None:
            for note in filter(None, (*changed, plan.note)):
                say(f"{workdir}: {note}")
            workdirs.save_settings(settings, workdir, may_change)
            data.write_plan(plan.files, workdir)

        return train_on(
            settings,
            workdir,
            plan.training,
            plan.validation,
            others=_unlabelled(settings, plan),
            class_weight=factory.class_weight(settings, _pixels(settings, plan.training)),
            variables=start_variables(settings, quiet=quiet),
            validated_on=plan.validated_on,
            commit=commit,
            profile=profile,
            quiet=quiet,
        )


def train_on(
    settings: Settings,
    workdir: Path,
    training: Sequence[Slice],
    validation: Sequence[Slice],
    *,
    others: Sequence[Slice] = (),
    class_weight: Sequence[float],
    variables: Variables,
    validated_on: str = "",
    commit: Callable[[], None],
    steps_per_epoch: int | None = None,
    profile: int = 0,
    quiet: bool,
    what: str | None = None,
) -> TrainState:
    """Train on given slices to the end, from the workdir's last checkpoint where there is one.

    Args:
        settings: of the network, the optimiser and the training.
        workdir: folder for checkpoints and metrics.
        training: labelled slices.
        validation: labelled slices to score the network on while it trains.
        others: slices without labels of a doctor, of which every batch has a fixed share:
            unlabelled ones with `train.consistency`, else pseudo-labelled ones.
        class_weight: of each class in the cross entropy, background first.
        variables: initial ones.
        validated_on: hash of the validation slices; the best network is chosen anew if it changes.
        commit: called once nothing can be refused any more, before anything is written.
        steps_per_epoch: steps of an epoch; None for as many as one pass over all slices has.
        profile: see `train`.
        quiet: show no progress.
        what: label before the progress bar.

    Returns:
        The final state on the host.

    Raises:
        As `train`.
    """
    steps_per_epoch = steps_per_epoch or steps_of(settings, len(training), len(others))
    schedule, optimizer = factory.optimizer(settings, steps_per_epoch)
    step = make_step(settings, optimizer, steps_per_epoch)
    batches = _batches(settings, training, others)
    state = init_state(variables, optimizer, average=settings.optim.average_decay > 0)
    checkpoints = Checkpoints(workdir)
    state, resumed = _resumed(checkpoints, state, workdir, validated_on)
    start = int(state.step)
    logged = _logged(start, resumed)
    total = _require_epochs(settings, workdir, start, steps_per_epoch)
    if note := factory.dtype_note(settings):
        say(note)
    says_saved(workdir)  # raises for a damaged note, before anything is written
    barrier("nothing is refused any more")
    commit()
    _write_overview(workdir, variables)
    keep_training(workdir, settings, slices=len(training) + len(others))
    network, watch = compile_network(settings), Watch()
    with (
        reporting(
            settings,
            workdir,
            variables["params"],
            rate=lambda done: float(schedule(done // settings.optim.accumulate_steps)),
            start=start,
            logged=logged,
            total=total,
            profile=profile,
            quiet=quiet,
            what=what,
        ) as reporter,
        closing(batches),
        stop_flag() as stop_requested,
        _marking_divergence(workdir),
        watch.running(),
    ):
        return fit(
            state,
            map_step(step, settings.train.mapping, class_weight),
            batches,
            checkpoints,
            epochs=settings.train.epochs,
            steps_per_epoch=steps_per_epoch,
            validate_every=settings.train.validate_every,
            validate=lambda current, stop: _validation_dsc(
                network(current), validation, watch, stop
            ),
            skip_nonfinite=settings.optim.skip_nonfinite,
            resumed=resumed,
            facts=lambda: {
                "log": decided(lambda: log_sha256(workdir, total)),
                "validated_on": validated_on,
            },
            report=reporter.report,
            ticks=reporter.tick,
            stop_requested=stop_requested,
            clock=reporter.clock,
            saved=lambda: keep_saved(workdir),
            doing=watch.doing,
        )


def _validation_dsc(
    network: Network, slices: Sequence[Slice], watch: Watch, stop_requested: Callable[[], bool]
) -> float:
    """Return the mean DSC over the validation slices, of which each process predicts a part.

    Raises Interrupted where the run is to stop.
    """
    parts = np.array_split(np.arange(len(slices)), jax.process_count())
    mine = Subset(slices, parts[jax.process_index()].tolist())
    classes = len(network.class_names)
    predicted = watch.parts(until_stopped(network.predict(mine), len(mine), stop_requested))
    scores = itertools.chain.from_iterable(gathered(slice_dsc(predicted, classes)))
    return mean_dsc(list(scores), classes)


def _require_epochs(settings: Settings, workdir: Path, start: int, steps_per_epoch: int) -> int:
    """Check that a training of so many steps is not longer than the settings say; return theirs."""
    total = settings.train.epochs * steps_per_epoch
    if start > total:
        raise ValueError(
            f"{workdir}: {start} steps are trained, train.epochs={settings.train.epochs} are "
            f"{total}; expected {-(-start // steps_per_epoch)} epochs or more"
        )
    return total


def _resumed(
    checkpoints: Checkpoints, state: TrainState, workdir: Path, validated_on: str
) -> tuple[TrainState, dict[str, Any] | None]:
    """Return the state to go on from and its progress, or the initial state and None."""
    if checkpoints.last_step is None:
        workdirs.require_not_lost(workdir, ["last"])
        require_log(workdir, 0, None)
        return state, None
    state, resumed = checkpoints.restore_last(state)
    note = require_log(workdir, _logged(int(state.step), resumed), resumed.get("log"))
    for text in [*checkpoints.notes, *([note] if note else [])]:
        say(text)
    if resumed.get("validated_on", validated_on) != validated_on:
        resumed["best"] = -math.inf
    if resumed["best"] > -math.inf and not workdirs.has_checkpoints(workdir, ["best"]):
        resumed["best"] = -math.inf
        say(
            f"{workdir / 'checkpoints' / 'best'}: no checkpoint, though there was one; the best "
            "network is chosen anew from the epochs to come (--which last takes the last)"
        )
    return state, resumed


def _logged(step: int, progress: dict[str, Any] | None) -> int:
    """Return the step up to which the metrics are logged that belong to a saved state."""
    return step - 1 if progress and progress.get(IN_VALIDATION) else step


@contextmanager
def _marking_divergence(workdir: Path) -> Iterator[None]:
    """Keep a file in the workdir from a loss that is not finite until a training goes on."""
    path = workdir / workdirs.DIVERGED_FILE
    try:
        yield
    except TrainingDiverged as error:
        write_json(path, {"step": error.step, "what": str(error)})
        raise
    except Interrupted:
        remove(path)
        raise
    remove(path)


def make_step(
    settings: Settings, optimizer: Any, steps_per_epoch: int, model: SSANet | None = None
) -> Step:
    """Build the training step of the settings, to be mapped over devices.

    Args:
        settings: of the network, the loss and the moving average.
        optimizer: see `factory.optimizer`.
        steps_per_epoch: converts steps to epochs.
        model: the network, see `factory.build_model`; None for that of the devices at hand.
    """
    return make_train_step(
        model or factory.build_model(settings, AXIS),
        optimizer,
        factory.loss_weights(settings),
        steps_per_epoch=steps_per_epoch,
        average_decay=settings.optim.average_decay,
        teacher_eta=settings.self_train.eta if settings.train.consistency else None,
        skip_nonfinite=settings.optim.skip_nonfinite > 0,
        microbatches=settings.train.microbatches,
        augmentation=factory.augmentation_on_device(settings),
        seed=settings.seed,
    )


def steps_of(settings: Settings, slices: int, others: int = 0) -> int:
    """Return the number of steps of one pass over the training slices.

    Args:
        settings: whose train group is read.
        slices: number of the labelled slices.
        others: number of the other slices that train; with `train.consistency` half of a batch is
            labelled, and a pass is one over the labelled slices.
    """
    if settings.train.consistency:
        return -(-slices // (settings.train.batch_size // 2))
    return -(-(slices + others) // settings.train.batch_size)


def check_start(settings: Settings, slices: int) -> None:
    """Check what a training would refuse at its start, before anything is written.

    Args:
        settings: of the training.
        slices: number of its training slices.

    Raises:
        ValueError: a warm-up as long as the training, or as `initial.check_initial`.
        FileNotFoundError: the workdir `train.init_from` has no network.
    """
    factory.optimizer(settings, steps_of(settings, slices))
    check_initial(settings)


def start_variables(settings: Settings, *, quiet: bool) -> Variables:
    """Return the variables that a training starts from; those to be pretrained are trained first.

    Args:
        settings: of the network and the training.
        quiet: show no progress.

    Raises:
        As `initial.initial_variables` and `train`.
    """
    return initial_variables(settings, partial(_pretrain, quiet=quiet))


def _pretrain(settings: Settings, folder: Path, *, quiet: bool) -> None:
    """Train a network to start from, unless that is done."""
    path, waiting = folder / PRETRAINED, False
    while not decided(path.exists):
        try:
            if not waiting:
                say(f"{folder}: pretraining")
            state = train_in(settings, folder, quiet=quiet)
            write_json(path, {"step": int(state.step)})
        except BlockingIOError as error:  # another training of a sweep does it
            if jax.process_count() > 1:
                raise
            if not waiting:
                say(f"{error}; waiting")
            waiting = True
            time.sleep(WAIT_SECONDS)


def _unlabelled(settings: Settings, plan: data.Plan) -> Sequence[Slice]:
    """Return the slices that an online teacher labels; none without one."""
    if not settings.train.consistency:
        return ()
    slices = pools.draw_pools(settings, plan)
    pools.check_patients_apart(settings, slices)
    return slices.unlabelled


def _pixels(settings: Settings, training: Sequence[Slice]) -> list[float]:
    """Count the pixels of each class if they weight the loss; else return 1 for each."""
    if settings.loss.class_weight_over != "none" and settings.loss.cross_entropy > 0:
        return data.pixels_of(settings, training)
    return [1.0] * (len(settings.class_names) + 1)


def _batches(
    settings: Settings, training: Sequence[Slice], others: Sequence[Slice] = ()
) -> Batches:
    """Make the endless iterator of this process's share of the training batches."""
    preprocessing, augmentation = factory.preprocessing(settings), settings.augment
    strong = augmentation.stronger(settings.self_train.strong_intensity)
    size, labelled = factory.local_batch(settings), Pool(training, augmentation)
    options: dict[str, Any] = {
        "seed": settings.seed,
        "cache_gb": settings.data.cache_gb,
        "workers": settings.data.workers,
        "shard_index": jax.process_index(),
        "shard_count": jax.process_count(),
    }
    if settings.train.consistency:
        return teacher_iterator(
            labelled,
            Pool(others, augmentation.geometric),
            preprocessing,
            batch_size=size // 2,
            strong=strong.photometric,
            cutmix=settings.mixing.cutmix,
            **options,
        )
    options |= {"batch_size": size, "mixing": settings.mixing}
    if not others:
        on_host = factory.augmentation_on_host(settings)
        return train_iterator(training, preprocessing, on_host, **options)
    return two_pool_iterator(
        labelled,
        Pool(others, strong),
        preprocessing,
        labelled_share=settings.self_train.labelled_share,
        **options,
    )


def _write_overview(workdir: Path, variables: Variables) -> None:
    """Write a table of every parameter's name, shape and size."""
    text = clu.parameter_overview.get_parameter_overview(variables["params"])
    write_text(workdir / "parameters.txt", text + "\n")
