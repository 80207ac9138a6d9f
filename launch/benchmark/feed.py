"""The input pipeline: slices a second from records to the device, against the step's appetite."""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from input_pipeline.loader import train_iterator
from launch import setup
from launch.benchmark import results
from launch.benchmark.timing import machine, spread
from ssa_jax.state import init_state
from ssa_jax.steps import AXIS, MappedStep, make_train_step, map_step

WARM_UP = 3  # steps that are not counted: compilation, and a full buffer


def measure(config: ConfigDict, steps: int, repeats: int, out: Path) -> None:
    """Measure, print, and write `input.json` and `.md`.

    Args:
      config: of the data, the augmentation and the step, as `launch.train` takes it.
      steps: batches of each measurement.
      repeats: measurements.
      out: folder of the results.
    """
    about = machine(repeats=3)
    setup.build_records(config)
    slices = setup.open_split(config, "train")
    batches = _batches(config, slices)
    epoch = -(-len(slices) // config.train.batch_size)
    start = time.perf_counter()
    for _ in range(epoch):
        next(batches)
    first = epoch * config.train.batch_size / (time.perf_counter() - start)
    mapped, state = _step(config)
    alone, trained, waited = [], [], []
    for number in range(repeats + 1):
        alone.append(_feed_alone(batches, mapped, steps))
        state, seconds, waiting = _train(batches, mapped, state, WARM_UP if not number else steps)
        trained.append(seconds)
        waited.append(waiting / seconds)
    size = config.train.batch_size * steps
    supply, appetite = size / np.array(alone[1:]), size / np.array(trained[1:])
    row: dict[str, Any] = {
        "data": config.data.name,
        "px": config.data.image_size,
        "batch": config.train.batch_size,
        "first epoch, slices/s": first,
        "pipeline alone, slices/s": spread(supply),
        "training, slices/s": spread(appetite),
        "pipeline / training": spread(supply / appetite),
        "share of time waiting": spread(np.array(waited[1:])),
    }
    print(results.markdown([row]))
    results.save(out, "input", about, {"Input": [row]})


def _batches(config: ConfigDict, slices: Any) -> Any:
    return train_iterator(
        slices,
        setup.preprocessing(config),
        setup.augmentation(config),
        batch_size=config.train.batch_size,
        seed=config.seed,
    )


def _step(config: ConfigDict) -> tuple[MappedStep, Any]:
    """The step of the configuration, and its state on the devices."""
    _, optimizer = setup.optimizer(config, 100)
    losses = setup.weighted_loss(config, [1.0] * (len(setup.class_names(config)) + 1))
    step = make_train_step(
        setup.build_model(config, AXIS),
        optimizer,
        losses,
        steps_per_epoch=100,
        average_decay=config.optim.average_decay,
    )
    mapped = map_step(step, config.train.mapping)
    average = config.optim.average_decay > 0
    return mapped, mapped.place_state(
        init_state(setup.fresh_variables(config), optimizer, average=average)
    )


def _feed_alone(batches: Any, mapped: MappedStep, steps: int) -> float:
    """Seconds from records to the device, with nothing else to do."""
    start = time.perf_counter()
    for _ in range(steps):
        jax.block_until_ready(mapped.place_batch(next(batches)))
    return time.perf_counter() - start


def _train(batches: Any, mapped: MappedStep, state: Any, steps: int) -> tuple[Any, float, float]:
    """Train; gives the state, the seconds in all and those spent waiting for a batch."""
    waiting, start = 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waiting += time.perf_counter() - asked
        state, metrics = mapped.step(state, mapped.place_batch(batch))
        jax.block_until_ready(metrics)
    return state, time.perf_counter() - start, waiting
