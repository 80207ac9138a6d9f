"""The spatial convolution's programs for TPUs, and the plot of several backends."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest
from PIL import Image

from launch import cli
from launch.benchmark import __main__ as benchmark
from launch.benchmark import plot, report, results, spatial_conv, spatial_conv_compiled
from ssa_jax.experiment import chips
from ssa_jax.experiment.chips import Chip
from tests.support import ROOT

SMALL = (
    "spatial_conv", "--topology", "v5e:2x2", "--shapes", "1x8x8", "--channels", "16",
    "--kernels", "3", "--directions", "forward", "--unrolls", "1",
)  # fmt: skip
CPU = {"device": "cpu", "processor": "Two Cores"}


def row(rows, form="scan", **changes):
    case = {"B x H x W": f"1x{rows}x{rows}", "C": 64, "k": 9, "dtype": "float32"}
    return case | {"direction": "forward", "form": form, "HLO instructions": 100} | changes


@pytest.fixture
def files(tmp_path):
    """Results of a CPU with two widths of maps, and of programs for two TPUs."""
    measured = results.Results(tmp_path / "cpu", "spatial_conv", lambda: CPU)
    rows = [row(8, ms="2 [1, 4]"), row(4, ms="0.5 [0.4, 0.6]"), row(4, "unrolled", ms="3 [3, 3]")]
    measured.add("Speed", [*rows, row(4, C=128, ms="9 [9, 9]")])
    compiled = results.Results(tmp_path / "tpu", "spatial_conv_compiled", lambda: CPU)
    for topology in ("v5e:2x2", "v6e:2x2"):
        programs = [row(4, dtype="bfloat16"), row(8, dtype="bfloat16", **{"HLO instructions": 70})]
        compiled.add(spatial_conv_compiled.COMPILED, [{"topology": topology} | x for x in programs])
    return tmp_path / "cpu/spatial_conv.json", tmp_path / "tpu/spatial_conv_compiled.json"


def test_backends_of_files_are_drawn_side_by_side(files, tmp_path):
    out = tmp_path / "figure.png"
    names = [str(path) for path in files]
    benchmark.main(["plot", *names, "--where", "C=64", "--out", str(out)])
    with Image.open(out) as two_measures:
        width = two_measures.width
    benchmark.main(["plot", *names, "--where", "C=64", "--measures", "ms", "--out", str(out)])
    with Image.open(out) as one_measure:
        assert one_measure.width == pytest.approx(width / 2, abs=1)
        assert one_measure.height > 2 * one_measure.width  # three backends


def test_what_a_panel_shows(files):
    (cpu,) = plot._chosen(files[0], {"C": "64"})
    assert cpu.label == "Two Cores"
    assert plot.curves(cpu, "ms", "rows") == {
        "scan": [(4, 0.5, 0.4, 0.6), (8, 2.0, 1.0, 4.0)],
        "unrolled": [(4, 3.0, 3.0, 3.0)],
    }
    v5e, v6e = plot._chosen(files[1], {})
    assert [v5e.label, v6e.label] == ["v5e:2x2, compiled only", "v6e:2x2, compiled only"]
    assert plot.curves(v5e, "HLO instructions", "rows") == {"scan": [(4, 100), (8, 70)]}
    assert plot.curves(v5e, "ms", "rows") == {}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "Two Cores: C is 64, 128; choose one, such as --where C=64"),
        (["--over", "C"], "Two Cores: rows is 8, 4; choose one, such as --where rows=8"),
        (["--where", "C=32"], "nothing fulfils --where; it has rows 8, 4; batch 1; C 64, 128; k 9"),
        (["--where", "C=64", "--measures", "traffic MB"], "no file has any of --measures traffic"),
        (["--where", "form=scan"], "'form=scan'; expected FIELD=VALUE with FIELD one of rows,"),
    ],
)
def test_cases_that_the_plot_cannot_tell_apart(files, tmp_path, capsys, given, text):
    with pytest.raises(SystemExit) as stopped:
        arguments = ["plot", str(files[0]), "--out", str(tmp_path / "figure.png"), *given]
        cli.run(benchmark.main, arguments)
    assert stopped.value.code == cli.USER_ERROR
    assert text in capsys.readouterr().err
    assert not (tmp_path / "figure.png").exists()


def test_results_of_another_measurement_are_refused(tmp_path):
    results.Results(tmp_path, "ceilings", lambda: CPU)
    path = tmp_path / "ceilings.json"
    with pytest.raises(ValueError, match=r"ceilings.json: no square maps"):
        benchmark.main(["plot", str(path), "--out", str(tmp_path / "figure.png")])


def test_programs_are_described_case_by_case(tmp_path, monkeypatch):
    """The CPU stands in for the chip: what is counted does not depend on it."""
    chip = jax.devices()[0]
    monkeypatch.setattr(spatial_conv_compiled, "devices_of", lambda topology: [chip])
    monkeypatch.setattr(spatial_conv_compiled, "compile_anew", lambda: None)
    monkeypatch.setitem(chips.CHIPS, chip.device_kind, Chip(16, 1, 1))
    monkeypatch.setitem(chips.PEAKS, chip.device_kind, 1)
    arguments = [*SMALL, "--forms", "scan", "unrolled", "--out", str(tmp_path)]
    benchmark.main(arguments)
    written = (tmp_path / "spatial_conv_compiled.json").read_bytes()
    scan, unrolled = json.loads(written)[spatial_conv_compiled.COMPILED]
    case = spatial_conv.Case((1, 8, 8), 16, 3, "float32", spatial_conv.FORWARD)
    operations, traffic = spatial_conv.work(case)
    for found in (scan, unrolled):
        assert found["topology"] == "v5e:2x2" and found["k"] == 3
        assert found["GFLOP"] == pytest.approx(operations / 1e9)
        assert found["arithmetic ms"] == pytest.approx(operations / 1e9)  # at 10^12 a second
        assert found["traffic MB"] >= traffic / 1e6
        assert found["memory ms"] == pytest.approx(found["traffic MB"])  # at 1 GB a second
    assert unrolled["HLO instructions"] > scan["HLO instructions"]
    benchmark.main([*arguments, "--resume"])
    assert (tmp_path / "spatial_conv_compiled.json").read_bytes() == written
    assert "compiled for chips that were not at hand" in report.sections([tmp_path])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu (extra 'tpu')")
def test_every_implementation_compiles_for_a_tpu(tmp_path):
    """In a process of its own, as libtpu reads its environment when JAX starts."""
    command = [sys.executable, "-m", "launch.benchmark", *SMALL, "--out", str(tmp_path)]
    command += ["--forms", "scan", "custom_vjp", "unrolled", "pallas", "--dtypes", "bfloat16"]
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "spatial_conv_compiled.json").read_text())[
        spatial_conv_compiled.COMPILED
    ]
    assert [found["form"] for found in rows] == ["scan", "custom_vjp", "unrolled", "pallas"]
    assert all(found["code MB"] > 0 and found["traffic MB"] > 0 for found in rows)
