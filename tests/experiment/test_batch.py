"""A run of many inputs: what stays when one is bad, when it is killed, and when it goes on."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from input_pipeline.files import read_lines, write_json, write_text
from launch import cli, lung_masks
from ssa_jax.experiment import batch as batches
from ssa_jax.experiment.batch import JOURNAL, Batch, Finished, InputsFailed, RunOptions
from tests.support import ROOT
from tests.support.phantom_chest import SPACING, chest

RECORD = {"method": "count"}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Counting:
    """Runs that write the size of text files, and remember which they read."""

    def __init__(self, folder: Path, names: str) -> None:
        self.out = folder / "out"
        self.inputs = {f"{name}.txt": folder / "in" / f"{name}.txt" for name in names}
        (folder / "in").mkdir()
        for name, path in self.inputs.items():
            path.write_text(name * 3)
        self.read: list[str] = []

    def batch(self, record=RECORD, also=None, **options) -> Batch:
        return Batch(
            self.out,
            self.inputs,
            record=record,
            record_name="record.json",
            table="sizes",
            options=RunOptions(**options),
            also=also,
        )

    def work(self, batch: Batch, name: str, path: Path) -> Finished:
        self.read.append(name)
        text = path.read_text()
        if text == "bad":
            raise ValueError(f"{path}: is bad, expected good; mend it")
        return Finished(
            [{"file": str(path), "size": len(text)}],
            (name,),
            lambda: write_text(self.out / name, text),
            "done",
        )

    def run(self, **options) -> list[str]:
        """Run, and return what was read."""
        self.read = []
        batch = self.batch(**options)
        with batch.finish():
            batch.each(partial(self.work, batch), echo=lambda line: None)
        return self.read


def test_bad_inputs_are_listed_and_tried_again(tmp_path, capsys):
    runs = Counting(tmp_path, "abcd")
    for name in ("b.txt", "c.txt"):
        runs.inputs[name].write_text("bad")
    with pytest.raises(InputsFailed) as failed:
        runs.run()
    head, *lines = str(failed.value).splitlines()
    assert head.startswith(f"2 of 4 inputs failed, see {runs.out / 'errors.csv'}; the same")
    paths = list(runs.inputs.values())
    assert lines == [f"  {path}: is bad, expected good; mend it" for path in paths[1:3]]
    assert [Path(row["file"]).name for row in table(runs.out / "sizes.csv")] == ["a.txt", "d.txt"]
    assert [row["error"] for row in table(runs.out / "errors.csv")] == [
        "is bad, expected good; mend it"
    ] * 2
    runs.inputs["b.txt"].write_text("good")
    with pytest.raises(InputsFailed, match="1 of 4 inputs failed"):
        runs.run()
    assert runs.read == ["b.txt", "c.txt"]
    runs.inputs["c.txt"].write_text("good")
    assert runs.run() == ["c.txt"]
    assert not (runs.out / "errors.csv").exists()
    assert [row["size"] for row in table(runs.out / "sizes.csv")] == ["15", "4", "4", "15"]
    assert runs.run() == []


def test_a_changed_input_or_a_lost_result_is_done_again(tmp_path):
    runs = Counting(tmp_path, "abc")
    runs.run()
    runs.inputs["b.txt"].write_text("longer than before")
    (runs.out / "c.txt").unlink()
    assert runs.run() == ["b.txt", "c.txt"]
    assert [row["size"] for row in table(runs.out / "sizes.csv")] == ["15", "18", "15"]
    lung = tmp_path / "lung"
    lung.write_text("mask")
    assert runs.run(also={"a.txt": lung}) == ["a.txt"]
    lung.write_text("another mask")
    assert runs.run(also={"a.txt": lung}) == ["a.txt"]
    assert runs.run(also={"a.txt": lung}) == []


def test_overwrite_starts_anew(tmp_path):
    runs = Counting(tmp_path, "abc")
    runs.run()
    gone = runs.inputs.pop("c.txt")
    assert runs.run(record={"method": "other"}, overwrite=True) == ["a.txt", "b.txt"]
    assert gone.exists() and not (runs.out / "c.txt").exists()
    assert len(table(runs.out / "sizes.csv")) == 2


def test_shards_do_each_input_once_and_meet_in_one_table(tmp_path):
    runs = Counting(tmp_path, "abcde")
    parts = [runs.run(shard=(k, 3)) for k in (1, 2, 3)]
    assert parts == [["a.txt", "d.txt"], ["b.txt", "e.txt"], ["c.txt"]]
    assert not (runs.out / "sizes.csv").exists()
    assert len(table(runs.out / "sizes.2-of-3.csv")) == 2
    assert runs.run() == []
    assert len(table(runs.out / "sizes.csv")) == 5


def test_other_results_are_not_mixed(tmp_path):
    runs = Counting(tmp_path, "ab")
    runs.run()
    with pytest.raises(ValueError, match=r"record.json: other results .*method is .*another --out"):
        runs.batch(record={"method": "other"})
    twin = tmp_path / "a.txt"
    twin.write_text("twin")
    runs.inputs["a.txt"] = twin
    with pytest.raises(ValueError, match=f"holds a.txt of .*in/a.txt, expected that of {twin}"):
        runs.batch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("")
    runs.out = tmp_path / "full"
    with pytest.raises(FileExistsError, match="is not empty"):
        runs.batch()


def test_what_a_killed_run_left_of_a_line_is_dropped(tmp_path):
    runs = Counting(tmp_path, "abc")
    runs.run()
    journal = runs.out / f"{JOURNAL}.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-7])
    assert runs.run() == ["c.txt"]
    assert journal.read_bytes() == whole
    journal.write_bytes(whole.replace(b'"name"', b'"nome"', 1))
    with pytest.raises(ValueError, match=r"jsonl: line 2 is damaged; start anew with --overwrite"):
        runs.batch()
    assert runs.run(overwrite=True) == ["a.txt", "b.txt", "c.txt"]


def test_a_result_that_cannot_be_written_stops_the_run(tmp_path):
    runs = Counting(tmp_path, "abc")
    batch = runs.batch()

    def full(name, path):
        def save():
            raise OSError(28, "No space left on device")

        return Finished([{}], (name,), save)

    with pytest.raises(OSError, match="No space left"):
        batch.each(full, echo=lambda line: None)
    assert list(runs.batch().missing) == list(runs.inputs)


WAITING = """
import sys, time
from pathlib import Path
from ssa_jax.experiment.batch import RunOptions
with RunOptions(shard=(int(sys.argv[2]), int(sys.argv[3]))).only_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("held", "shard", "refused"),
    [
        ((1, 1), (1, 1), True),
        ((2, 3), (2, 3), True),
        ((2, 3), (1, 3), False),
        ((2, 3), (1, 1), True),
        ((1, 1), (2, 3), True),
        ((2, 3), (1, 2), True),
    ],
)
def test_two_equal_jobs_at_once(tmp_path, capsys, held, shard, refused):
    """`lung_masks` beside another job on the same `--out`: refused by its host and process."""
    out, path = tmp_path / "out", tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.full((8, 8, 2), -1000, np.int16), np.diag([-1, -1, 1, 1])), path)
    command = [sys.executable, "-c", WAITING, str(out), *map(str, held)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None and job.stdout.readline() == "held\n"
        before = sorted(entry.name for entry in out.iterdir())
        flags = ["--intensity", "hu", "--out", str(out), "--shard", "{}/{}".format(*shard)]
        with pytest.raises(SystemExit) as ended:
            cli.run(lung_masks.main, [*flags, str(path)])
        job.kill()
    errors = capsys.readouterr().err
    if not refused:
        assert ended.value.code == 0 and (out / "a.nii.gz").exists()
        return
    assert ended.value.code == 2 and errors.count("\n") == 1
    host = f"process {job.pid} on host {socket.gethostname()}"
    assert errors.startswith(f"error: {out}: in use by {host} since ")
    assert sorted(entry.name for entry in out.iterdir()) == before


def test_a_shard_that_begins_meanwhile_is_no_other_file(tmp_path, monkeypatch):
    runs = Counting(tmp_path, "ab")

    def begun_by_another(folder, flag):
        write_json(folder / "record.json", RECORD)
        raise FileExistsError(f"{folder}: is not empty")

    monkeypatch.setattr(batches, "require_empty", begun_by_another)
    assert runs.run(shard=(2, 2)) == ["b.txt"]


def test_starting_anew_waits_for_all_shards(tmp_path):
    runs = Counting(tmp_path, "ab")
    runs.run(shard=(1, 2))
    anew = RunOptions(overwrite=True, shard=(2, 2))
    with RunOptions(shard=(1, 2)).only_run(runs.out):
        with pytest.raises(OSError, match="in use"), anew.only_run(runs.out):
            pass
        assert runs.run(shard=(2, 2)) == ["b.txt"]
    assert (runs.out / "a.txt").exists() and not list(runs.out.glob(".lock*"))


def test_a_result_written_and_not_noted_is_known_as_ours(tmp_path):
    """Killed between a file and its line, a run is not to take the file for one made by hand."""
    runs = Counting(tmp_path, "abc")

    def killed(batch: Batch, name: str, path: Path) -> Finished:
        result = runs.work(batch, name, path)
        if name == "a.txt":  # there already, nothing is written
            return result._replace(save=None)

        def save() -> None:
            result.save()
            raise KeyboardInterrupt

        return result._replace(save=save)

    write_text(runs.out / "record.json", json.dumps(RECORD))
    write_text(runs.out / "a.txt", "by hand")
    first = runs.batch()
    with pytest.raises(KeyboardInterrupt), first.finish():
        first.each(partial(killed, first), echo=lambda line: None)
    assert (runs.out / "b.txt").exists()
    again = runs.batch()
    assert [again.knows(name) for name in runs.inputs] == [False, True, False]
    assert list(again.missing) == ["b.txt", "c.txt"]
    assert runs.batch(overwrite=True).knows("a.txt") and not (runs.out / "b.txt").exists()


@pytest.mark.slow
def test_twelve_scans_three_bad_killed_twice(tmp_path):
    """`lung_masks` ends with nine masks, the table of an undisturbed run, and status 3."""
    phantom = chest()
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    affine[:3, 3] = (12, -7, 30)
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(12):
        image = nib.Nifti1Image(phantom.voxels[18:30].transpose(2, 1, 0), affine)
        path = folder / f"s{number:02d}.nii.gz"
        nib.save(image, path)
        if number in (2, 5, 11):
            path.write_bytes(path.read_bytes()[:2000])

    def start(out: Path) -> subprocess.Popen:
        flags = ["--intensity", "hu", "--out", str(out), str(folder)]
        return subprocess.Popen(
            [sys.executable, "-m", "launch.lung_masks", *flags],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def masks() -> int:
        return len(list((tmp_path / "out").glob("s*.nii.gz")))

    for wanted in (2, 6):
        process = start(tmp_path / "out")
        while masks() < wanted and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert wanted <= masks() < 9
    last = start(tmp_path / "out")
    said, errors = last.communicate()
    assert last.returncode == 3, errors
    assert "already" in said and "3 of 12 inputs failed" in errors
    undisturbed = start(tmp_path / "other")
    undisturbed.communicate()
    assert undisturbed.returncode == 3
    names = sorted(path.name for path in (tmp_path / "other").iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert len([name for name in names if name.endswith(".nii.gz")]) == 9
    for name in set(names) - {f"{JOURNAL}.jsonl"}:
        ours, theirs = ((tmp_path / k / name).read_bytes() for k in ("out", "other"))
        assert ours == theirs, name
    lines = [json.loads(line) for line in read_lines(tmp_path / "out/.results.jsonl")]
    for kind in ("begun", "name"):
        noted = [line[kind] for line in lines if kind in line]
        assert len(noted) == len(set(noted)) == 9
    assert [Path(row["file"]).name for row in table(tmp_path / "out/errors.csv")] == [
        "s02.nii.gz",
        "s05.nii.gz",
        "s11.nii.gz",
    ]
