"""Pseudo-labelling from records to written records, beside the same network's plain inference."""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from input_pipeline import datasets
from input_pipeline.loader import eval_batches
from input_pipeline.preprocess import from_grid
from input_pipeline.pseudo_store import PseudoWriter
from launch import setup
from launch.benchmark import results
from launch.benchmark.timing import Run, in_turns, machine, spread
from launch.rounds import pseudo_labels, trust_of
from ssa_jax.evaluate import predict_slices
from ssa_jax.inference import make_predict
from ssa_jax.pseudo_label import class_thresholds

PLAIN, LABELS = "plain inference", "pseudo-labels"


def measure(workdir: Path, slices: int, repeats: int, out: Path) -> None:
    """Measure, print, and write `pseudo_labels.json` and `.md`.

    Plain inference has its batches ready in memory and only fetches probabilities.

    Raises:
      ValueError: the data set has no unlabelled slices, or not so many.
      FileNotFoundError: `workdir` holds no network.
    """
    about = machine()
    seconds = in_turns(_runs(workdir, slices), repeats, warm_up=1)
    row = {f"{name}, slices/s": spread(slices / taken) for name, taken in seconds.items()} | {
        "ratio": spread(seconds[PLAIN] / seconds[LABELS])
    }
    print(results.markdown([row]))
    results.save(out, "pseudo_labels", about, {"Pseudo-labelling": [row]})


def _runs(workdir: Path, slices: int) -> dict[str, Run]:
    """Inference and labelling of the first unlabelled slices."""
    config = setup.load_config(workdir)
    unlabelled = setup.open_split(config, datasets.UNLABELLED)
    if slices > len(unlabelled):
        raise ValueError(f"--slices is {slices}; expected at most {len(unlabelled)}")
    chosen, indices = setup.Subset(unlabelled, range(slices)), list(range(slices))
    variables, _ = setup.trained_variables(config, workdir, "last")
    network = make_predict(setup.build_model(config), flip=config.eval.flip)(variables)
    how, trust = setup.preprocessing(config), trust_of(config)
    thresholds = class_thresholds(trust, np.zeros((len(setup.class_names(config)) + 1, 1)))
    ready = list(eval_batches(chosen, how, batch_size=config.eval.batch_size))

    def infer() -> None:
        for batch in ready:
            network(batch.image)

    def label() -> None:
        folder = Path(tempfile.mkdtemp()) / "pseudo"
        try:
            writer = PseudoWriter(folder, indices)
            for shard in writer.todo(0, 1):
                part = writer.shard_indices(shard)
                batches = eval_batches(
                    setup.Subset(unlabelled, part), how, batch_size=config.eval.batch_size
                )
                made = predict_slices(network, batches, from_grid)
                writer.write(shard, pseudo_labels(part, made, thresholds, trust, lambda: None))
        finally:
            shutil.rmtree(folder.parent)

    return {PLAIN: infer, LABELS: label}
