"""`python -m launch.self_train`: from labelled and unlabelled slices to a report, killed or not."""

import csv
import importlib
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

from input_pipeline.pseudo_labels import PseudoLabels, read_manifest
from input_pipeline.slices import Slice
from input_pipeline.splits import load_split
from input_pipeline.verified import HASH
from launch import cli, self_train
from ssa_jax.experiment import data, pools
from ssa_jax.experiment.settings import Settings
from ssa_jax.semi_supervised.quality import warnings_of
from ssa_jax.semi_supervised.trust import Trust
from ssa_jax.training.state import weights_sha256
from tests.input_pipeline.test_pseudo_labels import hashes
from tests.support import ROOT

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SSA_JAX_KILLS", "1"))
LABELLED = Path("TrainingSet/MultiClassInfection-Train")
TEST = Path("TestingSet/MultiClassInfection-Test")
UNLABELLED = Path("TrainingSet/LungInfection-Train/Pseudo-label/Imgs")
ADDED, ROUNDS, COUNT = 4, 3, 10


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def draw(rng, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A slice with a grey and a bright square, and its labels."""
    image, mask = rng.integers(0, 60, (32, 32)), np.zeros((32, 32), np.uint8)
    for index, corner in ((1, (2 + number, 3)), (2, (14, 4 + number))):
        square = tuple(slice(start, start + 9) for start in corner)
        mask[square] = index
        image[square] += 70 * index
    return image.astype(np.uint8), mask


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """COVID-SemiSeg with six labelled, two test and ten unlabelled slices of five patients."""
    folder = tmp_path_factory.mktemp("semiseg")
    rng = np.random.default_rng(0)
    for part, count in ((LABELLED, 6), (TEST, 2)):
        for number in range(count):
            image, mask = draw(rng, number)
            save(folder / part / "Imgs" / f"{number}.png", image)
            save(folder / part / "GT" / f"{number}.png", mask)
    for number in range(COUNT):
        name = f"Data-1_case_{number // 2:03d}_{number % 2}.png"
        save(folder / UNLABELLED / name, draw(rng, number)[0])
    return folder


def arguments(source: Path, workdir: Path, **fields) -> list[str]:
    """A short run of the real network on few pixels."""
    short = {
        "data.source_dir": source,
        "data.data_dir": source / "records",
        "data.image_size": 32,
        "data.lung_mask": "none",
        "data.validation_slices": 1,
        "model.kernel_size": 3,
        "model.stage_sizes": (1, 1, 1, 1),  # compiles in a third of the time
        "train.batch_size": 8,
        "train.epochs": 1,
        "train.validate_every": 1,
        "eval.batch_size": 8,
        "eval.flip": False,
        "optim.warmup_epochs": 0.0,
        "self_train.eta": 0.4,
        "self_train.slices_per_round": ADDED,
        "self_train.same_steps": True,  # so that the step is compiled once
        "self_train.patience": ROUNDS,
        "self_train.max_rounds": ROUNDS,
        "self_train.unlabelled_slices": 0,
    }
    overrides = [f"--config.{name}={value}" for name, value in (short | fields).items()]
    config = str(ROOT / "configs/self_train_semiseg.py:cpu")
    return ["--config", config, "--workdir", str(workdir), "--quiet", *overrides]


def environment(cache: Path) -> dict[str, str]:
    """Processes share what XLA compiled."""
    return os.environ | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def start(source: Path, workdir: Path, cache: Path) -> subprocess.Popen:
    given = arguments(source, workdir, **{"train.batch_size": 2})
    return subprocess.Popen(
        [sys.executable, "-m", "launch.self_train", *given],
        cwd=ROOT,
        env=environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def undisturbed(source, cache, tmp_path_factory) -> tuple[Path, str, float]:
    """A finished workdir, what was printed, and the seconds of its rounds, compiling included."""
    process = start(source, workdir := tmp_path_factory.mktemp("whole"), cache)
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    seconds = sum(float(path.read_text()) for path in workdir.glob("round_*/*_seconds.json"))
    return workdir, printed, seconds


def test_what_a_person_sees(undisturbed):
    workdir, printed, _ = undisturbed
    lines = [line.split() for line in printed.splitlines()]
    at = next(k for k, line in enumerate(lines) if line[:2] == ["round", "slices"])
    rows = lines[at + 1 : at + 1 + ROUNDS]
    assert [row[:4] for row in rows] == [
        ["1", "5", "0", "0"],
        ["2", "9", "4", "0"],
        ["3", "13", "4", "4"],
    ]
    assert "Best round: " in printed and "interval over 2 cases" in printed
    with (workdir / "rounds.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["slices"] for row in table] == ["5", "9", "13"]
    for row in table:
        weights = [float(row[f"weight.{n}"]) for n in ("background", "ground-glass")]
        assert weights[0] == 1.0
        shares = [float(row[f"training_share.{n}"]) for n in ("ground-glass", "consolidation")]
        assert sum(shares) == pytest.approx(1)
        assert weights[1] == pytest.approx(min(10, 1 / (2 * shares[0])))
        assert float(row["weight_sum"]) == pytest.approx(
            sum(float(v) for k, v in row.items() if k.startswith("weight."))
        )
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4  # curves, test, two rounds' labels
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []  # it needs no other file


def test_the_pseudo_labels_of_a_round(undisturbed):
    workdir, _, _ = undisturbed
    first, second = (PseudoLabels(workdir / f"round_0{k}" / "pseudo") for k in (1, 2))
    assert (len(first), len(second)) == (4, 8)
    assert [item.index for item in second][:4] == [item.index for item in first]
    manifest = read_manifest(workdir / "round_02" / "pseudo")
    assert (manifest["added"], manifest["relabelled"], manifest["round"]) == (4, 4, 2)
    assert manifest["thresholds"] == {"background": 0.4, "ground-glass": 0.4, "consolidation": 0.4}
    every = np.concatenate([item.mask.ravel() for item in second])
    for index, name in enumerate(("ground-glass", "consolidation"), start=1):
        assert manifest["share"][name] == pytest.approx(np.mean(every == index))
    both = [(old.mask, new.mask) for old, new in zip(first, second, strict=False)]
    same = [np.sum((old == 1) & (new == 1)) for old, new in both]
    size = [np.sum(old == 1) + np.sum(new == 1) for old, new in both]
    agreed = manifest["agreement"]["ground-glass"]
    assert agreed == (pytest.approx(2 * sum(same) / sum(size)) if sum(size) else None)
    sums = sum(item.confidence for item in second)
    assert sums[:, 1].sum() == every.size  # each pixel has one most probable class
    mean = manifest["confidence"]["ground-glass"]
    assert mean == (pytest.approx(sums[1, 0] / sums[1, 1]) if sums[1, 1] else None)
    with (workdir / "rounds.csv").open() as file:
        row = list(csv.DictReader(file))[2]
    assert row["confidence.ground-glass"] == ("" if mean is None else repr(mean))
    assert not (workdir / f"round_0{ROUNDS}" / "pseudo").exists()


def test_a_round_is_a_workdir_like_any_other(undisturbed):
    workdir, _, _ = undisturbed
    parts = [load_split(workdir / f"round_0{k}" / "splits.json") for k in (1, 2, 3)]
    assert parts[0] == parts[1] == parts[2] == load_split(workdir / "splits.json")
    manifest = read_manifest(workdir / "round_01" / "pseudo")
    folder = workdir / "round_01" / "checkpoints" / "last" / str(manifest["step"]) / "state"
    state = ocp.StandardCheckpointer().restore(folder)
    assert weights_sha256(state["average"]) == manifest["weights_sha256"]


def results(workdir: Path) -> dict[str, str]:
    """Every result of a run, without the times and TensorBoard's stamps."""
    found = hashes(workdir / "test" / "pictures") | {
        name: (workdir / name).read_text()
        for name in ("rounds.csv", "summary.json", "test/cases.csv", "test/metrics.json")
    }
    found = {name: text.replace(str(workdir), "W") for name, text in found.items()}
    # Its hash is of the workdir's name too.
    found["test/metrics.json"] = re.sub(rf'"{HASH}": "\w+"', "", found["test/metrics.json"])
    for folder in sorted(workdir.glob("round_*")):
        for name in ("round.json", "metrics.csv", "splits.json"):
            found[f"{folder.name}/{name}"] = (folder / name).read_text()
        if (folder / "pseudo").exists():
            found |= {f"{folder.name}/{k}": v for k, v in hashes(folder / "pseudo").items()}
        kept = (folder / "checkpoints" / "last").iterdir()  # one killed keeps the one before too
        last = max(kept, key=lambda path: int(path.name))
        state = ocp.StandardCheckpointer().restore(last / "state")
        found[f"{folder.name}/{last.name}"] = weights_sha256(state)
        assert len(jax.tree.leaves(state)) > 300
    return found


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_killed_at_random_moments_it_ends_with_the_same_bits(source, cache, undisturbed, tmp_path):
    """Moments drawn over start-up and work of what is left; every second kill cannot be caught."""
    whole, _, seconds = undisturbed
    rng = np.random.default_rng(KILLS)
    statuses = []
    for number in range(KILLS):
        process = start(source, tmp_path, cache)
        # The undisturbed run compiled everything; these find it in the cache and take half as long.
        time.sleep(5 + rng.uniform(0, max(seconds, 20) / 2 / (number + 1)))
        process.send_signal((signal.SIGKILL, signal.SIGTERM)[number % 2])
        process.communicate(timeout=600)
        statuses.append(process.returncode)
    process = start(source, tmp_path, cache)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert any(statuses)  # something was cut short
    ours, theirs = results(tmp_path), results(whole)
    assert sorted(ours) == sorted(theirs)
    for name in theirs:
        assert ours[name] == theirs[name], name
    assert not list(tmp_path.glob("**/*.unfinished"))


def refused(capsys, given: list[str], text: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.run(self_train.main, given)
    assert stopped.value.code == cli.USER_ERROR
    *others, error = capsys.readouterr().err.splitlines()
    assert all(line.endswith(": building the records") for line in others)
    assert error.startswith("error: ") and text in error


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"self_train.eta": 1.0}, "self_train.eta is 1.0"),
        ({"self_train.low_confidence": "no"}, "self_train.low_confidence is 'no'"),
        ({"self_train.unlabelled_slices": 11}, "unlabelled_slices is 11; expected 0 (all) to 10"),
        ({"self_train.patience": 0}, "self_train.patience is 0"),
    ],
)
def test_bad_fields(capsys, source, tmp_path, fields, text):
    refused(capsys, arguments(source, tmp_path / "work", **fields), text)


def test_a_labelled_set_without_a_class_is_refused(capsys, source, tmp_path):
    refused(
        capsys,
        arguments(lacking(source, tmp_path / "lacking"), tmp_path / "work"),
        "no labelled training slice shows consolidation",
    )


def lacking(source: Path, folder: Path) -> Path:
    """A copy of the source whose labels hold no consolidation."""
    for path in source.rglob("*.png"):
        array = np.asarray(Image.open(path))
        masked = path.parent.name == "GT"
        save(folder / path.relative_to(source), np.where(array == 2, 1, array) if masked else array)
    return folder


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_patient_held_out_who_is_also_unlabelled_is_refused(monkeypatch, split):
    config = importlib.import_module("configs.self_train_phantom").get_config()
    settings = Settings.from_config(config)
    mask = np.array([[0, 1], [2, 0]], np.uint8)

    def of(*patients):
        return [Slice(mask, mask, None, name, name, None) for name in patients]

    held = {"validation": of("b", "v"), "test": of("t")}
    monkeypatch.setattr(data, "split_names", lambda _: ["train", "test", "unlabelled"])
    monkeypatch.setattr(data, "open_split", lambda _, name: held[name])
    pools.check_pools(settings, pools.Pools(of("a"), held["validation"], of("u")))
    unlabelled = of("u", held[split][-1].patient)
    with pytest.raises(ValueError, match=f"1 patients of {split} are among the unlabelled too"):
        pools.check_pools(settings, pools.Pools(of("a"), held["validation"], unlabelled))


def test_warnings_name_the_slices():
    facts = {"slices": 10, "share": {"ground-glass": 0.1, "consolidation": 0.0}}
    told = facts | {"nearly_empty": list("abcd"), "nearly_full": ["e"]}
    found = warnings_of(told, Trust(eta=0.95))
    assert "consolidation has vanished" in found[0]
    assert "lower self_train.eta" in found[0]
    assert found[1].startswith("4 of 10 pseudo-labels are nearly empty")
    assert found[1].endswith(": a, b, c, ...")
    assert found[2].startswith("1 of 10 pseudo-labels are nearly full")
    assert found[2].endswith(": e")
    for trust in (Trust(eta=0.0), Trust(adaptive_share=0.2)):
        (warning,) = warnings_of(facts | {"nearly_empty": [], "nearly_full": []}, trust)
        assert "the network itself does not find it" in warning
