"""Print the memory of a training and the time to its first step by the number of slices.

    python -m tests.scale OUT --slices 2000 20000 100000

Made slices of 64 x 64 pixels, four to a patient, one in ten validates; the network is the tests'
stand-in, so that what is measured is all but the network. Each training is run twice in a process
of its own, for fifty steps, with half a gigabyte for prepared slices. OUT keeps the records.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SIDE, BATCH, STEPS = 64, 8, 50
OF_A_PATIENT = 4


def write_slices(data_dir: Path, count: int) -> None:
    """Write records as those of COVID-SemiSeg, unless they are there."""
    import tensorflow_datasets as tfds

    from input_pipeline.datasets import catalog
    from input_pipeline.datasets.covid_semiseg import CovidSemiseg
    from input_pipeline.datasets.record_slices import facts_of
    from input_pipeline.records import HASHES, write_hashes

    builder = CovidSemiseg(data_dir=data_dir, file_format="array_record", config="binary")
    folder = Path(builder.data_dir)
    if (folder / HASHES).exists():
        return
    folder.mkdir(parents=True)
    writer = tfds.core.SequentialWriter(
        builder.info, max_examples_per_shard=512, file_format="array_record"
    )
    writer.initialize_splits(["train"])
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (SIDE // 8, SIDE // 8))
        image = np.kron(coarse, np.ones((8, 8))).astype(np.uint8)
        mask, patient = (image > 200).astype(np.uint8), f"p{number // OF_A_PATIENT}"
        record = {"image": image, "mask": mask, "id": f"s{number}", "patient": patient}
        writer.add_examples({"train": [record]})
    writer.close_all()
    write_hashes(folder, ["train"], catalog.MEND, facts_of)


def train_some_steps(data_dir: Path, workdir: Path, count: int) -> dict[str, float]:
    """Train for some steps, and return seconds and memory."""
    begun = time.perf_counter()
    from launch import train
    from ssa_jax.training.speed import memory_gb
    from tests.support.small_training import arguments, run, stand_in, stopped_at

    fields: dict[str, Any] = {
        "data.data_dir": data_dir,
        "data.source_dir": "",
        "data.image_size": SIDE,
        "data.validation_slices": count // 10,
        "data.cache_gb": 0.5,
        "train.batch_size": BATCH,
    }
    with stand_in():
        first = time.perf_counter()
        with stopped_at(1):
            run(train.main, arguments(data_dir, workdir / "first", **fields))
        first = time.perf_counter() - first
        with stopped_at(STEPS):
            ended = run(train.main, arguments(data_dir, workdir / "some", **fields))
    assert ended.status == 130, ended.errors
    return {
        "seconds to the first step": first,
        "seconds in all": time.perf_counter() - begun,
        "GB of memory": memory_gb() or float("nan"),
    }


def main() -> None:
    """Write what is missing, and measure each size in a process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--slices", type=int, nargs="+", default=[2000, 20000, 100000])
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        found = train_some_steps(options.out, options.child, options.slices[0])
        print(json.dumps(found))
        return
    for count in options.slices:
        data_dir = options.out / str(count)
        begun = time.perf_counter()
        write_slices(data_dir, count)
        print(f"{count} slices: {time.perf_counter() - begun:.0f} s to write", flush=True)
        for name in ("once", "again"):
            workdir = options.out / f"{count}-{name}-{time.time_ns()}"
            words = [sys.executable, "-m", "tests.scale", str(data_dir), "--slices", str(count)]
            words += ["--child", str(workdir)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"  {name}: " + ", ".join(f"{k} {v:.3g}" for k, v in found.items()), flush=True)


if __name__ == "__main__":
    main()
