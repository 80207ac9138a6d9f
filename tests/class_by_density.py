"""Print what density, and leaving out rare classes, would change about two lesion classes.

    python -m tests.class_by_density W/fold_1 W/fold_2 ...

The workdirs are those of the folds of one cross-validation with two classes, each scored on its
held-out slices; their configurations have neither `eval.density_slope` nor `eval.least_share`. The
logit of consolidation against ground-glass gets slope (intensity - middle), the intensity smoothed
to the network's pixels, and classes below the least share of the lesion are given to the other one.
The values of a fold are those with the best average DSC in the other folds, so that no slice
chooses the values that it is scored with. Printed are the means over all slices, the differences to
the networks as they are with 95% intervals, and the values that the folds chose.
"""

import argparse
from collections import Counter
from collections.abc import Collection
from itertools import product
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

import ssa_jax
from input_pipeline.preprocess import normalize
from ssa_jax.evaluation.inference import most_probable, without_rare_classes
from ssa_jax.evaluation.paired import Score, difference, mean
from ssa_jax.evaluation.summary import interval_text
from ssa_jax.evaluation.text_table import format_rows
from ssa_jax.experiment import data
from ssa_jax.models.ssa_net import by_density, probabilities

CLASSES = ("ground-glass", "consolidation")
SLOPES, MIDDLES, SHARES = (5.0, 10.0, 20.0, 40.0), (0.4, 0.45, 0.5, 0.55, 0.6), (0.03, 0.05, 0.1)


class Values(NamedTuple):
    """What is tried, see `by_density` and `without_rare_classes`.

    Attributes:
        slope: of the density.
        middle: of the density.
        share: the least one.
        lesion_first: whether a pixel is lesion where both classes together have more than 0.5, and
            of the more probable one; a large slope comes near that.
    """

    slope: float = 0.0
    middle: float = 0.5
    share: float = 0.0
    lesion_first: bool = False


OFF = Values()  # changes nothing
DENSITY = [Values(slope, middle) for slope, middle in product(SLOPES, MIDDLES)]
RARE = [Values(share=share) for share in SHARES]
ALLOWED = {
    "as they are": [OFF],
    "lesion first": [OFF._replace(lesion_first=True)],
    "density": [OFF, *DENSITY],
    "rare classes": [OFF, *RARE],
    "both": [OFF, *DENSITY, *RARE, *(one._replace(share=s) for one in DENSITY for s in SHARES)],
}


class Made(NamedTuple):
    """A held-out slice, of whose N pixels with more lesion than background the class is open.

    Attributes:
        name: of the slice.
        fold: whose network predicted it.
        prob: `[N, 3]`.
        intensity: `[N]`.
        mask: `[N]`, the true class.
        sizes: pixels of each true class in the whole slice.
    """

    name: str
    fold: int
    prob: np.ndarray
    intensity: np.ndarray
    mask: np.ndarray
    sizes: np.ndarray


def held_out(workdir: Path, fold: int) -> list[Made]:
    """The predictions of a fold's network for its validation slices."""
    network = ssa_jax.load(workdir, "last")
    seen, rule = network.preprocessing, network.settings.eval
    if network.class_names != CLASSES or rule.density_slope or rule.least_share:
        raise SystemExit(
            f"error: {workdir}: expected a network of {CLASSES} with eval.density_slope and "
            "eval.least_share 0, which are tried here"
        )
    made = []
    slices = data.evaluation_slices(network.settings, workdir, data.VALIDATION)
    for found in network.predict(slices):
        item, prob = found.slice, found.prob
        unit = normalize(item.image, seen.intensity, seen.grey_values)
        smooth = ndimage.gaussian_filter(unit, max(unit.shape) / seen.image_size / 2)
        lesion, sizes = prob[..., 0] < 0.5, np.bincount(item.mask.ravel(), minlength=3)
        made.append(Made(item.id, fold, prob[lesion], smooth[lesion], item.mask[lesion], sizes))
    return made


def scores(made: Made, values: Values) -> list[Score]:
    """The DSC of both classes of a slice."""
    logits = jnp.log(made.prob + 1e-6)
    logits = by_density(logits, jnp.asarray(made.intensity), (values.slope, values.middle))
    prob = np.array(probabilities(logits))
    if values.lesion_first:
        prob[:, 0] = 0.0
    labels = without_rare_classes(most_probable(prob), prob, values.share)
    made_of = []
    for k, name in enumerate(CLASSES, start=1):
        both, total = (labels == k) & (made.mask == k), made.sizes[k] + (labels == k).sum()
        value = 2 * both.sum() / total if total else None
        made_of.append(Score(made.name, made.name, name, value))
    return made_of


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdirs", nargs="+", type=Path, help="two or more")
    workdirs = parser.parse_args().workdirs
    if len(workdirs) < 2:
        parser.error("one workdir; expected those of two folds or more")
    slices = [made for fold, path in enumerate(workdirs) for made in held_out(path, fold)]
    every_value = {values for allowed in ALLOWED.values() for values in allowed}
    tried = {values: [scores(one, values) for one in slices] for values in every_value}

    def of(values: Values, folds: Collection[int]) -> list[Score]:
        """The scores of the slices of some folds."""
        rows = zip(slices, tried[values], strict=True)
        return [score for one, row in rows if one.fold in folds for score in row]

    every = range(len(workdirs))
    lines, table = [], [["", *CLASSES, "average", "difference"]]
    for name, allowed in ALLOWED.items():
        averages = {  # in all folds but one
            fold: {v: mean(of(v, {*every} - {fold})) or 0.0 for v in allowed} for fold in every
        }
        best = {fold: max(found, key=found.__getitem__) for fold, found in averages.items()}
        got = [score for fold in every for score in of(best[fold], {fold})]
        means = [mean([s for s in got if s.class_name == one]) for one in CLASSES]
        changed = interval_text(difference(got, of(OFF, every)), "+.3f")
        table.append([name, *(f"{value:.3f}" for value in (*means, mean(got))), changed])
        counts = Counter(best.values()).items()
        lines.append(f"{name}: {'; '.join(f'{number} x {tuple(v[:3])}' for v, number in counts)}")
    print(f"{len(slices)} slices\n" + "\n".join(format_rows(table)))
    print("Chosen slope, middle and least share, by number of folds:", *lines, sep="\n")


if __name__ == "__main__":
    main()
