"""Measure the ways to read grey values of unknown windows, 'percentiles' and 'anatomy'.

    python -m tests.grey_values slices SOURCE
    python -m tests.grey_values scans SCAN...
    python -m tests.grey_values tables SOURCE
    python -m tests.grey_values networks SOURCE W...

SOURCE is the folder of COVID-SemiSeg. `slices` prints where lung and soft tissue come to lie in
labelled and unlabelled slices, and what another window or a gamma leaves of them; `scans` how far
slices of scans in HU, shown in other windows, are from what the known window gives. The others
print the DSC of held-out slices as they are and in windows drawn at random, and how well labels of
unlabelled slices agree between the two: `networks` for workdirs trained with either way, `tables`
for what learns from grey values alone, the share of lesion among lung pixels of like grey values,
in five folds.

The windows drawn were stated before any result was seen: the low end from -1400 to -900 HU, the
high end from -50 to 800 HU, both uniform.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

import ssa_jax
from input_pipeline.datasets.covid_semiseg import find_cases, read_case
from input_pipeline.grey_values import anatomy_range
from input_pipeline.inference_slices import find_lung_labels
from input_pipeline.io.read import read_scan
from input_pipeline.lungs.threshold import lung_and_tissue, threshold_lung_mask
from input_pipeline.preprocess import HU_WINDOW, normalize
from input_pipeline.slices import Slice
from ssa_jax.evaluation.metrics import dice_score
from ssa_jax.experiment import data

WAYS = ("percentiles", "anatomy")
LOW, HIGH = (-1400, -900), (-50, 800)  # ends of the windows that are drawn, HU
DRAWS = 2  # windows for each slice
LUNG, TISSUE = -850, 30  # HU of the medians of aerated lung and of tissue, to guess a window
WHITE, BONE = 253, 700  # what a window shows as white is taken for bone, in HU
FIXED = ((-1400, 400), (-1000, 800), (-1250, 0), (-1100, -100), (-900, 100), (-800, 400))
GAMMAS = (0.7, 1.4)
FOLDS, BINS, SMOOTHED = 5, 24, (1, 5)  # of the tables; smoothing in pixels
THRESHOLDS = np.arange(0.05, 1, 0.05)


class Window(NamedTuple):
    """The Hounsfield units that become 0 and 255."""

    low: float
    high: float

    def show(self, hu):
        return np.rint(np.clip((hu - self.low) / (self.high - self.low), 0, 1) * 255).astype(
            np.uint8
        )

    def hu(self, grey):
        values = self.low + grey.astype(np.float32) * ((self.high - self.low) / 255)
        return np.where(grey >= WHITE, max(BONE, self.high), values)


def slices_of(source, unlabelled):
    """Labelled slices, and some of the unlabelled ones, by where they come from."""
    cases = find_cases(source, "binary")
    rng = np.random.default_rng(0)
    groups = {"labelled": cases["train"]}
    for name in ("coronacases", "radiopaedia"):
        of = [case for case in cases["unlabelled"] if name in case.id]
        chosen = np.sort(rng.choice(len(of), min(unlabelled, len(of)), replace=False))
        groups[name] = [of[k] for k in chosen]
    return {
        name: [
            Slice(image, None if case.mask is None else mask, None, case.id, case.patient, None)
            for case in group
            for image, mask in [read_case(case, "binary")]
        ]
        for name, group in groups.items()
    }


def guessed_window(slices):
    """The window of a group of slices, by the medians of lung and tissue over all of them."""
    pairs = [lung_and_tissue(item.image) for item in slices]
    lung, tissue = (
        np.median([np.median(v) for v in values if v.size]) for values in zip(*pairs, strict=True)
    )
    per_grey = (TISSUE - LUNG) / (tissue - lung)
    return Window(LUNG - lung * per_grey, LUNG + (255 - lung) * per_grey)


def drawn(slices, seed=1):
    """Each slice in `DRAWS` windows drawn at random."""
    window, rng = guessed_window(slices), np.random.default_rng(seed)
    return [
        [
            replace(item, image=Window(rng.uniform(*LOW), rng.uniform(*HIGH)).show(hu))
            for hu in [window.hu(item.image)]
            for _ in range(DRAWS)
        ]
        for item in slices
    ]


def spread(groups):
    print("medians inside and outside the lung mask: mean and SD over slices")
    print(f"{'':14}{'slices':>7}" + "".join(f"{w + ' lung':>20}{'tissue':>14}" for w in WAYS))
    for name, slices in groups.items():
        line = f"{name:14}{len(slices):7}"
        masks = [threshold_lung_mask(s.image, intensity="uint8", dilation=0) > 0 for s in slices]
        for way in WAYS:
            units = [normalize(item.image, "uint8", way) for item in slices]
            for side, width in ((True, 20), (False, 14)):
                medians = [
                    np.median(u[m == side]) for u, m in zip(units, masks, strict=True) if m.any()
                ]
                line += f"{f'{np.mean(medians):.3f} ({np.std(medians):.3f})':>{width}}"
        print(line)
    for name, slices in groups.items():
        missing = sum(anatomy_range(item.image, HU_WINDOW) is None for item in slices)
        print(f"{name}: lung and tissue not found in {missing} of {len(slices)}")


def with_gamma(picture, gamma):
    return np.rint(255 * (picture / 255) ** gamma).astype(np.uint8)


def remains(groups):
    """What a change of the picture leaves, as the mean difference within the lungs."""
    print("\nmean difference inside the lungs after a change of the picture, units of [0, 1];")
    print("percentiles, anatomy (slices whose landmarks are not found then)")
    changes = {f"window {low}..{high} HU": Window(low, high) for low, high in FIXED}
    changes |= {f"gamma {gamma}": gamma for gamma in GAMMAS}
    print(f"{'':26}" + "".join(f"{name:>22}" for name in groups))
    lungs = {
        name: [threshold_lung_mask(s.image, intensity="uint8", dilation=0) > 0 for s in slices]
        for name, slices in groups.items()
    }
    for text, change in changes.items():
        line = f"{text:26}"
        for name, slices in groups.items():
            window = guessed_window(slices)
            left, missing = defaultdict(list), 0
            for item, lung in zip(slices, lungs[name], strict=True):
                if isinstance(change, Window):
                    picture = change.show(window.hu(item.image))
                else:
                    picture = with_gamma(item.image, change)
                missing += anatomy_range(picture, HU_WINDOW) is None
                for way in WAYS:
                    before, after = (normalize(p, "uint8", way) for p in (item.image, picture))
                    left[way].append(np.abs(before - after)[lung].mean())
            means = ", ".join(f"{np.mean(left[way]):.3f}" for way in WAYS)
            line += f"{f'{means} ({missing})':>22}"
        print(line, flush=True)


def scans(paths):
    print("mean difference inside the lungs from the known window -1250..250 HU, units of [0, 1]")
    windows = [Window(*HU_WINDOW), *(Window(*ends) for ends in FIXED)]
    for path in paths:
        stated = None if path.suffix == ".dcm" or path.is_dir() else "hu"
        scan = read_scan(path, intensity=stated, series=None, axes=None)
        lungs = find_lung_labels(scan) > 0
        shown = [k for k in range(len(lungs)) if lungs[k].mean() > 0.02]
        print(f"{path.name}: {len(shown)} slices whose lungs are 2% or more")
        for window in windows:
            found, missing = defaultdict(list), 0
            for k in shown:
                picture = window.show(scan.voxels[k].astype(np.float32))
                truth = normalize(scan.voxels[k], "hu")
                missing += anatomy_range(picture, HU_WINDOW) is None
                for way in WAYS:
                    found[way].append(np.abs(normalize(picture, "uint8", way) - truth)[lungs[k]])
            line = "".join(
                f"  {way} {np.mean([np.mean(d) for d in found[way]]):.3f}" for way in WAYS
            )
            print(
                f"  {window.low:6.0f}..{window.high:<5.0f}{line}  not found {missing}", flush=True
            )


def interval(values, patients, resamples=10_000):
    """Mean and 95% interval by bootstrap over patients; a labelled slice is its own patient."""
    _, place = np.unique(patients, return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place)
    draws = np.random.default_rng(0).integers(0, len(sums), (resamples, len(sums)))
    low, high = np.percentile(sums[draws].sum(axis=1) / counts[draws].sum(axis=1), (2.5, 97.5))
    return f"{np.mean(values):+.3f} [{low:+.3f}, {high:+.3f}]"


def overlap(one, other):
    """DSC; 1 where both are empty."""
    found = dice_score(one > 0, other > 0)
    return 1.0 if found is None else found


class Model(NamedTuple):
    """What labels slices: a way to read grey values, ids of the slices held out, and a function."""

    way: str
    held: set
    labels: Callable


def of_networks(workdirs):
    """The last networks of trainings."""
    for workdir in workdirs:
        network = ssa_jax.load(workdir, "last")
        held = {item.id for item in data.training_slices(network.settings, workdir)[1]}
        yield Model(
            network.preprocessing.grey_values,
            held,
            lambda slices, predict=network.predict: [made.labels for made in predict(slices)],
        )


def of_tables(labelled):
    """For each way and fold, the share of lesion among lung pixels of like grey values."""
    kept: dict = {}
    folds = np.random.default_rng(0).permutation(len(labelled)) % FOLDS
    for fold in range(FOLDS):
        training = [labelled[k] for k in np.flatnonzero(folds != fold)]
        held = {labelled[k].id for k in np.flatnonzero(folds == fold)}
        for way in WAYS:
            counts = np.zeros((2, BINS * BINS))
            for item in training:
                bins, lung = binned(kept, item, way)
                for label in (0, 1):
                    inside = bins[lung & (item.mask == label)]
                    counts[label] += np.bincount(inside, minlength=BINS * BINS)
            share = counts[1] / np.maximum(counts.sum(axis=0), 1)
            # The threshold of the share with the best DSC over the pixels of the training slices.
            lesion = sum(np.count_nonzero(item.mask) for item in training)
            dsc = [
                2 * counts[1][share >= t].sum() / (lesion + counts[:, share >= t].sum())
                for t in THRESHOLDS
            ]
            chosen = share >= THRESHOLDS[int(np.argmax(dsc))]

            def labels(slices, way=way, chosen=chosen):
                found = (binned(kept, item, way) for item in slices)
                return [(chosen[bins] & lung).astype(np.uint8) for bins, lung in found]

            yield Model(way, held, labels)


def binned(kept, item, way):
    """Each pixel's bin of the grey values smoothed a little and much, and the lungs; kept."""
    if (id(item), way) not in kept:
        unit = normalize(item.image, "uint8", way)
        fine, coarse = (
            np.minimum(ndimage.gaussian_filter(unit, sd) * BINS, BINS - 1).astype(np.int16)
            for sd in SMOOTHED
        )
        lung = threshold_lung_mask(item.image, intensity="uint8", dilation=0) > 0
        kept[id(item), way] = fine * BINS + coarse, lung
    return kept[id(item), way]


def compare(groups, models):
    """Score slices held out and compare labels of unlabelled ones; paired over ways by slice."""
    rows = defaultdict(lambda: defaultdict(list))  # by measure and way, then by slice
    changed = {name: drawn(slices) for name, slices in groups.items()}
    for model in models:
        for name, slices in groups.items():
            chosen = [k for k, s in enumerate(slices) if name != "labelled" or s.id in model.held]
            plain = model.labels([slices[k] for k in chosen])
            other = model.labels([s for k in chosen for s in changed[name][k]])
            for number, k in enumerate(chosen):
                one, own = plain[number], other[number * DRAWS : (number + 1) * DRAWS]

                def keep(measure, value, k=k, way=model.way):
                    rows[measure, way][k].append(value)

                if name == "labelled":
                    truth = slices[k].mask
                    keep("DSC as they are", overlap(one, truth))
                    keep("DSC in other windows", np.mean([overlap(o, truth) for o in own]))
                keep(f"agreement, {name}", np.mean([overlap(one, o) for o in own]))
                keep(f"lesion of slice, {name}", (one > 0).mean())
                added = np.mean([(o > 0).mean() for o in own]) - (one > 0).mean()
                keep(f"change of it, {name}", abs(added))
        print(f"{model.way}: held out {len(model.held)}", flush=True)
    print(f"{'':30}" + "".join(f"{way:>13}" for way in WAYS) + "   difference [95%]")
    for measure in dict.fromkeys(measure for measure, _ in rows):
        means = [{k: np.mean(v) for k, v in rows[measure, way].items()} for way in WAYS]
        both = sorted(means[0].keys() & means[1].keys())
        line = "".join(f"{np.mean([m[k] for k in both]):13.3f}" for m in means)
        slices = groups[measure.split(", ")[1] if ", " in measure else "labelled"]
        gain = [means[1][k] - means[0][k] for k in both]
        print(f"{measure:30}{line}   {interval(gain, [slices[k].patient for k in both])}")
    for way in WAYS:
        before, after = (rows[f"DSC {how}", way] for how in ("as they are", "in other windows"))
        lost = {k: np.mean(after[k]) - np.mean(before[k]) for k in sorted(before)}
        print(f"{way}: DSC in other windows less as they are {interval([*lost.values()], [*lost])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("slices", "scans", "tables", "networks"))
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--unlabelled", type=int, default=50, help="slices of each origin")
    given = parser.parse_args()
    if given.what == "slices":
        groups = slices_of(given.paths[0], given.unlabelled)
        for name, slices in groups.items():
            window = guessed_window(slices)
            print(f"{name}: taken for the window {window.low:.0f}..{window.high:.0f} HU")
        spread(groups)
        remains(groups)
    elif given.what == "scans":
        scans(given.paths)
    else:
        groups = slices_of(given.paths[0], given.unlabelled)
        tables = given.what == "tables"
        compare(groups, of_tables(groups["labelled"]) if tables else of_networks(given.paths[1:]))


if __name__ == "__main__":
    main()
