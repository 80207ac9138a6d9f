"""Speed of the input pipeline, from records to the device, compared with that of training."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from input_pipeline.loader import train_iterator
from input_pipeline.slices import Slice
from launch.benchmark import results
from launch.benchmark.timing import machine, spread
from ssa_jax.experiment import data, factory
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.training import make_step, steps_of
from ssa_jax.training.mapping import MappedStep, map_step
from ssa_jax.training.state import init_state

WARM_UP = 3  # steps that are not counted: compilation, and filling the buffer
SPEED = "Input"  # title of the table
STEPS_PER_EPOCH = 100  # of the schedule; the speed does not depend on it


def measure(settings: Settings, steps: int, repeats: int, out: Path) -> None:
    """Measure, print, and write `input.json` and `.md`.

    Args:
        settings: of the data, the augmentation and the step, as for `ssa-jax train`.
        steps: batches of each measurement.
        repeats: number of measurements.
        out: folder of the results.
    """
    found = results.Results(out, "input", partial(machine, repeats=3))
    data.build_records(settings)
    slices = data.open_split(settings, data.TRAIN)
    batches = _batches(settings, slices)
    epoch = steps_of(settings, len(slices))
    start = time.perf_counter()
    for _ in range(epoch):
        next(batches)
    first = epoch * settings.train.batch_size / (time.perf_counter() - start)
    mapped, state = _step(settings)
    alone, trained, waited = [], [], []
    for number in range(repeats + 1):
        alone.append(_pipeline_alone(batches, mapped, steps))
        state, seconds, waiting = _train(batches, mapped, state, WARM_UP if not number else steps)
        trained.append(seconds)
        waited.append(waiting / seconds)
    size = settings.train.batch_size * steps
    supply, demand = size / np.array(alone[1:]), size / np.array(trained[1:])
    row: dict[str, Any] = {
        "data": settings.data.name,
        "px": settings.data.image_size,
        "batch": settings.train.batch_size,
        "first epoch, slices/s": first,
        "pipeline alone, slices/s": spread(supply),
        "training, slices/s": spread(demand),
        "pipeline / training": spread(supply / demand),
        "share of time waiting": spread(np.array(waited[1:])),
    }
    found.add(SPEED, [row])


def _batches(settings: Settings, slices: Sequence[Slice]) -> Any:
    """Make the endless iterator of training batches."""
    return train_iterator(
        slices,
        factory.preprocessing(settings),
        factory.augmentation_on_host(settings),
        batch_size=settings.train.batch_size,
        seed=settings.seed,
        cache_gb=settings.data.cache_gb,
        workers=settings.data.workers,
    )


def _step(settings: Settings) -> tuple[MappedStep, Any]:
    """Build the step of the settings, and its state on the devices."""
    _, optimizer = factory.optimizer(settings, STEPS_PER_EPOCH)
    step = make_step(settings, optimizer, STEPS_PER_EPOCH)
    class_weight = [1.0] * max(2, len(settings.class_names) + 1)
    mapped = map_step(step, settings.train.mapping, class_weight)
    average = settings.optim.average_decay > 0
    state = init_state(factory.fresh_variables(settings), optimizer, average=average)
    return mapped, mapped.place_state(state)


def _pipeline_alone(batches: Any, mapped: MappedStep, steps: int) -> float:
    """Measure the seconds of reading batches to the device, without training."""
    start = time.perf_counter()
    for _ in range(steps):
        jax.block_until_ready(mapped.place_batch(next(batches)))
    return time.perf_counter() - start


def _train(batches: Any, mapped: MappedStep, state: Any, steps: int) -> tuple[Any, float, float]:
    """Train; return the state, the total seconds and those spent on waiting for batches."""
    waiting, start = 0.0, time.perf_counter()
    for _ in range(steps):
        requested = time.perf_counter()
        batch = next(batches)
        waiting += time.perf_counter() - requested
        state, metrics = mapped.step(state, mapped.place_batch(batch))
        jax.block_until_ready(metrics)
    return state, time.perf_counter() - start, waiting
