"""A run of all measurements with made-up stages: order, time, going on; and the report."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from input_pipeline.verified import read_signed
from launch import cli
from launch.benchmark import __main__ as benchmark
from launch.benchmark import compiling, everything, golden, report, results, stages, timing, to_dsc
from ssa_jax.training.metric_log import MetricWriter

ABOUT = {
    "processor": "Two Cores",
    "cores": 2,
    "device": "cpu",
    "python": "3.11.1",
    "jax": "0.10.2",
    "torch": "2.13.0",
}


def task(name, code, seconds=5, environment=None):
    """A stage that appends its name to the file `order` beside its folder, and then runs code."""
    noting = f"with open('order', 'a') as file:\n    file.write('{name} ')\n{code}"
    command = [sys.executable, "-S", "-c", noting]
    return everything.Task(name, f"about {name}", name, command, seconds, environment or {})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(everything, "SECONDS_TO_END", 0.5)
    return tmp_path / "results"


def run(todo, folder, seconds=30.0, about=None):
    everything.run(todo, folder, about or ABOUT, time.monotonic() + seconds)
    return {name: stage["state"] for name, stage in record(folder).items()}


def record(folder):
    return read_signed(folder / "all.json", "")["stages"]


def order(folder):
    return (folder.parent / "order").read_text().split()


def test_stages_run_in_order_and_a_failing_one_costs_itself_alone(folder, capsys):
    failing = "print('starts')\nraise SystemExit('error: no such device')"
    todo = [
        task("first", "print('hello')"),
        task("broken", failing),
        task("doubtful", f"print('error: 1 of 2 failed')\nraise SystemExit({cli.SOME_FAILED})"),
        task("killed", "import os\nos.kill(os.getpid(), 9)"),
        task("last", ""),
    ]
    states = run(todo, folder)
    assert order(folder) == ["first", "broken", "doubtful", "killed", "last"]
    assert states == {
        "first": "done",
        "broken": "failed",
        "doubtful": "done, with faults",
        "killed": "failed",
        "last": "done",
    }
    notes = {name: stage["note"] for name, stage in record(folder).items()}
    assert notes["broken"] == "error: no such device"
    assert notes["doubtful"] == "error: 1 of 2 failed"
    assert notes["killed"] == "exit status -9, without a word"
    assert (folder / "first/log.txt").read_text() == "hello\n"
    plan, _, printed = capsys.readouterr().out.partition("\n\n")
    assert "first     5        about first" in plan
    assert "  failed after 0 s: error: no such device" in printed


SLEEPS = """
import pathlib, subprocess, sys
sleeper = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
pathlib.Path("sleeper").write_text(str(sleeper.pid))
sleeper.wait()
"""


def runs(process):
    """Whether a process is there and no zombie."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc"), reason="looks at the processes there")
def test_a_stage_is_cut_with_what_it_started(folder):
    start = time.monotonic()
    states = run([task("long", SLEEPS, seconds=1), task("short", "")], folder)
    assert time.monotonic() - start < 10
    assert states == {"long": "cut short", "short": "done"}
    found = record(folder)["long"]
    assert found["note"] == "its 2 s were over; rows until then are kept"  # 1.5, rounded
    assert 1.5 <= found["seconds"] < 4
    assert not runs((folder.parent / "sleeper").read_text())


def test_the_end_of_the_run_cuts_a_stage_and_leaves_others_out(folder, capsys):
    todo = [
        task("slow", "import time\ntime.sleep(60)", seconds=2),
        task("small", "", seconds=1.0),
    ]
    start = time.monotonic()
    assert run(todo, folder, seconds=2.0) == {"slow": "cut short", "small": "left out"}
    assert time.monotonic() - start < 5
    assert order(folder) == ["slow"]
    assert record(folder)["small"]["note"] == "takes about 1 s, and 0 were left"
    assert "small  0  left out: takes about 1 s, and 0 were left" in capsys.readouterr().out


def test_what_does_not_fit_gives_way_to_what_does(folder):
    todo = [task("hour", "", seconds=3600), task("minute", "", seconds=1)]
    assert run(todo, folder) == {"hour": "left out", "minute": "done"}
    assert order(folder) == ["minute"]


def test_a_second_run_does_what_is_missing(folder):
    # Cut in the first run; in the second it finds what it had written, and ends.
    going_on = """
import pathlib, time
kept = pathlib.Path("results/going_on/rows")
if not kept.exists():
    kept.write_text("1")
    time.sleep(60)
"""
    todo = [
        task("done", ""),
        task("doubtful", f"raise SystemExit({cli.SOME_FAILED})"),
        task("going_on", going_on, seconds=1),
        task("failed", "raise SystemExit(1)"),
    ]
    states = run(todo, folder)
    assert states["going_on"] == "cut short"
    assert run(todo, folder) == states | {"going_on": "done"}
    assert order(folder)[4:] == ["going_on", "failed"]
    assert (folder / "going_on/rows").exists()


def test_another_machine_or_code_or_argument_is_measured_anew(folder):
    todo = [task("one", ""), task("other", "")]
    run(todo, folder)
    (folder / "one/rows").write_text("of the first run")
    changed = todo[1]._replace(what="other --sizes 512")
    run([todo[0], changed], folder)
    assert order(folder) == ["one", "other", "other"]
    assert (folder / "one/rows").exists()
    run([todo[0], changed], folder, about=ABOUT | {"code": "another"})
    assert order(folder)[3:] == ["one", "other"]
    assert not (folder / "one/rows").exists()
    run([todo[0]._replace(environment={"A": "1"})], folder, about=ABOUT | {"code": "another"})
    assert order(folder)[5:] == ["one"]


def test_rows_of_other_arguments_are_not_gone_on_with(folder):
    run([task("one", "")], folder)
    (folder / "one/rows").write_text("of other arguments")
    changed = task("one", "", seconds=3600)._replace(what="one --sizes 512")
    assert run([changed], folder) == {"one": "left out"}
    assert run([changed._replace(seconds=1)], folder) == {"one": "done"}
    assert not (folder / "one/rows").exists()


def test_each_machine_and_code_has_its_folder():
    name = everything.folder_name(ABOUT | {"device": "NVIDIA H100 80GB HBM3", "code": "a"})
    assert name[:-6] == "nvidia-h100-80gb-hbm3-"
    other = everything.folder_name(ABOUT | {"device": "NVIDIA H100 80GB HBM3", "code": "b"})
    assert other[:-6] == name[:-6] and other != name
    assert everything.folder_name(ABOUT)[:-6] == "two-cores-"


def test_an_interrupted_run_goes_on(folder, monkeypatch):
    todo = [task("one", ""), task("two", "import time\ntime.sleep(60)", seconds=40)]
    monkeypatch.setattr(
        everything, "_last_line", lambda log: pytest.fail("the interrupted stage is no failed one")
    )
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(todo, folder)
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert record(folder)["two"]["state"] == "cut short"
    assert record(folder)["two"]["note"] == "the run was ended meanwhile"
    assert run([todo[0], task("two", "")], folder) == {"one": "done", "two": "done"}


def test_a_stage_that_was_cut_gets_twice_the_time(folder):
    todo = [task("long", "import time\ntime.sleep(60)", seconds=0.4)]
    for least in (0.6, 1.2):
        run(todo, folder)
        assert least <= record(folder)["long"]["seconds"] < least + 0.6


def test_the_variables_of_a_stage(folder, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--one")
    shown = "import os\nprint(os.environ['XLA_FLAGS'], os.environ['CACHE'])"
    run([task("flags", shown, environment={"XLA_FLAGS": "--two", "CACHE": "no"})], folder)
    assert (folder / "flags/log.txt").read_text() == "--one --two no\n"
    run([task("plain", "import os\nprint(os.environ['XLA_FLAGS'])")], folder)
    assert (folder / "plain/log.txt").read_text() == "--one\n"


@pytest.mark.parametrize("kind", [stages.ACCELERATOR, stages.CPU, stages.QUICK])
def test_the_commands_of_the_stages_are_read(kind, tmp_path, monkeypatch):
    """Each stage's command line is one that `ssa-jax benchmark` takes."""
    called = []
    for module in ("spatial_conv", "network", "compile_time", "golden", "input_rate", "to_dsc"):
        monkeypatch.setattr(
            getattr(benchmark, module), "measure", lambda *a, m=module, **k: called.append(m)
        )
    monkeypatch.setattr(timing, "machine", lambda repeats: called.append("ceilings") or ABOUT)
    found = everything.tasks(stages.STAGES, kind, tmp_path)
    assert len({stage.name for stage in found}) == len(found) >= 8
    for stage in found:
        assert stage.command[:3] == [sys.executable, "-m", "launch.benchmark"]
        benchmark.main(list(stage.command[3:]))
    assert len(called) == len(found)
    assert called[0] == "ceilings"


def test_rows_are_kept_and_found_again(tmp_path, capsys):
    kept = results.Results(tmp_path, "train_step", lambda: ABOUT)
    kept.add("Speed", [{"px": 256, "what": "ssa_jax", "images/s": "3 [2, 4]"}])
    assert "| 256 | ssa_jax | 3 [2, 4] |" in capsys.readouterr().out
    assert "| 256 | ssa_jax | 3 [2, 4] |" in (tmp_path / "train_step.md").read_text()
    there = results.Results(tmp_path, "train_step", lambda: pytest.fail("known"), resume=True)
    assert there.has("Speed", {"px": 256})
    assert not there.has("Speed", {"px": 512})
    assert not there.has("Parts", {"px": 256})
    there.add("Speed", [{"px": 512}])
    assert [row["px"] for row in results.read(tmp_path / "train_step.json")["Speed"]] == [256, 512]
    assert not results.Results(tmp_path, "train_step", lambda: ABOUT).rows("Speed")


def test_damaged_rows_are_refused(tmp_path):
    results.Results(tmp_path, "x", lambda: ABOUT).add("Speed", [{"px": 352}])
    text = (tmp_path / "x.json").read_text()
    (tmp_path / "x.json").write_text(text.replace("352", "353"))
    with pytest.raises(ValueError, match=r"x\.json: damaged or changed"):
        results.Results(tmp_path, "x", lambda: ABOUT, resume=True)


def test_times_of_compilation_are_those_without_a_cache(monkeypatch):
    listeners = []
    monitoring = SimpleNamespace(
        register_event_duration_secs_listener=listeners.append,
        unregister_event_duration_listener=listeners.remove,
    )
    monkeypatch.setattr(compiling, "jax", SimpleNamespace(monitoring=monitoring))
    with compiling.compiling() as spent:
        for event, seconds in (
            (compiling.LOWERING, 1.0),
            (compiling.BACKEND, 2.0),  # compiled
            (compiling.BACKEND, 0.5),  # read from the cache, where 30.5 s of compiling were saved
            (compiling.SAVED, 30.0),
            ("/jax/another", 9.0),
        ):
            listeners[0](event, seconds, fun_name="f")
    assert not listeners
    assert spent["seconds"] == pytest.approx(30, abs=0.1)
    del spent["seconds"]
    assert spent == {"lower s": 1.0, "compile s": 32.5, "programs": 2}


def test_jax_reports_what_it_compiles():
    jax = compiling.jax
    run = timing.jitted(lambda x: x * 3, np.arange(3.0))
    first = timing.first_run(run)
    assert first["programs"] >= 1
    assert 0 < first["lower s"] < first["seconds"]
    assert 0 < first["compile s"] < first["seconds"]
    assert list(timing.first_run(run)) == ["seconds"]
    assert jax.__version__


def test_a_training_is_stopped_at_the_wanted_dsc(tmp_path, monkeypatch):
    stopped = []
    monkeypatch.setattr(to_dsc.os, "kill", lambda process, number: stopped.append(number))
    found = results.Results(tmp_path, "to_dsc", lambda: ABOUT)
    spent = {"seconds": 100.0, "lower s": 1.0, "compile s": 2.0}  # 100 s came from the cache
    watch = to_dsc._Watch(tmp_path / "metrics.csv", 0.5, found, spent)
    watch._look()  # no log yet
    with MetricWriter(tmp_path) as log:
        for step, score, signals in ((5, 0.25, 0), (10, 0.5, 1), (15, 0.75, 1)):
            log.write(step, {"train/loss": 1.0, "validation/dsc": score})
            watch._look()
            assert stopped == [signal.SIGTERM] * signals
    rows = found.rows(to_dsc.CURVE)
    assert [(row["steps"], row["DSC"]) for row in rows] == [(5, 0.25), (10, 0.5), (15, 0.75)]
    assert watch.reached == rows[1]
    assert rows[1]["seconds"] == pytest.approx(100, abs=20)
    assert rows[1]["of these compiling"] == 3.0


def test_what_a_failed_golden_test_differs_by():
    crash = SimpleNamespace(message="AssertionError: ('e4', 1.5, 1.0)\nassert 0.5 <= 0.01 | x")
    failed = SimpleNamespace(longrepr=SimpleNamespace(reprcrash=crash))
    assert golden.difference(failed) == "AssertionError: ('e4', 1.5, 1.0) assert 0.5 <= 0.01 / x"


def test_each_golden_test_is_a_row(tmp_path):
    recorder = golden._Recorder(results.Results(tmp_path, "golden", lambda: ABOUT))
    for when, name, outcome in (
        ("setup", "test_a[gpu]", "passed"),
        ("call", "test_a[gpu]", "passed"),
        ("teardown", "test_a[gpu]", "passed"),
        ("setup", "test_b", "failed"),
        ("setup", "test_c", "skipped"),
    ):
        report = SimpleNamespace(
            when=when, nodeid=f"tests/x.py::{name}", outcome=outcome, duration=2.0, longrepr="why"
        )
        recorder.pytest_runtest_logreport(report)
    assert [
        list(row.values()) for row in results.read(tmp_path / "golden.json")["Golden tests"]
    ] == [
        ["test_a[gpu]", "passed", 2.0, None],
        ["test_b", "failed", 2.0, "why"],
        ["test_c", "skipped", 2.0, None],
    ]
    assert recorder.failed == ["test_b: why"]


def test_golden_tests_need_a_checkout(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(golden, "TESTS", tmp_path / "test_golden_network.py")
    with pytest.raises(SystemExit) as stopped:
        cli.run(benchmark.main, ["golden", "--out", str(tmp_path)])
    assert stopped.value.code == cli.USER_ERROR
    assert "no such file; the golden tests need a checkout" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["all"], "the following arguments are required: --minutes"),
        (["all", "--minutes", "0"], "'0'; expected minutes, more than 0"),
        (["all", "--minutes", "nan"], "'nan'; expected minutes, more than 0"),
        (["all", "--minutes", "9", "--repeats", "3"], "unrecognized arguments: --repeats 3"),
        (["report"], "the following arguments are required: DIR"),
        (["report", "nowhere"], "nowhere: no results of `ssa-jax benchmark` in it"),
    ],
)
def test_bad_options(folder, capsys, given, text):
    with pytest.raises(SystemExit) as stopped:
        cli.run(benchmark.main, given)
    assert stopped.value.code == cli.USER_ERROR
    assert text in capsys.readouterr().err


def spatial(form, ms, ratio, direction="forward+backward"):
    case = {"B x H x W": "2x8x8", "C": 512, "k": 9, "dtype": "float32", "direction": direction}
    return case | {"form": form, "ms": ms, "PyTorch's best / this": ratio}


def network(what, speed, ratio):
    case = {"px": 256, "batch": 2, "dtype": "float32", "what": what}
    return case | {
        "images/s": speed,
        "this / PyTorch's best": ratio,
        "share of matmul ceiling": 0.5,
    }


@pytest.fixture
def machines(folder, monkeypatch):
    """Results of `all` on a GPU, and of one measurement alone on a CPU."""
    days = iter(f"2026-01-{day}" for day in ("02", "04", "03", "01", "05"))
    today = SimpleNamespace(today=lambda: SimpleNamespace(isoformat=lambda: next(days)))
    monkeypatch.setattr(results, "date", today)
    gpu = folder / "gpu"
    about = ABOUT | {"device": "NVIDIA H200"}
    peaks = {"matmul_gflops_float32": 3e5, "matmul_gflops_bfloat16": 7e5, "copy_gb_per_s": 2490.0}
    run([task("ceilings", ""), task("train_step_256", ""), task("broken", "1 / 0")], gpu)
    results.Results(gpu / "ceilings", "ceilings", lambda: about | peaks)
    slower = {name: peak / 2 for name, peak in peaks.items()}
    step = results.Results(gpu / "train_step_256", "train_step", lambda: about | slower)
    step.add("First runs, which compile", [{"px": 256, "what": "ssa_jax", "compile s": 61.5}])
    step.add(
        "Images a second",
        [
            network("ssa_jax", "30 [29, 31]", "1.5 [1.4, 1.6]"),
            network("PyTorch", "10 [9, 11]", "0.5 [0.4, 0.6]"),
            network("PyTorch, channels_last", "20 [19, 21]", "1 [1, 1]"),
        ],
    )
    shown = results.Results(gpu / "spatial_conv", "spatial_conv", lambda: about | slower)
    rows = [
        spatial("scan", "0.9 [0.8, 1.4]", "6.7 [5, 8]"),
        spatial("unrolled", "1.1 [0.7, 1.6]", "5.5 [4, 7]"),
        spatial("PyTorch's loop, NCHW", "6.1 [5, 7]", "1 [1, 1]"),
    ]
    shown.add("Speed", rows)
    more = results.Results(gpu / "unrolls", "spatial_conv", lambda: about | slower)
    more.add("Speed", [spatial("scan (unroll=4)", "0.8 [0.7, 0.9]", "7 [6, 8]")])
    cpu = folder / "cpu"
    results.Results(cpu, "spatial_conv", lambda: ABOUT | peaks).add(
        "Speed", [spatial("filtered", "41 [39, 66]", None)]
    )
    return gpu, cpu


def test_the_report_of_a_machine(machines, capsys):
    capsys.readouterr()
    benchmark.main(["report", str(machines[0]), "--out", "reports"])
    printed = capsys.readouterr().out
    assert printed == Path("reports/report.md").read_text()
    lines = printed.splitlines()
    assert lines[0] == "## NVIDIA H200, 2026-01-04"  # the latest
    assert lines[2] == (
        "2 cores of Two Cores; Python 3.11.1, JAX 0.10.2, PyTorch 2.13.0. A large matmul reaches "
        "300 TFLOP/s in float32 and 700 in bfloat16, a copy 2,490 GB/s."
    )
    assert "- `broken` (about broken): failed; ZeroDivisionError: division by zero" in lines
    assert "`ceilings`" not in printed
    row = "| 256 | 2 | float32 | 30 [29, 31] | 20 [19, 21] (PyTorch, channels_last) | "
    assert row + "1.5 [1.4, 1.6] | 0.5 |" in lines
    row = "| 2x8x8 | 512 | 9 | float32 | forward+backward | 0.9 [0.8, 1.4] | 1.1 [0.7, 1.6] | "
    assert row + "6.1 [5, 7] |  | scan | 6.7 [5, 8] |" in lines  # not beside another stage's
    assert "| 256 | ssa_jax | 61.5 |" in lines
    assert not Path("reports/spatial_conv_machines.png").exists()


def test_the_report_of_several_machines(machines, capsys):
    capsys.readouterr()
    benchmark.main(["report", *map(str, machines), "--out", "reports"])
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if line.startswith("## ")]
    assert titles == [
        "## NVIDIA H200, 2026-01-04",
        "## Two Cores, 2026-01-05",
        "## Spatial convolution by machine",
    ]
    assert lines[-5].endswith(
        "| gpu, ms | gpu, PyTorch's / ours | cpu, ms | cpu, PyTorch's / ours |"
    )
    assert lines[-3] == (
        "| 2x8x8 | 512 | 9 | float32 | forward+backward | 0.9 [0.8, 1.4] (scan) | 6.7 [5, 8] | "
        "41 [39, 66] (filtered) |  |"
    )
    assert lines[-1] == "![Times by machine](spatial_conv_machines.png)"
    with Image.open("reports/spatial_conv_machines.png") as picture:
        assert min(picture.size) > 100


def test_the_bars_of_the_plot(machines):
    bars = report._bars([report._Machine(folder) for folder in machines])
    assert bars == {
        "gpu, ssa_jax": {"2x8x8\nfloat32": 0.9},
        "gpu, PyTorch": {"2x8x8\nfloat32": 6.1},
        "cpu, ssa_jax": {"2x8x8\nfloat32": 41.0},
    }


def test_the_record_is_signed(folder):
    run([task("one", "")], folder)
    path = folder / "all.json"
    found = json.loads(path.read_text())
    assert found["machine"] == ABOUT
    assert found["stages"]["one"]["arguments"] == "one"
    path.write_text(path.read_text().replace("done", "left"))
    with pytest.raises(ValueError, match="damaged or changed"):
        run([task("one", "")], folder)
