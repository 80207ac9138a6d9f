import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest

from launch import cli, configuration
from launch import compile as command
from ssa_jax.experiment import ahead_of_time, chips
from ssa_jax.experiment.ahead_of_time import Report
from ssa_jax.experiment.chips import CHIPS, network_seconds, shape_of
from ssa_jax.experiment.hlo import Collective

TINY = (
    "--config", "ct_phantom", "--config.data.image_size=32", "--config.model.stage_sizes=1,1,1,1",
    "--config.model.dtype=bfloat16", "--batch", "2",
)  # fmt: skip


def cuda_compiler():
    """Whether one of JAX's plugins for CUDA is installed."""
    names = (f"jax_plugins.xla_cuda{version}" for version in (12, 13))
    has_plugins = importlib.util.find_spec("jax_plugins") is not None
    return has_plugins and any(importlib.util.find_spec(name) for name in names)


REPORT = Report(
    sha256="0", topology="v5e:4x4", program="step", size=256, batch=8, dtype="bfloat16", chips=16,
    kind="TPU v5 lite", state_gb=1.0, memory_gb=2.0, teraflops=0.197, traffic_gb=8.19,
    arithmetic_ms=1.0, memory_ms=10.0, network_ms=2.0,
)  # fmt: skip


def report(**changes):
    return dataclasses.replace(REPORT, **changes)


def test_the_slower_of_arithmetic_and_memory_decides_and_the_network_is_added():
    assert report().predicted_ms == 12.0
    assert report(arithmetic_ms=20.0).predicted_ms == 22.0
    assert report().images_per_second == pytest.approx(8 * 16 / 0.012)


def test_batch_from_which_arithmetic_takes_longer():
    # The state takes 10 ms x 4 / 8 = 5 ms, a slice 5 / 8 = 0.625 ms of memory and 1 ms of
    # arithmetic: 5 + 0.625 B = B at B = 13.33.
    found = report(arithmetic_ms=8.0, memory_ms=10.0, traffic_gb=8.0, state_gb=4.0)
    assert found.balanced_batch == pytest.approx(40 / 3)
    assert report(arithmetic_ms=1.0).balanced_batch is None


def test_network_time_is_bytes_twice_one_way_and_hops():
    chip = CHIPS["TPU v5 lite"]  # 200 GB a second each way
    sent = [Collective("all-reduce", 100_000_000, 0, ""), Collective("all-reduce", 0, 0, "")]
    assert network_seconds(sent, (4, 4), chip) == pytest.approx(2 * 1e8 / 2e11 + 2 * 8e-6)
    assert network_seconds(sent, (1, 1), chip) == 0.0
    grouped = [Collective("all-reduce", 0, 16, "")]  # as a torus of 4x4
    assert network_seconds(grouped, (16, 16), chip) == pytest.approx(8e-6)


def test_programs_for_two_kinds_of_chip_are_told_apart(monkeypatch):
    # Before its compilation the program is the same.
    monkeypatch.setattr(ahead_of_time, "devices_of", lambda topology: jax.devices("cpu")[:1])
    _, settings = configuration.parse_with_settings(cli.make_parser("compile", ""), TINY[:-2])
    first, second = (
        ahead_of_time.trace_for(settings, topology, "prediction", 1)
        for topology in ("a100", "h100")
    )
    assert first.lowered.as_text() == second.lowered.as_text()
    assert first.report.sha256 != second.report.sha256


def test_axes_of_a_topology():
    assert shape_of("v5p:2x2x1") == (2, 2, 1)
    assert shape_of("h100:8") == (8,)
    assert shape_of("h100") == (1,)


def test_without_libtpu_the_package_is_named(monkeypatch):
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'jax\[tpu\]'"):
        command.main([*TINY, "--topology", "v5e:2x2"])
    with pytest.raises(ValueError, match="b200: there is none such; expected v5e:4x4, v6e:2x2"):
        command.main([*TINY, "--topology", "b200"])


def test_without_the_cuda_compiler_its_package_is_named(monkeypatch):
    def missing(**described):
        raise NotImplementedError

    monkeypatch.setattr(chips.topologies, "get_topology_desc", missing)
    with pytest.raises(ValueError, match=r"pip install 'jax\[cuda13\]'"):
        command.main([*TINY, "--topology", "h100"])


def test_traffic_is_listed_beside_the_least_possible():
    found = report(
        layers={"head": 3_000_000, "attention": 1_000_000}, least={"head": 2_000_000, "stem": 500}
    )
    rows = [line.split() for line in command.remarks(found, layers=True)[1:]]
    assert rows == [
        ["layer", "MB", "least", "MB"],
        ["head", "3", "2"],
        ["attention", "1", "0"],
        ["stem", "0", "0"],
    ]
    assert command.cells(found)[8] == "0.00" and found.least_gb == 0.0020005


def test_a_file_that_cannot_be_written_is_refused_first(tmp_path, capsys):
    for path in (tmp_path / "x.txt", tmp_path / "none" / "x.json"):
        with pytest.raises(SystemExit):
            command.main([*TINY, "--topology", "v5e:2x2", "--out", str(path)])
        assert f"--out {path}: expected a .json file" in capsys.readouterr().err


def test_what_does_not_fit_is_said():
    found = report(memory_gb=None, doubt="Used 20.1G of 15.75G hbm.")
    assert command.cells(found)[5] == "too much"
    assert command.remarks(found, layers=True) == [
        "v5e:4x4, step, 256 px, 8 slices a chip: does not fit. Used 20.1G of 15.75G hbm."
    ]


def compiled(topology, out):
    """Run the command twice; returns what was written and the first run's error output."""
    arguments = [sys.executable, "-m", "launch.compile", *TINY, "--topology", topology]
    arguments += ["--programs", "step", "--layers", "--out", str(out)]
    environment = {**os.environ, "XLA_FLAGS": ""}

    def run():
        return subprocess.run(
            arguments, capture_output=True, text=True, check=True, env=environment
        )

    first, second = run(), run()
    assert "compiling the step" in first.stderr and "compiling" not in second.stderr
    assert first.stdout == second.stdout
    (row,) = [row for row in json.loads(out.read_text()).values() if isinstance(row, dict)]
    # Parameters, moments and moving average in float32 are read and written at least once.
    assert row["traffic_gb"] > row["state_gb"] * 0.9 > 0.1
    assert row["layers"]["outside the network"] > 0.5 * row["traffic_gb"] * 1e9
    return row


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_small_network_compiles_for_a_tpu_and_is_not_compiled_again(tmp_path):
    row = compiled("v5e:2x2", tmp_path / "v5e.json")
    assert row["chips"] == 4 and row["kind"] == "TPU v5 lite"
    number, size = row["collectives"]["all-reduce"]
    assert number > 20 and size > 0.03 * row["state_gb"] * 1e9  # statistics, and the gradients


@pytest.mark.slow
@pytest.mark.skipif(not cuda_compiler(), reason="the CUDA compiler is not installed")
def test_a_small_network_compiles_for_a_gpu_and_is_not_compiled_again(tmp_path):
    row = compiled("h100", tmp_path / "h100.json")
    assert row["chips"] == 1 and row["kind"] == "NVIDIA H100 80GB HBM3"
    assert not row["collectives"] and row["network_ms"] == 0.0
    least = sum(row["least"].values()) / 1e9
    assert row["state_gb"] < least < row["traffic_gb"] < 3 * least
