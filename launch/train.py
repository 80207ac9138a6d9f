"""Train a network: `python -m launch.train --config configs/covid_semiseg.py --workdir W`.

Fields change on the command line: `--config.train.epochs=20`. Interrupted (Ctrl-C, SIGTERM, power),
the same command goes on from the last checkpoint and ends with the same bits.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import clu.parameter_overview
import jax
from ml_collections import ConfigDict

from input_pipeline.loader import eval_batches, train_iterator
from input_pipeline.preprocess import Slice, from_grid
from launch import command, setup
from launch.writer import MetricWriter, progress, replacing
from ssa_jax.checkpoint import Checkpoints
from ssa_jax.evaluate import mean_dsc, predict_slices
from ssa_jax.inference import make_predict
from ssa_jax.state import TrainState, Variables, init_state
from ssa_jax.steps import AXIS, LossSettings, check_mapping, make_train_step, map_step
from ssa_jax.train import fit


def main(arguments: list[str]) -> None:
    """Read the flags and train."""
    parser = argparse.ArgumentParser("launch.train", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--workdir", type=Path, required=True, help="folder for checkpoints, metrics and curves"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options, config = command.parse_with_config(parser, arguments)
    state = train(config, options.workdir, quiet=options.quiet)
    print(f"Trained to step {int(state.step)}: {options.workdir}")


def train(config: ConfigDict, workdir: Path, *, quiet: bool) -> TrainState:
    """Train to the end, from the workdir's last checkpoint where there is one."""
    check(config)
    setup.build_records(config)
    setup.save_config(config, workdir)
    training, validation = setup.training_slices(config, workdir)
    return train_on(
        config,
        workdir,
        training,
        validation,
        losses=setup.loss_settings(config, training),
        variables=initial_variables(config),
        quiet=quiet,
    )


def check(config: ConfigDict) -> None:
    """Find mistakes of the configuration before a file is written.

    Raises:
      ValueError: a field holds something it must not.
    """
    setup.preprocessing(config)
    setup.augmentation(config)
    setup.build_model(config)
    _local_batch(config.train.batch_size)
    check_mapping(config.train.mapping)


def train_on(
    config: ConfigDict,
    workdir: Path,
    training: Sequence[Slice],
    validation: Sequence[Slice],
    *,
    losses: LossSettings,
    variables: Variables,
    steps_per_epoch: int | None = None,
    quiet: bool,
    what: str | None = None,
) -> TrainState:
    """Train on given slices to the end, from the workdir's last checkpoint where there is one.

    Args:
      config: of the network, the optimiser and the training.
      workdir: gets checkpoints, metrics and curves.
      training: labelled slices.
      validation: labelled slices to score the network on while it trains.
      losses: weights of the loss.
      variables: to start from.
      steps_per_epoch: steps that make up an epoch; None for one pass over `training`.
      quiet: show no progress.
      what: stands before the bar of progress.
    """
    model = setup.build_model(config, AXIS)
    steps_per_epoch = steps_per_epoch or steps_of(config, training)
    schedule, optimizer = setup.optimizer(config, steps_per_epoch)
    step = make_train_step(
        model,
        optimizer,
        losses,
        steps_per_epoch=steps_per_epoch,
        average_decay=config.optim.average_decay,
    )
    _write_overview(workdir, variables)
    state = init_state(variables, optimizer, average=config.optim.average_decay > 0)
    network = make_predict(model, flip=config.eval.flip)
    preprocessing = setup.preprocessing(config)

    def validate(current: Variables) -> float:
        batches = eval_batches(validation, preprocessing, batch_size=config.eval.batch_size)
        predictions = predict_slices(network(current), batches, from_grid)
        return mean_dsc(predictions, len(setup.class_names(config)))

    checkpoints = Checkpoints(workdir)
    start = checkpoints.last_step or 0
    total = config.train.epochs * steps_per_epoch
    batches = train_iterator(
        training,
        preprocessing,
        setup.augmentation(config),
        batch_size=_local_batch(config.train.batch_size),
        seed=config.seed,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
    )
    with (
        MetricWriter(workdir, resume_step=start) as writer,
        progress(total, initial=start, quiet=quiet, what=what) as bar,
        _stop_flag() as stop_requested,
    ):

        def report(step: int, values: dict[str, float]) -> None:
            update = step // config.optim.accumulate_steps
            writer.write(step, values | {"learning_rate": float(schedule(update))})
            if "validation/dsc" in values:
                bar.set_postfix_str(f"validation DSC {values['validation/dsc']:.3f}")

        try:
            return fit(
                state,
                map_step(step, config.train.mapping),
                batches,
                checkpoints,
                epochs=config.train.epochs,
                steps_per_epoch=steps_per_epoch,
                validate_every=config.train.validate_every,
                validate=validate,
                report=report,
                ticks=lambda step: bar.update(step - bar.n),
                stop_requested=stop_requested,
            )
        finally:
            checkpoints.close()


def steps_of(config: ConfigDict, training: Sequence[Slice]) -> int:
    """Steps that one pass over the training slices takes."""
    return -(-len(training) // config.train.batch_size)


def initial_variables(config: ConfigDict) -> Variables:
    """Fresh variables, or those of `train.init_from`."""
    if not config.train.init_from:
        return setup.fresh_variables(config)
    return setup.trained_variables(config, Path(config.train.init_from), "best")[0]


def _local_batch(batch_size: int) -> int:
    """This process's share of the global batch."""
    devices = jax.device_count()
    if batch_size < 1 or batch_size % devices:
        raise ValueError(
            f"train.batch_size is {batch_size}; expected a positive multiple of {devices}, the "
            "number of devices."
        )
    return batch_size // jax.process_count()


def _write_overview(workdir: Path, variables: Variables) -> None:
    """Every parameter's name, shape and size, for people to read."""
    text = clu.parameter_overview.get_parameter_overview(variables["params"])
    with replacing(workdir / "parameters.txt") as path:
        path.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _stop_flag() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether SIGTERM or Ctrl-C came; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def handle(number: int, _: object) -> None:
        if not asked:
            print("Stopping after this step; Ctrl-C stops at once.", file=sys.stderr, flush=True)
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
