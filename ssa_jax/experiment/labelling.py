"""Pseudo-labels of one round on disk: predicted, passed through the trust module, described."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from input_pipeline.pseudo_labels import PseudoLabel, PseudoLabels, PseudoWriter
from input_pipeline.slices import Slice, Subset
from ssa_jax.experiment import factory
from ssa_jax.experiment.network import Network
from ssa_jax.experiment.progress import progress
from ssa_jax.experiment.run import Run, manifest_of, timed
from ssa_jax.semi_supervised.calibration import fit_temperature, tempered
from ssa_jax.semi_supervised.quality import agreement, label_facts
from ssa_jax.semi_supervised.schedule import added_slices
from ssa_jax.semi_supervised.trust import (
    BINS,
    Trust,
    class_thresholds,
    confidence_histogram,
    confidence_sums,
    pseudo_label,
)
from ssa_jax.training.distributed import barrier, decided, gathered, is_main_process, say
from ssa_jax.training.state import weights_sha256
from ssa_jax.training.stopping import until_stopped


def label_round(run: Run, number: int) -> None:
    """Label the slices that the next round trains on, unless that is done, and print warnings.

    Args:
        run: the rounds of a workdir.
        number: of the round whose network labels, 1 or more.
    """
    folder = run.folder(number) / "pseudo"
    if not decided(folder.exists):
        with timed(run.folder(number) / "label_seconds.json"):
            _label(run, number, folder)
    for warning in manifest_of(folder)["warnings"]:
        say(f"warning: round {number}: {warning}")


def pseudo_labels(
    network: Network,
    slices: Sequence[Slice],
    indices: Sequence[int],
    thresholds: Sequence[float],
    trust: Trust,
    temperature: float = 1.0,
) -> Iterator[PseudoLabel]:
    """Label unlabelled slices.

    Args:
        network: that predicts them.
        slices: the unlabelled split.
        indices: of the slices to label.
        thresholds: of each class, see `trust.class_thresholds`.
        trust: options of the trust module.
        temperature: of the probabilities, see `calibration.tempered`.

    Yields:
        The pseudo-label of each slice, in the order of `indices`.
    """
    for index, made in zip(indices, network.predict(Subset(slices, indices)), strict=True):
        prob = tempered(made.prob, temperature)
        mask, weight = pseudo_label(prob, thresholds, trust)
        yield PseudoLabel(index, made.slice.id, mask, weight, confidence_sums(prob))


def _label(run: Run, number: int, folder: Path) -> None:
    """Write the pseudo-labels of a round, shard by shard, with their manifest."""
    settings, trust = run.settings, factory.trust(run.settings)
    added = added_slices(
        len(run.slices.unlabelled),
        settings.self_train.slices_per_round,
        seed=settings.seed,
        rounds=number,
    )
    indices = [int(k) for drawn in added for k in drawn]
    variables, step = run.variables(number)
    network = run.compiled(variables)
    temperature = trust.temperature or _fitted_temperature(run, network)
    thresholds = _thresholds(run, network, indices, temperature)
    writer = PseudoWriter(folder, indices)

    def label(chosen: Sequence[int]) -> Iterator[PseudoLabel]:
        slices = run.slices.unlabelled
        return pseudo_labels(network, slices, chosen, thresholds, trust, temperature)

    _write_shards(run, number, writer, label)
    barrier("shards written")
    if is_main_process():
        made = {
            "round": number,
            "step": step,
            "weights_sha256": weights_sha256(variables),
            "eta": trust.eta,
            "low_confidence": trust.low_confidence,
            "adaptive_share": trust.adaptive_share,
            "soft": trust.soft,
            "temperature": temperature,
            "thresholds": dict(zip(("background", *settings.class_names), thresholds, strict=True)),
            "seed": settings.seed,
            "added": len(added[-1]),
            "relabelled": len(indices) - len(added[-1]),
        }
        written = writer.labels()
        run.observer.labels_written(run, number, written)
        writer.finish(made | _facts(run, number, written, trust))
    barrier("labels finished")


def _write_shards(
    run: Run,
    number: int,
    writer: PseudoWriter,
    label: Callable[[Sequence[int]], Iterator[PseudoLabel]],
) -> None:
    """Write this process's share of the shards of pseudo-labels."""
    shards = writer.todo(jax.process_index(), jax.process_count())
    total = sum(len(writer.shard_indices(shard)) for shard in shards)
    with progress(total, quiet=run.quiet, what=f"labels {number}") as bar:
        for shard in until_stopped(shards, len(shards)):
            writer.write(shard, _calling(label(writer.shard_indices(shard)), bar.update))


def _fitted_temperature(run: Run, network: Network) -> float:
    """Fit the temperature on the validation slices."""
    predictions = network.predict(run.slices.validation)
    pairs = ((made.prob, made.slice.mask) for made in predictions if made.slice.mask is not None)
    return fit_temperature(pairs)


def _thresholds(
    run: Run, network: Network, indices: Sequence[int], temperature: float
) -> list[float]:
    """Choose each class's threshold; adaptive ones need the confidence of all slices first."""
    trust = factory.trust(run.settings)
    classes = len(run.settings.class_names) + 1
    histogram = np.zeros((classes, BINS), np.int64)
    if trust.adaptive_share > 0:
        mine = indices[jax.process_index() :: jax.process_count()]
        made = network.predict(Subset(run.slices.unlabelled, mine))
        for item in until_stopped(made, len(mine)):
            histogram += confidence_histogram(tempered(item.prob, temperature))
        histogram = np.sum(gathered(histogram.tolist()), axis=0)
    return class_thresholds(trust, histogram)


def _facts(run: Run, number: int, labels: PseudoLabels, trust: Trust) -> dict[str, Any]:
    """Describe the pseudo-labels of a round, see `quality.label_facts`."""
    names = run.settings.class_names
    agreements: list[float | None] = [None] * len(names)
    if number > 1:
        before = PseudoLabels(run.folder(number - 1) / "pseudo")  # the first of `labels`
        pairs = ((old.mask, new.mask) for old, new in zip(before, labels, strict=False))
        agreements = agreement(pairs, len(names) + 1)
    sums = np.zeros((len(names) + 1, 2))

    def described() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for item in labels:  # each access decodes it, so that all is counted in one pass
            np.add(sums, item.confidence, out=sums)
            yield item.id, item.mask, item.weight

    return label_facts(described(), agreements, names, trust) | {
        "confidence": {
            name: float(total / count) if count else None
            for name, (total, count) in zip(names, sums[1:].tolist(), strict=True)
        }
    }


def _calling(labels: Iterator[PseudoLabel], update: Callable[[], Any]) -> Iterator[PseudoLabel]:
    """Call `update` after each label."""
    for label in labels:
        yield label
        update()
