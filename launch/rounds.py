"""One round of semi-supervised training on disk: train, score, label, each done once and then read.

See `launch.self_train` for the folders.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from input_pipeline.lazy import LazySequence
from input_pipeline.loader import eval_batches
from input_pipeline.preprocess import Slice, from_grid, normalize
from input_pipeline.pseudo_store import (
    PseudoLabel,
    PseudoLabels,
    PseudoSlices,
    PseudoWriter,
    read_manifest,
)
from launch import setup
from launch.pictures import label_sheet
from launch.report import row_text, table_head, write_report
from launch.train import initial_variables, steps_of, train_on
from launch.writer import progress, write_json, write_table
from ssa_jax.evaluate import SlicePrediction, VolumeScores, predict_slices, score
from ssa_jax.inference import Predict, make_predict
from ssa_jax.metrics import CaseRow
from ssa_jax.pseudo_label import (
    NEARLY_EMPTY,
    NEARLY_FULL,
    Trust,
    agreement,
    class_pixels,
    class_thresholds,
    confidence_histogram,
    pseudo_label,
)
from ssa_jax.self_training import moved_slices
from ssa_jax.state import Variables
from ssa_jax.summary import AVERAGE, summarize

PICTURES = 8  # unlabelled slices whose pseudo-labels are drawn each round
NAMED = 3  # slices that a warning names; the manifest names all


@dataclass(frozen=True)
class Data:
    """The slices of a run; `unlabelled` is what `self_train.unlabelled_slices` leaves."""

    training: Sequence[Slice]
    validation: Sequence[Slice]
    unlabelled: Sequence[Slice]


class Rounds:
    """The rounds of a workdir: each training and labelling is done once and then read.

    Attributes:
      rows: what is known of each round, as `round.json` holds it.
    """

    def __init__(self, config: ConfigDict, workdir: Path, data: Data, quiet: bool) -> None:
        self.rows: list[dict[str, Any]] = []
        self._config = config
        self._workdir = workdir
        self._data = data
        self._quiet = quiet
        self._names = setup.class_names(config)
        self._trust = trust_of(config)

    def train(self, number: int) -> float:
        """Train and score the network of a round; gives its validation DSC."""
        folder = self._folder(number)
        path = folder / "round.json"
        if not path.exists():
            with _timed(folder / "train_seconds.json"):
                row = self._train(number)
            if jax.process_index() == 0:
                write_json(path, row)
            _together("round scored")
        self.rows.append(json.loads(path.read_text(encoding="utf-8")))
        if jax.process_index() == 0:
            self._report(number)
        dsc = self.rows[-1]["validation_dsc"]["average"]
        return float("nan") if dsc is None else dsc

    def label(self, number: int) -> None:
        """Label the slices that the next round trains on."""
        folder = self._folder(number) / "pseudo"
        if not folder.exists():
            with _timed(self._folder(number) / "label_seconds.json"):
                self._label(number, folder)
        for warning in read_manifest(folder)["warnings"]:
            print(f"warning: round {number}: {warning}", file=sys.stderr, flush=True)

    def _train(self, number: int) -> dict[str, Any]:
        config, data, folder = self._config, self._data, self._folder(number)
        setup.save_config(config, folder)
        setup.training_slices(config, folder)  # keeps the split there, for launch.evaluate
        training, labels = data.training, None
        if number > 1:
            pseudo = self._folder(number - 1) / "pseudo"
            labels = read_manifest(pseudo)
            training = Joined(training, PseudoSlices(PseudoLabels(pseudo), data.unlabelled))
        pixels = setup.pixels_of(config, training)
        losses = setup.weighted_loss(config, pixels)
        same = config.self_train.same_steps
        train_on(
            config,
            folder,
            training,
            data.validation,
            losses=losses,
            variables=self._start(number),
            steps_per_epoch=steps_of(config, data.training) if same else None,
            quiet=self._quiet,
            what=f"round {number}",
        )
        return self._row(number, labels, pixels, losses.class_weight)

    def _start(self, number: int) -> Variables:
        """Variables that a round starts from."""
        config = self._config
        if number > 1 and config.self_train.warm_start:
            return self._network(number - 1)[0]
        return initial_variables(config)

    def _row(
        self,
        number: int,
        labels: dict[str, Any] | None,
        pixels: Sequence[float],
        weight: Sequence[float],
    ) -> dict[str, Any]:
        """What `round.json` holds."""
        variables, step = self._network(number)
        scores = summarize(self._validate(variables))["standard"]
        dsc = {name: scores[name]["dsc"]["mean"] for name in scores}
        dsc.setdefault(AVERAGE, dsc[self._names[0]])
        every = ("background", *self._names)
        lesion = sum(pixels[1:])
        moved, renewed = (labels[k] if labels else 0 for k in ("moved", "renewed"))
        return {
            "round": number,
            "step": step,
            "slices": len(self._data.training) + moved + renewed,
            "labelled": len(self._data.training),
            "moved": moved,
            "renewed": renewed,
            "pseudo_share": labels["share"] if labels else dict.fromkeys(self._names),
            "agreement": labels["agreement"] if labels else dict.fromkeys(self._names),
            "training_share": {
                name: n / lesion for name, n in zip(self._names, pixels[1:], strict=True)
            },
            "weight": dict(zip(every, weight, strict=True)),
            "weight_sum": sum(weight),
            "validation_dsc": dsc,
        }

    def _validate(self, variables: Variables) -> list[CaseRow]:
        """Scores of the validation slices, of whole volumes where they make up some."""
        tolerance = self._config.eval.tolerance
        volumes, rows = VolumeScores(self._names, tolerance), list[CaseRow]()
        for prediction in self._predicted(variables, self._data.validation):
            rows += score(prediction, self._names, tolerance)
            volumes.add(prediction)
        return volumes.rows() or rows

    def _label(self, number: int, folder: Path) -> None:
        config = self._config
        moved = moved_slices(
            len(self._data.unlabelled),
            config.self_train.move,
            seed=config.seed,
            rounds=number,
        )
        indices = [int(k) for drawn in moved for k in drawn]
        variables, step = self._network(number)
        thresholds = self._thresholds(variables, indices)
        writer = PseudoWriter(folder, indices)
        shards = writer.todo(jax.process_index(), jax.process_count())
        total = sum(len(writer.shard_indices(shard)) for shard in shards)
        with progress(total, quiet=self._quiet, what=f"labels {number}") as bar:
            for shard in shards:
                chosen = writer.shard_indices(shard)
                slices = setup.Subset(self._data.unlabelled, chosen)
                made = self._predicted(variables, slices)
                labels = pseudo_labels(chosen, made, thresholds, self._trust, bar.update)
                writer.write(shard, labels)
        _together("shards written")
        if jax.process_index() == 0:
            about = {
                "round": number,
                "step": step,
                "weights_sha256": weights_sha256(variables),
                "eta": self._trust.eta,
                "low_confidence": self._trust.low_confidence,
                "adaptive_share": self._trust.adaptive_share,
                "soft": self._trust.soft,
                "thresholds": dict(zip(("background", *self._names), thresholds, strict=True)),
                "seed": config.seed,
                "moved": len(moved[-1]),
                "renewed": len(indices) - len(moved[-1]),
            }
            written = writer.labels()
            self._draw(number, written)
            writer.finish(about | self._facts(number, written))
        _together("labels finished")

    def _thresholds(self, variables: Variables, indices: Sequence[int]) -> list[float]:
        """Of each class; adaptive ones need the confidence of all slices first."""
        histogram = np.zeros((len(self._names) + 1, 1))
        if self._trust.adaptive_share > 0:
            mine = indices[jax.process_index() :: jax.process_count()]
            chosen = setup.Subset(self._data.unlabelled, mine)
            made = self._predicted(variables, chosen)
            histogram = np.sum([confidence_histogram(item.prob) for item in made], axis=0)
            if jax.process_count() > 1:
                histogram = np.sum(multihost_utils.process_allgather(histogram), axis=0)
        return class_thresholds(self._trust, histogram)

    def _facts(self, number: int, labels: PseudoLabels) -> dict[str, Any]:
        """What the manifest says of the labels themselves."""
        classes = len(self._names) + 1
        pixels = class_pixels(((item.mask, item.weight) for item in labels), classes)
        every = sum(item.mask.size for item in labels)
        lesion = {item.id: float((item.mask > 0).mean()) for item in labels}
        empty = [name for name, share in lesion.items() if share < NEARLY_EMPTY]
        full = [name for name, share in lesion.items() if share > NEARLY_FULL]
        facts: dict[str, Any] = {
            "slices": len(labels),
            "share": {name: n / every for name, n in zip(self._names, pixels[1:], strict=True)},
            "ignored_share": 1 - sum(pixels) / every,
            "agreement": dict(zip(self._names, self._agreement(number, labels), strict=True)),
            "nearly_empty": empty,
            "nearly_full": full,
        }
        found = warnings_of(self._names, pixels, empty, full, len(labels), self._trust)
        return facts | {"warnings": found}

    def _agreement(self, number: int, labels: PseudoLabels) -> list[float | None]:
        """DSC of each class with the round before, over the slices that were renewed."""
        if number == 1:
            return [None] * len(self._names)
        before = PseudoLabels(self._folder(number - 1) / "pseudo")  # the first of `labels`
        pairs = ((old.mask, new.mask) for old, new in zip(before, labels, strict=False))
        return agreement(pairs, len(self._names) + 1)

    def _draw(self, number: int, labels: PseudoLabels) -> None:
        """The same slices each round, with their pseudo-labels."""
        intensity = setup.intensity(self._config)
        shown = labels[:PICTURES]
        slices = PseudoSlices(labels, self._data.unlabelled)[:PICTURES]
        label_sheet(
            self._folder(number) / "pseudo.png",
            [normalize(item.image, intensity) for item in slices],
            [item.mask for item in shown],
            [item.weight == 0 for item in shown],
            [item.id for item in shown],
            class_names=self._names,
        )

    def _report(self, number: int) -> None:
        """Print a round's row and bring the files for people up to date."""
        if number == 1:
            print(table_head(self._names), flush=True)
        print(row_text(self._workdir, self.rows[-1], self._names), flush=True)
        write_table(self._workdir / "rounds.csv", self.rows)
        write_report(self._workdir, self.rows, self._names, self._config, None)

    @cached_property
    def _with_variables(self) -> Callable[[Variables], Predict]:
        return make_predict(setup.build_model(self._config), flip=self._config.eval.flip)

    def _predicted(
        self, variables: Variables, slices: Sequence[Slice]
    ) -> Iterator[SlicePrediction]:
        size, how = self._config.eval.batch_size, setup.preprocessing(self._config)
        batches = eval_batches(slices, how, batch_size=size)
        return predict_slices(self._with_variables(variables), batches, from_grid)

    def _network(self, number: int) -> tuple[Variables, int]:
        """The network that a round ended with, and its step."""
        return setup.trained_variables(self._config, self._folder(number), "last")

    def _folder(self, number: int) -> Path:
        return setup.round_folder(self._workdir, number)


def pseudo_labels(
    indices: Sequence[int],
    predictions: Iterable[SlicePrediction],
    thresholds: Sequence[float],
    trust: Trust,
    tick: Callable[[], Any],
) -> Iterator[PseudoLabel]:
    """Pseudo-labels of the unlabelled slices of these indices; `tick` is called after each."""
    for index, made in zip(indices, predictions, strict=True):
        mask, weight = pseudo_label(made.prob, thresholds, trust)
        yield PseudoLabel(index, made.slice.id, mask, weight)
        tick()


class Joined(LazySequence[Slice]):
    """Labelled slices, then those with pseudo-labels."""

    def __init__(self, first: Sequence[Slice], second: Sequence[Slice]) -> None:
        self._parts = (first, second)

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def _item(self, index: int) -> Slice:
        first, second = self._parts
        return first[index] if index < len(first) else second[index - len(first)]


def weights_sha256(variables: Variables) -> str:
    """Hash of every array's name, type, shape and bits."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def trust_of(config: ConfigDict) -> Trust:
    """How the configuration turns probabilities into pseudo-labels."""
    return Trust(
        eta=config.self_train.eta,
        low_confidence=config.self_train.low_confidence,
        adaptive_share=config.self_train.adaptive_share,
        soft=config.self_train.soft,
    )


def warnings_of(
    names: Sequence[str],
    pixels: Sequence[float],
    empty: Sequence[str],
    full: Sequence[str],
    count: int,
    trust: Trust,
) -> list[str]:
    """What a user should look at."""
    remedy = (
        "lower self_train.eta, or set self_train.adaptive_share"
        if trust.eta > 0 and not trust.adaptive_share
        else "no threshold removed it, the network itself does not find it: raise train.epochs, or "
        "weight the classes (loss.class_weight_over)"
    )
    found = [
        f"{name} has vanished from the pseudo-labels; {remedy}"
        for name, n in zip(names, pixels[1:], strict=True)
        if not n
    ]
    for what, which in (
        (f"nearly empty (lesion below {NEARLY_EMPTY:.1%} of the slice)", empty),
        (f"nearly full (lesion above {NEARLY_FULL:.0%})", full),
    ):
        if which:
            more = ", ..." if len(which) > NAMED else ""
            listed = ", ".join(which[:NAMED]) + more
            found.append(f"{len(which)} of {count} pseudo-labels are {what}: {listed}")
    return found


@contextmanager
def _timed(path: Path) -> Iterator[None]:
    """Keep how many seconds the block took, in a file of its own: no two runs take as long."""
    start = time.perf_counter()
    yield
    if jax.process_index() == 0:
        write_json(path, time.perf_counter() - start)


def _together(what: str) -> None:
    """Wait for the other processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
