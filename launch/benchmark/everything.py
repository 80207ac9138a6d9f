"""All measurements of a machine within a time limit, each in a process of its own.

Made for rented time: what is most telling comes first, whatever a stage has found so far is on disk
when it is cut short, and the same command goes on with what is missing. This process computes
nothing, so that one process at a time is on the device.
"""

import hashlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import configs
import input_pipeline
import ssa_jax
from input_pipeline.files import remove, write_json
from input_pipeline.verified import read_signed, signed, value_sha256
from launch.benchmark import report
from launch.benchmark.stages import ACCELERATOR, CPU, QUICK, RESUMABLE, STAGES, Stage
from launch.benchmark.timing import identity
from launch.cli import SOME_FAILED
from ssa_jax.evaluation.text_table import format_rows
from ssa_jax.experiment.lock import in_use

RECORD = report.RECORD
DONE, FAULTS, CUT, FAILED, LEFT_OUT = "done", "done, with faults", "cut short", "failed", "left out"
FINISHED = (DONE, FAULTS)
LEAST_SHARE = 0.5  # of the seconds that a stage takes: with less time left it is not begun
LONGEST = 1.5  # times these seconds; what hangs must not take the time of all others
SECONDS_TO_END = 3.0  # for a stage's processes to end by themselves
RESERVE = 5.0  # seconds of the limit that are kept for the end of a stage and the report
SHOWN = 200  # characters of a failed stage's last line


class Task(NamedTuple):
    """A stage on this machine.

    Attributes:
        name: of the stage and its folder.
        answers: what one knows after it.
        what: the arguments, by which a result is known again.
        command: the whole command line.
        seconds: that it takes, about.
        environment: variables that are set for it.
    """

    name: str
    answers: str
    what: str
    command: Sequence[str]
    seconds: float
    environment: Mapping[str, str]


def measure(minutes: float, out: Path, *, quick: bool) -> None:
    """Measure everything that time allows, print, and write the folders of the stages.

    Args:
        minutes: the limit.
        out: folder with one folder for each machine, versions and code, for `all.json`, `report.md`
            and a folder for each stage.
        quick: with sizes for which the figures say nothing, to try the run itself.

    Raises:
        OSError: a file cannot be written, or another run uses the folder.
    """
    deadline = time.monotonic() + 60 * minutes - RESERVE
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        about = pool.submit(identity).result()  # a process that leaves the device to others
    about |= {"code": code_sha256()}
    kind = QUICK if quick else CPU if about["device"] == "cpu" else ACCELERATOR
    folder = out / (folder_name(about) + (report.QUICK_SUFFIX if quick else ""))
    run(tasks(STAGES, kind, folder), folder, about, deadline)
    if not report.files(folder):
        return
    text = report.sections([folder])
    report.save(folder, [folder], text)
    print(f"\n{text}\nReport: {folder / report.FILE}")


def folder_name(about: Mapping[str, Any]) -> str:
    """Return a name for the folder of a machine with its versions, so that no two share one.

    Args:
        about: see `timing.identity`, and the 'code'.
    """
    name = about["processor"] if about["device"] == "cpu" else about["device"]
    readable = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{readable}-{value_sha256(dict(about))[:6]}"


def code_sha256() -> str:
    """Hash what is measured: the packages without `launch`.

    A stage that is mended between two sessions then does not cost the results of the others.
    """
    digest = hashlib.sha256()
    for package in (ssa_jax, input_pipeline, configs):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root.parent).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def tasks(stages: Sequence[Stage], kind: str, folder: Path) -> list[Task]:
    """Return the stages of a kind of run as commands.

    Args:
        stages: in their order.
        kind: of the run, see `stages`.
        folder: of the results.
    """
    found = []
    for stage in stages:
        way = stage.ways.get(kind)
        if way is None:
            continue
        what, *options = way.arguments.split()
        command = [sys.executable, "-m", "launch.benchmark", what]
        command += [option.replace("{data}", str(folder.absolute() / "data")) for option in options]
        command += ["--out", str(folder / stage.name)]
        command += ["--resume"] if what in RESUMABLE else []
        found.append(
            Task(stage.name, stage.answers, way.arguments, command, way.seconds, way.environment)
        )
    return found


class Record:
    """What became of each stage: `all.json` in the folder of the results.

    Args:
        folder: of the results.
        about: the machine and the code; results of others do not count.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder = folder
        self._about = about
        self._path = folder / RECORD
        self._stages: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            self._stages = read_signed(self._path, "remove it and measure again")["stages"]

    def of(self, task: Task) -> dict[str, Any] | None:
        """Return 'state', 'seconds' and 'note' of a stage; None if it was not tried like this."""
        there = self._stages.get(task.name)
        return there if there and there["key"] == self._key(task) else None

    def put(self, task: Task, state: str, seconds: float = 0.0, note: str = "") -> None:
        """Write what became of a stage.

        Args:
            task: the stage.
            state: one of `FINISHED`, or why it is not.
            seconds: that it took.
            note: a reason.
        """
        self._stages[task.name] = {
            "state": state,
            "seconds": round(seconds, 1),
            "note": note,
            "answers": task.answers,
            "arguments": task.what,
            "environment": dict(task.environment),
            "date": date.today().isoformat(),
            "key": self._key(task),
        }
        write_json(self._path, signed({"machine": dict(self._about), "stages": self._stages}))

    def _key(self, task: Task) -> str:
        """Return what a result is known by: machine, code, arguments and environment."""
        return value_sha256([dict(self._about), task.what, dict(task.environment)])


def run(todo: Sequence[Task], folder: Path, about: Mapping[str, Any], deadline: float) -> None:
    """Do what is missing, in the order given, until the time is over.

    Args:
        todo: the stages.
        folder: of the results.
        about: the machine and the code.
        deadline: by `time.monotonic`.

    Raises:
        ValueError: the record in the folder is damaged.
        OSError: a file cannot be written, or another run uses the folder.
    """
    with in_use(folder):
        record = Record(folder, about)
        print(f"{folder}: {deadline - time.monotonic():.0f} s for\n{plan(todo, record)}\n")
        try:
            for task in todo:
                _attend(task, record, deadline)
        finally:
            print(f"\n{summary(todo, record)}", flush=True)


def plan(todo: Sequence[Task], record: Record) -> str:
    """Format the stages with the seconds that they take, about, and what is known of them."""
    rows = [("stage", "about s", "what it answers", "so far")]
    for task in todo:
        known = record.of(task)
        rows.append((task.name, f"{task.seconds:g}", task.answers, known["state"] if known else ""))
    return "\n".join(format_rows(rows))


def summary(todo: Sequence[Task], record: Record) -> str:
    """Format what became of the stages."""
    rows = [("stage", "s", "state")]
    for task in todo:
        known = record.of(task) or {"seconds": 0, "state": LEFT_OUT, "note": "the run was ended"}
        note = f": {known['note']}" if known["note"] else ""
        rows.append((task.name, f"{known['seconds']:.0f}", known["state"] + note))
    return "\n".join(format_rows(rows))


def _attend(task: Task, record: Record, deadline: float) -> None:
    """Do a stage, unless that is done or time does not suffice, and record what became of it."""
    before, left = record.of(task), deadline - time.monotonic()
    if before and before["state"] in FINISHED:
        return
    folder = record.folder / task.name
    if before is None:
        remove(folder)  # of other arguments
    if left < LEAST_SHARE * task.seconds:
        if not before or before["state"] == LEFT_OUT:
            note = f"takes about {task.seconds:g} s, and {max(left, 0):.0f} were left"
            record.put(task, LEFT_OUT, note=note)
        return
    # One that was cut short gets twice the time, so that it ends in some session.
    limit = min(left, max(LONGEST * task.seconds, 2 * before["seconds"] if before else 0.0))
    print(f"{task.name}: {limit:.0f} s at most, {folder / 'log.txt'}", flush=True)
    record.put(task, CUT, note="the run was ended meanwhile")
    state, seconds, note = _supervised(task, folder / "log.txt", limit)
    record.put(task, state, seconds, note)
    print(f"  {state} after {seconds:.0f} s{f': {note}' if note else ''}", flush=True)


def _supervised(task: Task, log: Path, limit: float) -> tuple[str, float, str]:
    """Run a stage until it ends or its time is over; return state, seconds and note."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start, status = time.monotonic(), None
    with log.open("ab") as file:
        process = subprocess.Popen(
            task.command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_environment(task),
            start_new_session=True,  # a group of its own, to be ended as a whole
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(limit)
        finally:
            _end(process)
    seconds = time.monotonic() - start
    if status is None:
        return CUT, seconds, f"its {limit:.0f} s were over; rows until then are kept"
    if status == 0:
        return DONE, seconds, ""
    note = _last_line(log) or f"exit status {status}, without a word"
    return FAULTS if status == SOME_FAILED else FAILED, seconds, note


def _environment(task: Task) -> dict[str, str]:
    """Return the variables of a stage; flags for XLA are added to those that are set."""
    own = dict(task.environment)
    if "XLA_FLAGS" in own:
        own["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {own['XLA_FLAGS']}".strip()
    return {**os.environ, **own}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a stage with all processes that it has started; one may not react while it compiles."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_END)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path) -> str:
    """Return the last line of a stage's output that says anything."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:SHOWN] if said else ""
