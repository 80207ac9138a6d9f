"""Print the looks of the slices of COVID-SemiSeg beside those of the phantoms' domains.

    python -m tests.domain_figures --source COVID-SemiSeg

Grey values are those after the mapping of the 1st to the 99th percentile to 0 and 1; the lungs are
the threshold lung mask, with the lesions where these are known.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from input_pipeline.datasets.covid_semiseg import find_cases, read_case
from input_pipeline.datasets.ct_phantom_domains.patients import COUNTS_BRIGHT, SPLITS, make_patient
from input_pipeline.lungs.threshold import threshold_lung_mask
from input_pipeline.preprocess import normalize

LONGEST = 90  # pixels of the longer side, at which noise is measured
SOME = 60  # slices of an unlabelled domain that are measured


def looks(image):
    """Figures of a slice that need no labels."""
    grey = normalize(image, "uint8")
    lung = threshold_lung_mask(image, intensity="uint8", dilation=0) > 0
    tissue = float(np.median(grey[~lung]))
    scale = LONGEST / max(image.shape)
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    small, inside = (
        np.asarray(Image.fromarray(a.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
        for a in (grey, lung)
    )
    even = ndimage.binary_erosion(inside < 0.01, iterations=4) & (np.abs(small - tissue) < 0.1)
    kernel = np.outer([1, -2, 1], [1, -2, 1]) / 6
    rough = np.abs(ndimage.convolve(small, kernel)[even])
    return {
        "soft tissue": tissue,
        "lung": float(np.median(grey[lung])),
        "99th percentile of the file": float(np.percentile(image, 99)),
        "lungs' share of the slice": float(lung.mean()),
        "rows over columns": image.shape[0] / image.shape[1],
        "noise of soft tissue": 1.4826 * float(np.median(rough)) if rough.size else math.nan,
    }


def lesions(image, mask):
    """Figures of a labelled slice; the figures of classes that it lacks are missing."""
    grey, ill = normalize(image, "uint8"), mask > 0
    if not ill.any():
        return {}
    lung = threshold_lung_mask(image, intensity="uint8", dilation=0) > 0
    lung = ndimage.binary_closing(lung | ill, iterations=2) | ill
    depth = ndimage.distance_transform_edt(ndimage.binary_fill_holes(lung))
    columns = np.nonzero(lung)[1]
    behind = (np.nonzero(ill)[1].mean() - columns.min()) / np.ptp(columns)
    above = np.mean(np.nonzero(ill)[0] < image.shape[0] / 2)
    found = {
        "lesion's share of the lungs": ill.sum() / lung.sum(),
        "slices with consolidation": float((mask == 2).any()),
        "consolidation's share of the lesion": np.mean(mask[ill] == 2),
        "lesions in a slice": ndimage.label(ill, np.ones((3, 3)))[1],
        "mean depth over that of the lungs": depth[ill].mean() / depth[lung].mean(),
        "place from front (0) to back (1)": behind,
        "share on the lesser side": min(above, 1 - above),
        "healthy lung": np.median(grey[lung & ~ill]) if (lung & ~ill).any() else math.nan,
    }
    for label, name in ((1, "ground-glass"), (2, "consolidation")):
        if (mask == label).any():
            found[name] = np.median(grey[mask == label])
    return found


def best_threshold(slices):
    """DSC of each slice by the one threshold of the grey value in the lungs that is best on all."""
    scores = []
    for image, mask in slices:
        grey, ill = normalize(image, "uint8"), mask > 0
        lung = threshold_lung_mask(image, intensity="uint8", dilation=0) > 0
        found = [lung & (grey >= bound) for bound in np.arange(0.08, 0.7, 0.02)]
        scores.append([2 * np.sum(f & ill) / max(1, f.sum() + ill.sum()) for f in found])
    scores = np.array(scores)
    return scores[:, scores.mean(axis=0).argmax()]


def collected(rows):
    """The values of all slices by the figure's name."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row[name] for row in rows if name in row]) for name in names}


def spread(items, count=SOME):
    """At most so many of the items, evenly."""
    return [items[k] for k in np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))]


def phantoms():
    """Image and mask of the phantoms' slices, by domain."""
    made = {
        split: [make_patient(split, k) for k in range(len(SPLITS[split]))]
        for split in ("train", "unlabelled")
    }
    bright = len(COUNTS_BRIGHT)
    groups = (made["train"], made["unlabelled"][:bright], made["unlabelled"][bright:])
    slices = [[(s.image, s.mask) for patient in group for s in patient] for group in groups]
    return [slices[0], *(spread(group) for group in slices[1:])]


def real(source):
    """Image and mask of the real slices, by domain; of unlabelled ones some, without mask."""
    cases = find_cases(source, "multiclass")
    labelled = [read_case(case, "multiclass") for case in cases["train"]]
    groups = [
        spread([case for case in cases["unlabelled"] if name in case.id])
        for name in ("coronacases", "radiopaedia")
    ]
    return [labelled, *([(read_case(c, "binary")[0], None) for c in g] for g in groups)]


def table(domains):
    """The figures of each domain."""
    found = []
    for slices in domains:
        rows = [looks(i) | (lesions(i, m) if m is not None else {}) for i, m in slices]
        found.append(collected(rows))
        with_lesion = [(i, m) for i, m in slices if m is not None and m.any()]
        if with_lesion:
            found[-1]["DSC of the best threshold"] = best_threshold(with_lesion)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of COVID-SemiSeg")
    columns = zip(table(real(parser.parse_args().source)), table(phantoms()), strict=True)
    tables = [figures for pair in columns for figures in pair]
    heads = [f"{n}, {w}" for n in ("labelled", "bright", "similar") for w in ("real", "phantoms")]
    print("mean ± standard deviation over slices\n")
    print(f"| | {' | '.join(heads)} |\n|---{'|---' * len(heads)}|")
    for name in tables[0]:
        cells = [
            f"{np.nanmean(t[name]):.3g} ± {np.nanstd(t[name]):.2g}" if name in t else ""
            for t in tables
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
