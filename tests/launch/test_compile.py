import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from launch import compile as command
from ssa_jax.experiment import ahead_of_time
from ssa_jax.experiment.ahead_of_time import CHIPS, Report, layer_of, network_seconds
from ssa_jax.experiment.hlo import Collective

TINY = (
    "--config", "ct_phantom", "--config.data.image_size=32", "--config.model.stage_sizes=1,1,1,1",
    "--config.model.dtype=bfloat16", "--batch", "2",
)  # fmt: skip


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


@pytest.mark.parametrize(
    ("scope", "layer"),
    [
        ("jit(step)/shard_map/jvp(SSANet)/encoder/stem_norm/psum", "stem"),
        ("jit(step)/transpose(jvp(SSANet))/encoder/stage3_block1/conv2/mul", "stage3 backward"),
        ("jit(step)/transpose(jvp(SSANet))/encoder/select_and_scatter", "stem backward"),
        ("jit(step)/jvp(SSANet)/spatial_conv/while/body/dot_general", "spatial_conv"),
        ("jit(step)/jvp(SSANet)/decoder/decoder._head/head_conv2/conv", "head"),
        ("jit(step)/jvp(SSANet)/decoder/layer2/conv1/dot", "decoder layer2"),
        ("jit(step)/jvp(SSANet)/integer_pow", "attention"),
        ("jit(step)/mul", "outside the network"),
        ("", "outside the network"),
    ],
)
def test_layer_of_a_scope(scope, layer):
    assert layer_of(scope) == layer


def test_without_libtpu_the_package_is_named(monkeypatch):
    monkeypatch.setattr(ahead_of_time.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'ssa_jax\[tpu\]'"):
        command.main([*TINY, "--topology", "v5e:2x2"])


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


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_small_network_compiles_for_a_tpu_and_is_not_compiled_again(tmp_path):
    out = tmp_path / "v5e.json"
    arguments = [sys.executable, "-m", "launch.compile", *TINY, "--topology", "v5e:2x2"]
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
    assert row["chips"] == 4 and row["kind"] == "TPU v5 lite"
    # Parameters, moments and moving average in float32 are read and written at least once.
    assert row["traffic_gb"] > row["state_gb"] * 0.9 > 0.1
    assert row["layers"]["outside the network"] > 0.5 * row["traffic_gb"] * 1e9
    number, size = row["collectives"]["all-reduce"]
    assert number > 20 and size > 0.03 * row["state_gb"] * 1e9  # statistics, and the gradients
