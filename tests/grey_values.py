"""Measure the ways to read grey values of unknown windows, 'percentiles' and 'anatomy'.

    python -m tests.grey_values slices SOURCE
    python -m tests.grey_values scans SCAN...
    python -m tests.grey_values networks SOURCE W...

SOURCE is the folder of COVID-SemiSeg. `slices` prints where lung and soft tissue come to lie in
labelled and unlabelled slices, and what another window or a gamma leaves of them; `scans` how far
slices of scans in HU, shown in other windows, are from what the known window gives; `networks`,
for workdirs trained with either way, the DSC of their validation slices as they are and in windows
drawn at random, and how well labels of unlabelled slices agree between the two.

The windows drawn were stated before any result was seen: the low end from -1400 to -900 HU, the
high end from -50 to 800 HU, both uniform.
"""

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

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


def interval(values, resamples=10_000):
    """Mean and 95% interval by bootstrap over slices."""
    values = np.asarray(values)
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (resamples, len(values)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def overlap(one, other):
    """DSC; 1 where both are empty."""
    found = dice_score(one > 0, other > 0)
    return 1.0 if found is None else found


def labels_of(network, slices):
    return [made.labels for made in network.predict(slices)]


def networks(source, workdirs, unlabelled):
    """Score validation slices and compare labels of unlabelled ones; paired over ways by slice."""
    rows = defaultdict(lambda: defaultdict(list))  # by measure and way, then by slice
    groups = slices_of(source, unlabelled)
    changed = {name: drawn(slices) for name, slices in groups.items()}
    for workdir in workdirs:
        network = ssa_jax.load(workdir, "last")
        way = network.preprocessing.grey_values
        held = {item.id for item in data.training_slices(network.settings, workdir)[1]}
        for name, slices in groups.items():
            chosen = [k for k, s in enumerate(slices) if name != "labelled" or s.id in held]
            plain = labels_of(network, [slices[k] for k in chosen])
            other = labels_of(network, [s for k in chosen for s in changed[name][k]])
            for number, k in enumerate(chosen):
                item, own = slices[k], other[number * DRAWS : (number + 1) * DRAWS]
                if name == "labelled":
                    rows["DSC as they are", way][k].append(overlap(plain[number], item.mask))
                    dsc = np.mean([overlap(o, item.mask) for o in own])
                    rows["DSC in other windows", way][k].append(dsc)
                agree = np.mean([overlap(plain[number], o) for o in own])
                rows[f"agreement, {name}", way][k].append(agree)
                share = np.mean([(o > 0).mean() for o in own]) - (plain[number] > 0).mean()
                rows[f"share of lesion added, {name}", way][k].append(share)
                rows[f"share of lesion, {name}", way][k].append((plain[number] > 0).mean())
        print(f"{workdir}: {way}, done", flush=True)
    measures = list(dict.fromkeys(measure for measure, _ in rows))
    print(f"{'':38}" + "".join(f"{way:>14}" for way in WAYS) + "   difference [95%]")
    for measure in measures:
        means = [{k: np.mean(v) for k, v in rows[measure, way].items()} for way in WAYS]
        both = sorted(means[0].keys() & means[1].keys())
        line = "".join(f"{np.mean([m[k] for k in both]):14.3f}" for m in means)
        print(f"{measure:38}{line}   {interval([means[1][k] - means[0][k] for k in both])}")
    for way in WAYS:
        before, after = (rows[f"DSC {how}", way] for how in ("as they are", "in other windows"))
        lost = [np.mean(after[k]) - np.mean(before[k]) for k in sorted(before)]
        print(f"{way}: DSC in other windows less as they are {interval(lost)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("slices", "scans", "networks"))
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
        networks(given.paths[0], given.paths[1:], given.unlabelled)


if __name__ == "__main__":
    main()
