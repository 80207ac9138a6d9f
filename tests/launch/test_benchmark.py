"""The benchmark's clocks, counts and files, and its PyTorch twin against the golden numbers."""

import importlib
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from launch import cli
from launch.benchmark import __main__ as benchmark
from launch.benchmark import results, spatial_conv, timing
from ssa_jax.ops import tuning
from tests.support import golden_numbers as golden

pytestmark = pytest.mark.slow


def test_in_turns_alternates_after_the_warm_up():
    calls = []
    runs = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    seconds = timing.in_turns(runs, 3, warm_up=1)
    assert calls == ["a", "b", "a", "b", "a", "b", "a", "b"]
    assert [taken.shape for taken in seconds.values()] == [(3,), (3,)]


def two_runs():
    return {"a": lambda: None, "b": lambda: None}


def test_clocks_of_another_process():
    with timing.in_processes({"two": two_runs}) as clocks:
        seconds = timing.read_in_turns(clocks, 3, warm_up=1)
    assert [(name, taken.shape) for name, taken in seconds.items()] == [("a", (3,)), ("b", (3,))]
    assert all((taken > 0).all() for taken in seconds.values())


def failing():
    raise ValueError("no such run")


def test_a_process_that_ends_is_an_error(capfd):
    with (
        pytest.raises(RuntimeError, match="bad: its process ended, see above"),
        timing.in_processes({"good": two_runs, "bad": failing}),
    ):
        pass
    assert "no such run" in capfd.readouterr().err


def test_spread_and_best():
    assert timing.spread(np.array([4.0, 1.0, 2.0])) == "2 [1, 4]"
    slow, fast = np.array([1.0, 5.0, 5.0]), np.array([2.0, 2.0, 9.0])
    assert timing.best_of({"slow": slow, "fast": fast}) == "fast"


def test_a_spread_is_read_as_it_was_written():
    assert timing.read_spread(timing.spread(np.array([1234.0, 1.5, 2.0]))) == (2.0, 1.5, 1230.0)


def test_least_time_of_the_spatial_convolution():
    case = spatial_conv.Case((5, 3, 3), 4, 3, "float32", spatial_conv.FORWARD)
    # Taps inside rows of 3: 2 + 3 + 2; two slices change in each of four passes.
    operations = 2 * 5 * 4**2 * (4 * 2 * 7)
    read = 4 * (4 * 3 * 4**2) + 4 * (2 * 5 * 9 * 4)
    assert spatial_conv.work(case) == (operations, read)
    about = {"matmul_gflops_float32": 1.0, "copy_gb_per_s": 1e9}
    assert spatial_conv.least_seconds(case, about) == pytest.approx(operations / 1e9)
    about = {"matmul_gflops_float32": 1e9, "copy_gb_per_s": 1.0}
    both = case._replace(direction=spatial_conv.BOTH)
    assert spatial_conv.least_seconds(both, about) == pytest.approx(3 * read / 1e9)


def test_markdown_keeps_the_columns_of_all_rows():
    text = results.markdown([{"a": 1, "b": 0.12345}, {"a": None, "c": "x"}])
    assert text.splitlines() == [
        "| a | b | c |",
        "| --- | --- | --- |",
        "| 1 | 0.123 |  |",
        "|  |  | x |",
    ]


def without_torch():
    return False


@pytest.mark.long
def test_spatial_conv_writes_its_tables_and_plot(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(spatial_conv, "COMPILE_CHANNELS", 2)
    monkeypatch.setattr(spatial_conv, "torch_installed", without_torch)
    small = replace(tuning.BY_BACKEND["cpu"], matmul_side=32)
    monkeypatch.setitem(tuning.BY_BACKEND, "cpu", small)
    monkeypatch.setattr(timing, "COPY_BYTES", 1024)
    shape = ["--shapes", "1x3x4", "--channels", "4", "--kernels", "3", "--unrolls", "1", "2"]
    shape += ["--compile-rows", "6", "8"]
    benchmark.main(["spatial_conv", *shape, "--repeats", "2", "--out", str(tmp_path)])
    saved = json.loads((tmp_path / "spatial_conv.json").read_text())
    forms = [
        "filtered",
        "filtered (unroll=2)",
        "custom_vjp",
        "custom_vjp (unroll=2)",
        "scan",
        "scan (unroll=2)",
        "unrolled",
    ]
    found = [(row["direction"], row["form"]) for row in saved["Speed"]]
    assert found == list(itertools.product(["forward", "forward+backward"], forms))
    compiled = {(row["form"], row["rows"]): row for row in saved["Compile time over rows"]}
    instructions = {key: row["HLO instructions"] for key, row in compiled.items()}
    assert instructions["scan", 6] == instructions["scan", 8]
    assert instructions["unrolled", 6] < instructions["unrolled", 8]
    assert (tmp_path / "spatial_conv.png").stat().st_size > 0
    assert "| 1x3x4 | 4 | 3 | float32 | forward | scan |" in capsys.readouterr().out
    assert "**Compile time over rows**" in (tmp_path / "spatial_conv.md").read_text()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["spatial_conv", "--shapes", "4x4"], "expected BxHxW"),
        (["train_step", "--repeats", "0"], "expected a whole number, 1 or more"),
        (["pseudo_labels"], "the following arguments are required: --workdir"),
        (["speed"], "invalid choice: 'speed'"),
    ],
)
def test_bad_options(capsys, given, text):
    with pytest.raises(SystemExit) as stopped:
        cli.run(benchmark.main, given)
    assert stopped.value.code == cli.USER_ERROR
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_torch_twin_equals_the_published_numbers(mode):
    torch = pytest.importorskip("torch", reason="the twin needs PyTorch")
    torch_twin = importlib.import_module("launch.benchmark.torch_twin")
    theirs = golden.network()
    twin = torch_twin.TorchSSANet().train(mode == "train")
    twin.load_state_dict({name: torch.tensor(x) for name, x in golden.state_dict().items()})
    logits, energies = twin(torch.tensor(theirs["x_nchw"]))
    prob = torch.sigmoid(logits).detach().numpy()
    assert golden.relative_error(prob, theirs[f"{mode}_prob"]) < 1e-5
    attention_loss = torch_twin.attention_terms(energies).sum().item()
    np.testing.assert_allclose(attention_loss, theirs[f"{mode}_distill"], rtol=1e-4)
