"""`python -m launch.train`: killed and resumed it ends the same; bad input is one line."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from launch import cli, train
from tests.support import ROOT

pytestmark = pytest.mark.slow

CONFIG = str(ROOT / "configs/covid_semiseg.py")
LABELLED = Path("TrainingSet/LungInfection-Train/Doctor-label")
UNLABELLED = Path("TrainingSet/LungInfection-Train/Pseudo-label/Imgs/Data-1_a_org_001_1.png")
EPOCHS, STEPS = 5, 2  # of an epoch


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Five labelled slices, one of them to validate on, in the layout of COVID-SemiSeg."""
    folder = tmp_path_factory.mktemp("covid")
    rng = np.random.default_rng(0)
    for name in range(5):
        image = rng.integers(0, 100, (32, 32)).astype(np.uint8)
        truth = np.zeros((32, 32), np.uint8)
        truth[4 * name : 4 * name + 8, 8:20] = 255
        image[truth > 0] += 100
        for part, array in (("Imgs", image), ("GT", truth)):
            path = folder / LABELLED / part / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (folder / UNLABELLED).parent.mkdir(parents=True)
    Image.fromarray(image).save(folder / UNLABELLED)
    return folder


def arguments(source: Path, workdir: Path, **fields) -> list[str]:
    """A short training of the real network on few pixels."""
    short = {
        "data.source_dir": source,
        "data.data_dir": source / "records",
        "data.image_size": 32,
        "data.lung_mask": "none",
        "data.validation_slices": 1,
        "model.kernel_size": 3,
        "model.stage_sizes": (1, 1, 1, 1),  # compiles in a third of the time
        "train.batch_size": 2,
        "train.epochs": EPOCHS,
        "eval.batch_size": 1,
        "eval.flip": False,
        "optim.warmup_epochs": 0.0,
    }
    overrides = [f"--config.{name}={value}" for name, value in (short | fields).items()]
    return ["--config", CONFIG, "--workdir", str(workdir), *overrides]


class Killing:
    """Runs the command in processes of its own, which share what XLA compiled."""

    def __init__(self, source: Path, cache: Path) -> None:
        self._source = source
        self._environment = os.environ | {
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def start(self, workdir: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "launch.train", *arguments(self._source, workdir)],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def to_the_end(self, workdir: Path) -> None:
        process = self.start(workdir)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors

    def killed(self, workdir: Path, number: signal.Signals, step: int) -> tuple[int, str]:
        """Send a signal once the report of `step` is there; exit status and standard error."""
        process = self.start(workdir)
        log = workdir / "metrics.csv"
        for _ in range(6000):
            if process.poll() is not None or (
                log.exists() and f"\n{step}," in log.read_text(encoding="utf-8")
            ):
                break
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
        return process.returncode, errors


def final_state(workdir: Path) -> tuple[list[str], list[np.ndarray]]:
    """Every array of the last checkpoint, by name."""
    folder = workdir / "checkpoints" / "last" / str(EPOCHS * STEPS) / "state"
    leaves = jax.tree_util.tree_leaves_with_path(ocp.StandardCheckpointer().restore(folder))
    return [jax.tree_util.keystr(path) for path, _ in leaves], [np.asarray(x) for _, x in leaves]


@pytest.fixture(scope="module")
def killing(source, tmp_path_factory) -> Killing:
    return Killing(source, tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def undisturbed(killing, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("whole")
    killing.to_the_end(workdir)
    return workdir


def test_sigterm_before_training_interrupts_with_a_word():
    program = (
        "import os, signal; from launch import cli; "
        "cli.run(lambda _: os.kill(os.getpid(), signal.SIGTERM), [])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == cli.INTERRUPTED
    assert ended.stderr == "Interrupted.\n"


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_killed_and_resumed_it_ends_with_the_same_bits(killing, undisturbed, tmp_path):
    status, errors = killing.killed(tmp_path, signal.SIGTERM, step=4)
    assert status == cli.INTERRUPTED, errors
    assert re.fullmatch(
        r".*: 10 steps; compiling the step\n"
        r"Stopping after the step, slice or compilation under way; Ctrl-C stops at once\.\n"
        r"Stopped (at|in the validation after) step \d+; the same command resumes from there\.\n",
        errors,
    )
    status, errors = killing.killed(tmp_path, signal.SIGKILL, step=8)
    assert status == -signal.SIGKILL, errors
    killing.to_the_end(tmp_path)
    (names, ours), (expected, theirs) = final_state(tmp_path), final_state(undisturbed)
    assert names == expected
    assert len(names) > 300  # parameters, two moments, statistics, the running average
    for name, one, other in zip(names, ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)
    logs = [(folder / "metrics.csv").read_bytes() for folder in (tmp_path, undisturbed)]
    assert logs[0] == logs[1]


def refused(capsys, given: list[str], text: str) -> None:
    """One line on standard error that holds `text`, and exit status 2."""
    with pytest.raises(SystemExit) as stopped:
        cli.run(train.main, given)
    out, errors = capsys.readouterr()
    assert (stopped.value.code, out) == (cli.USER_ERROR, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert text in errors


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"train.epoch": 3}, "no such field ('epoch' Did you mean"),
        ({"train.epochs": "many"}, "epochs"),
        ({"data.image_size": 100}, "image_size is 100, expected a positive multiple of 32"),
        ({"data.lung_mask": "guess"}, "lung_mask is 'guess'"),
        ({"data.task": "three"}, "'three'"),
        ({"data.name": "nothing"}, "data.name is 'nothing'"),
        ({"train.batch_size": 12}, "train.batch_size is 12; expected a positive multiple of 8"),
        ({"data.source_dir": "absent"}, "absent: no folder TrainingSet"),
        ({"train.mapping": "vmap"}, "train.mapping is 'vmap'"),
    ],
)
def test_bad_fields(capsys, source, tmp_path, fields, text):
    given = {"data.data_dir": tmp_path / "records"} if "data.source_dir" in fields else {}
    fields = {"train.batch_size": 8} | given | fields  # 8: the devices of the tests
    refused(capsys, arguments(source, tmp_path / "work", **fields), text)
    assert not (tmp_path / "work").exists()


def test_a_configuration_file_that_is_not_there(capsys, source, tmp_path):
    given = arguments(source, tmp_path / "work")
    given[1] = "configs/absent.py"
    refused(capsys, given, "configs/absent.py: no such configuration file")
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_of_another_configuration_stays_as_it_is(capsys, source, tmp_path, undisturbed):
    before = sorted(path.name for path in undisturbed.iterdir())
    given = arguments(source, undisturbed, **{"train.batch_size": 8, "seed": 7})
    refused(capsys, given, "seed is 7 here and 0 there; train.batch_size is 8 here and 2 there")
    assert sorted(path.name for path in undisturbed.iterdir()) == before


def test_a_workdir_that_is_a_file(capsys, source, tmp_path):
    (tmp_path / "work").write_text("mine")
    given = arguments(source, tmp_path / "work", **{"train.batch_size": 8})
    refused(capsys, given, str(tmp_path / "work"))
    assert (tmp_path / "work").read_text() == "mine"


def test_without_a_workdir_the_flag_is_named(capsys, source):
    with pytest.raises(SystemExit) as stopped:
        cli.run(train.main, arguments(source, Path())[:2])
    assert stopped.value.code == cli.USER_ERROR
    assert "--workdir" in capsys.readouterr().err
