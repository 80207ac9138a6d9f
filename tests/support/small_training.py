"""Trainings of a few steps on small slices, with the stand-in network, in this process.

The programs are compiled once for all trainings of the same settings.
"""

import io
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
from PIL import Image

from launch import cli
from ssa_jax.experiment import factory, network, training
from tests.support import ROOT
from tests.support.stand_in import StandIn

PARTS = {
    "train": Path("TrainingSet/LungInfection-Train/Doctor-label"),
    "test": Path("TestingSet/LungInfection-Test"),
}
UNLABELLED = Path("TrainingSet/LungInfection-Train/Pseudo-label/Imgs")
SIDE, LABELLED, TEST, UNSEEN = 32, 12, 2, 4
EPOCHS, STEPS = 3, 2  # of an epoch, with the batch below
BATCH = 5
KEPT = ExitStack()  # of what is never put back


class Ended(NamedTuple):
    """How a command ended: exit status, and what it printed on standard output and error."""

    status: int
    printed: str
    errors: str


def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy slice with a bright square, 8-bit, and its label 0 or 255."""
    rng = np.random.default_rng(number)
    image, truth = rng.integers(0, 60, (SIDE, SIDE)), np.zeros((SIDE, SIDE), np.uint8)
    row, column = rng.integers(2, SIDE - 14, 2)
    truth[row : row + 12, column : column + 12] = 255
    image[truth > 0] += 120
    return image.astype(np.uint8), truth


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_source(folder: Path) -> Path:
    """Slices in the layout of COVID-SemiSeg: labelled, unlabelled and test."""
    for split, count in (("train", LABELLED), ("test", TEST)):
        for number in range(count):
            image, truth = draw(number + 100 * (split == "test"))
            save(folder / PARTS[split] / "Imgs" / f"{number}.png", image)
            save(folder / PARTS[split] / "GT" / f"{number}.png", truth)
    for number in range(UNSEEN):
        save(folder / UNLABELLED / f"Data-1_case_00{number}_0.png", draw(200 + number)[0])
    return folder


def arguments(source: Path, workdir: Path, name: str = "covid_semiseg", **fields) -> list[str]:
    """Flags of a short training; its records are beside the source."""
    short = {
        "data.source_dir": source,
        "data.data_dir": source.parent / "records",
        "data.task": "binary",
        "data.image_size": SIDE,
        "data.lung_mask": "none",
        "data.validation_slices": 2,
        "train.batch_size": max(BATCH, jax.device_count()),
        "train.epochs": EPOCHS,
        "train.validate_every": 1,
        "eval.batch_size": 8,
        "eval.flip": False,
        "optim.warmup_epochs": 0.0,
        "loss.class_weight_over": "none",
        "self_train.eta": 0.5,
        "self_train.slices_per_round": 2,
        "self_train.patience": 2,
        "self_train.max_rounds": 2,
        "self_train.unlabelled_slices": 0,
    }
    overrides = [f"--config.{name}={value}" for name, value in (short | fields).items()]
    config = str(ROOT / f"configs/{name}.py")
    return ["--config", config, "--workdir", str(workdir), "--quiet", *overrides]


def run(main: Callable[[list[str]], None], given: list[str]) -> Ended:
    """Run a command in this process; what is no error of the user is raised."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        try:
            cli.run(main, given)
        except SystemExit as ended:
            return Ended(int(ended.code or 0), out.getvalue(), errors.getvalue())
    raise AssertionError("a command ends by SystemExit")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file and folder below a folder, with the content of the files."""
    if not folder.exists():
        return {}
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder"
        for path in [folder, *sorted(folder.rglob("*"))]
    }


@contextmanager
def stand_in() -> Iterator[None]:
    """Put the stand-in in the network's place; equal steps and predictions are compiled once."""
    steps: dict = {}
    mapped: dict = {}
    predictions: dict = {}
    make_step, map_step = training.make_step, training.map_step
    make_predict = network.make_predict

    def make_step_once(settings, optimizer, steps_per_epoch):
        places = {"data.data_dir": "", "data.source_dir": ""}
        key = repr((settings.replace(places), steps_per_epoch))
        return steps.setdefault(key, make_step(settings, optimizer, steps_per_epoch))

    def map_step_once(step, mapping, class_weight):
        key = (step, mapping, tuple(class_weight))
        return mapped.setdefault(key, map_step(step, mapping, class_weight))

    def make_predict_once(model, *, flip):
        if flip not in predictions:
            predictions[flip] = make_predict(model, flip=flip)
        return predictions[flip]

    with (
        mock.patch.object(factory, "build_model", lambda _, axis=None: StandIn(axis_name=axis)),
        mock.patch.object(factory, "operations_of_step", lambda *_: 1e9),
        mock.patch.object(training, "make_step", make_step_once),
        mock.patch.object(training, "map_step", map_step_once),
        mock.patch.object(network, "make_predict", make_predict_once),
    ):
        yield


def stand_in_in_workers() -> None:
    """Put the stand-in in the network's place in a worker process, for all that it does."""
    if multiprocessing.parent_process() is not None:
        KEPT.enter_context(stand_in())


@contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """Ask a training to stop after so many steps, as SIGTERM does."""
    steps: list[int] = []

    def requested(number: int) -> bool:
        if steps[-1:] != [number]:  # asked before each slice of a validation, too
            steps.append(number)
        return len(steps) == step

    @contextmanager
    def flag():
        yield requested

    with mock.patch.object(training, "stop_flag", flag):
        yield
