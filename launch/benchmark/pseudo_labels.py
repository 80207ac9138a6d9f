"""Speed of pseudo-labelling, from records to records, beside plain inference of the network."""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from input_pipeline.loader import eval_batches
from input_pipeline.pseudo_labels import PseudoWriter
from input_pipeline.slices import Subset
from launch.benchmark import results
from launch.benchmark.timing import Run, in_turns, machine, spread
from ssa_jax.evaluation.inference import make_predict
from ssa_jax.experiment import data, factory, workdir
from ssa_jax.experiment.labelling import pseudo_labels
from ssa_jax.experiment.network import Network
from ssa_jax.semi_supervised.trust import class_thresholds

PLAIN, LABELS = "plain inference", "pseudo-labels"


def measure(folder: Path, slices: int, repeats: int, out: Path) -> None:
    """Measure, print, and write `pseudo_labels.json` and `.md`.

    Plain inference has its batches in memory and only fetches probabilities.

    Args:
        folder: workdir of a trained network.
        slices: number of unlabelled slices to label.
        repeats: number of measurements.
        out: folder of the results.

    Raises:
        ValueError: the data set has fewer unlabelled slices.
        FileNotFoundError: `folder` holds no network.
    """
    found = results.Results(out, "pseudo_labels", machine)
    seconds = in_turns(_runs(folder, slices), repeats, warm_up=1)
    row = {f"{name}, slices/s": spread(slices / taken) for name, taken in seconds.items()} | {
        "ratio": spread(seconds[PLAIN] / seconds[LABELS])
    }
    found.add("Pseudo-labelling", [row])


def _runs(folder: Path, slices: int) -> dict[str, Run]:
    """Make the runs of inference and of labelling, on the first unlabelled slices."""
    settings = workdir.load_settings(folder)
    unlabelled = data.open_split(settings, data.UNLABELLED)
    if slices > len(unlabelled):
        raise ValueError(f"--slices is {slices}; expected at most {len(unlabelled)}")
    indices = list(range(slices))
    variables, _ = workdir.trained_variables(settings, folder, "last")
    predict = make_predict(factory.build_model(settings), flip=settings.eval.flip)(variables)
    network, trust = Network(settings, predict), factory.trust(settings)
    thresholds = class_thresholds(trust, np.zeros((len(settings.class_names) + 1, 1)))
    size, chosen = settings.eval.batch_size, Subset(unlabelled, indices)
    ready = list(eval_batches(chosen, network.preprocessing, batch_size=size))

    def infer() -> None:
        for batch in ready:
            predict(batch.image)

    def label() -> None:
        scratch = Path(tempfile.mkdtemp())
        try:
            writer = PseudoWriter(scratch / "pseudo", indices)
            for shard in writer.todo(0, 1):
                part = writer.shard_indices(shard)
                writer.write(shard, pseudo_labels(network, unlabelled, part, thresholds, trust))
        finally:
            shutil.rmtree(scratch)

    return {PLAIN: infer, LABELS: label}
