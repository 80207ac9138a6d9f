"""The metric log: read back by hand, killed in the middle, and on a disk that refuses."""

import hashlib
import io
import math
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from ssa_jax.training.metric_log import MetricWriter, log_sha256, read_metrics, require_log
from tests.support import ROOT


def masked_crc(data: bytes) -> int:
    """CRC-32C, bit by bit, masked as the record format asks."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Iterator[Event]:
    """Events of a file: length, checksum, data, checksum."""
    data = io.BytesIO(path.read_bytes())
    while head := data.read(8):
        (length,) = struct.unpack("<Q", head)
        assert struct.unpack("<I", data.read(4)) == (masked_crc(head),)
        body = data.read(length)
        assert struct.unpack("<I", data.read(4)) == (masked_crc(body),)
        yield Event.FromString(body)


def shown(workdir: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows: files in order of name, a session's start purging later steps."""
    series: dict[str, dict[int, float]] = {}
    for path in sorted((workdir / "tensorboard").iterdir()):
        for event in records(path):
            if event.session_log.status == SessionLog.START:
                for name, values in series.items():
                    series[name] = {s: v for s, v in values.items() if s < event.step}
            for value in event.summary.value:
                series.setdefault(value.tag, {})[event.step] = value.simple_value
    return series


def test_csv_is_exact_and_in_order(tmp_path: Path) -> None:
    with MetricWriter(tmp_path / "run") as writer:
        writer.write(1, {"train/loss": 0.1, "learning_rate": 1e-3})
        writer.write(2, {"train/loss": 1 / 3})
        writer.write(2, {"validation/dsc": math.nan})
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert lines == [
        "step,name,value",
        "1,train/loss,0.1",
        "1,learning_rate,0.001",
        "2,train/loss,0.3333333333333333",
        "2,validation/dsc,nan",
    ]
    series = read_metrics(tmp_path / "run" / "metrics.csv")
    assert series["train/loss"] == [(1, 0.1), (2, 1 / 3)]


def test_events_hold_the_same_numbers(tmp_path: Path) -> None:
    with MetricWriter(tmp_path) as writer:
        writer.write(3, {"train/loss": 0.5, "validation/dsc": 0.7})
        writer.write(4, {"train/loss": 0.25})
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert "tfevents" in path.name
    first, *_, last = records(path)
    assert first.file_version == "brain.Event:2"
    assert abs(last.wall_time - time.time()) < 60
    expected = {"train/loss": {3: 0.5, 4: 0.25}, "validation/dsc": {3: pytest.approx(0.7)}}
    assert shown(tmp_path) == expected


def test_resume_drops_later_steps_everywhere(tmp_path: Path) -> None:
    with MetricWriter(tmp_path) as writer:
        for step in range(6):
            writer.write(step, {"loss": float(step)})
    with MetricWriter(tmp_path, resume_step=3) as writer:
        writer.write(5, {"loss": 50.0})
    expected = [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (5, 50.0)]
    assert read_metrics(tmp_path / "metrics.csv")["loss"] == expected
    assert shown(tmp_path)["loss"] == dict(expected)


def test_a_new_run_starts_empty(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with MetricWriter(tmp_path) as writer:
            writer.write(0, {name: 1.0})
    assert read_metrics(tmp_path / "metrics.csv") == {"new": [(0, 1.0)]}


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": 0.25})
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text() + "2,loss,0.1")  # of 0.125: a number, but not the number
    assert read_metrics(path)["loss"] == [(1, 0.25)]
    with MetricWriter(tmp_path, resume_step=2) as writer:
        writer.write(3, {"loss": 0.5})
    assert read_metrics(path)["loss"] == [(1, 0.25), (3, 0.5)]


def test_sigkill_loses_nothing_written(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from ssa_jax.training.metric_log import MetricWriter\n"
        "writer = MetricWriter(Path(sys.argv[1]))\n"
        "for step in (1, 2, 3): writer.write(step, {'loss': step / 4})\n"
        "print('written', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    expected = [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert read_metrics(tmp_path / "metrics.csv")["loss"] == expected
    assert shown(tmp_path)["loss"] == dict(expected)


@pytest.mark.parametrize("text", ["a,b\n", "step,name,value\n1,loss\n", "step,name,value\nx,l,1\n"])
def test_a_foreign_metrics_file_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.csv: line \d is .*expected 'step,name,value'"):
        MetricWriter(tmp_path)
    assert path.read_text() == text


def test_missing_metrics_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metrics\.csv"):
        read_metrics(tmp_path / "metrics.csv")


def test_metric_writer_names_its_file_when_the_disk_refuses(tmp_path: Path) -> None:
    # A limit on the size of files stands for the full disk; it must raise, not hang or pass.
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from ssa_jax.training.metric_log import MetricWriter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    with MetricWriter(Path(sys.argv[1])) as writer:\n"
        "        for step in range(1000): writer.write(step, {'loss': 0.1})\n"
        "except OSError as error: print(error.filename)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == f"{tmp_path / 'metrics.csv'}\n"


def test_the_hash_of_the_log_is_of_the_lines_up_to_a_step(tmp_path: Path) -> None:
    assert require_log(tmp_path, 0, None) is None
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": 0.25})
        whole = log_sha256(tmp_path, 1)
        writer.write(2, {"loss": 0.5})
    assert whole == hashlib.sha256(b"1,loss,0.25\n").hexdigest() == log_sha256(tmp_path, 1)
    assert require_log(tmp_path, 1, whole) is None
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text().replace("0.25", "0.35"))
    with pytest.raises(ValueError, match=r"metrics\.csv: damaged or changed: .* up to step 1 are"):
        require_log(tmp_path, 1, whole)
    assert require_log(tmp_path, 1, None) is None  # of an older version
    path.unlink()
    note = require_log(tmp_path, 1, whole)
    assert note == f"{path}: not found; the log begins anew after step 1"
