"""Measure speed: `python -m launch.benchmark pseudo_labels --workdir W`.

`pseudo_labels`: slices a second from records to written pseudo-labels, beside the same network's
plain inference (batches ready in memory, probabilities fetched), in turns in one run.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from input_pipeline import datasets
from input_pipeline.loader import eval_batches
from input_pipeline.preprocess import from_grid
from input_pipeline.pseudo_store import PseudoWriter
from launch import command, setup
from launch.rounds import pseudo_labels, trust_of
from ssa_jax.evaluate import predict_slices
from ssa_jax.inference import make_predict
from ssa_jax.pseudo_label import class_thresholds


def main(arguments: list[str]) -> None:
    """Read the options, measure and print."""
    parser = argparse.ArgumentParser(prog="launch.benchmark", description=__doc__)
    parser.add_argument("what", choices=["pseudo_labels"])
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a trained network")
    parser.add_argument("--slices", type=int, default=64, help="unlabelled slices to label [64]")
    parser.add_argument("--repeats", type=int, default=5, help="times to measure each [5]")
    options = parser.parse_args(arguments)
    for name in ("slices", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; expected 1 or more")
    rates = measure_pseudo_labels(options.workdir, options.slices, options.repeats)
    for name, values in rates.items():
        print(f"{name:16s} {_spread(values)} slices/s")
    ratio = rates["pseudo-labels"] / rates["plain inference"]
    print(f"{'ratio':16s} {_spread(ratio)}  (median [least, most] of {options.repeats})")


def measure_pseudo_labels(workdir: Path, slices: int, repeats: int) -> dict[str, np.ndarray]:
    """Slices a second of each measurement, by what was measured: `[repeats]` float64.

    Raises:
      ValueError: the data set has no unlabelled slices, or not so many.
      FileNotFoundError: `workdir` holds no network.
    """
    config = setup.load_config(workdir)
    unlabelled = setup.open_split(config, datasets.UNLABELLED)
    if slices > len(unlabelled):
        raise ValueError(f"--slices is {slices}; expected at most {len(unlabelled)}")
    chosen, indices = setup.Subset(unlabelled, range(slices)), list(range(slices))
    variables, _ = setup.trained_variables(config, workdir, "last")
    network = make_predict(setup.build_model(config), flip=config.eval.flip)
    how, trust = setup.preprocessing(config), trust_of(config)
    thresholds = class_thresholds(trust, np.zeros((len(setup.class_names(config)) + 1, 1)))
    ready = list(eval_batches(chosen, how, batch_size=config.eval.batch_size))

    def infer() -> None:
        for batch in ready:
            network(variables, batch.image)

    def label() -> None:
        folder = Path(tempfile.mkdtemp()) / "pseudo"
        try:
            writer = PseudoWriter(folder, indices)
            for shard in writer.todo(0, 1):
                part = writer.shard_indices(shard)
                batches = eval_batches(
                    setup.Subset(unlabelled, part), how, batch_size=config.eval.batch_size
                )
                made = predict_slices(network, variables, batches, from_grid)
                writer.write(shard, pseudo_labels(part, made, thresholds, trust, lambda: None))
        finally:
            shutil.rmtree(folder.parent)

    measured = {"plain inference": infer, "pseudo-labels": label}
    for run in measured.values():
        run()
    seconds = [[_seconds(run) for run in measured.values()] for _ in range(repeats)]
    return dict(zip(measured, slices / np.array(seconds).T, strict=True))


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _spread(values: np.ndarray) -> str:
    return f"{np.median(values):.3g} [{values.min():.3g}, {values.max():.3g}]"


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
