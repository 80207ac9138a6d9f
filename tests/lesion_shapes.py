"""Print shapes, sizes and places of lesions: radiologists' masks beside those of phantoms.

    python -m tests.lesion_shapes --masks mosmed_lesion_masks

Every mask is measured on the same grid. The phantoms have lesions of `ct_phantom_domains`, as many
as the real masks, and fill as much of the lungs as those do.
"""

import argparse
import math
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from input_pipeline.datasets.ct_phantom.body import draw_anatomy, lungs
from input_pipeline.datasets.ct_phantom.lung import LUNG_LENGTH, SIZE
from input_pipeline.datasets.ct_phantom_domains.lesions import draw_lesions, outlined, sample
from input_pipeline.lungs.outlines import convex_hull

PIXEL, SLICE = 1.8, 8.0  # mm, of the grid; the slices of MosMedData are 8 mm apart
VOXEL = PIXEL**2 * SLICE / 1000  # mL
BURDEN, DEVIATION = 0.0145, 0.85  # of MosMedData: median share of the lungs, of its logarithm
MEASURED = 12  # pixels of a lesion in a slice, below which its shape is not measured
LARGE = 300.0  # mm2 of a lesion in a slice


def real(folder):
    """MosMedData's masks, [x to the left, y to the front, slices upwards]."""
    for path in sorted(folder.rglob("*.nii.gz")):
        image = nib.load(path)
        assert nib.aff2axcodes(image.affine) == ("L", "A", "S"), path
        spacing = image.header.get_zooms()
        assert spacing[2] == SLICE, path
        yield on_grid(np.asarray(image.dataobj) > 0, spacing)


def on_grid(mask, spacing):
    """The mask [x, y, slices] on pixels of PIXEL mm: true where most of a pixel is lesion."""
    sigma = [0.4 * PIXEL / mm for mm in spacing[:2]]
    blurred = ndimage.gaussian_filter(mask.astype(np.float32), [*sigma, 0])
    nearest = []
    for size, mm in zip(mask.shape[:2], spacing[:2], strict=True):
        centres = (np.arange(round(size * mm / PIXEL)) + 0.5) * PIXEL / mm - 0.5
        nearest.append(np.clip(np.rint(centres).astype(int), 0, size - 1))
    return blurred[np.ix_(*nearest)] > 0.5


def phantoms(count):
    """Masks of phantoms, [x to the left, y to the front, slices upwards]."""
    axis = ((np.arange(SIZE) - (SIZE - 1) / 2) * PIXEL).astype(np.float32)
    x, y = np.meshgrid(axis, -axis, indexing="ij")
    for number in range(count):
        rng = np.random.default_rng(number)
        body = draw_anatomy(rng)
        burden = min(BURDEN * math.exp(DEVIATION * rng.normal()), 0.6)
        lesions = draw_lesions(body, rng, burden, 0.0)
        planes = []
        for z in np.arange(LUNG_LENGTH - rng.uniform(0, SLICE), 0, -SLICE):
            ill = sample(lesions.glass, x, y, z) > 0
            ill[ill] = lungs(body, x[ill], y[ill], z / LUNG_LENGTH) < 0
            planes.append(outlined(ill))
        yield np.stack(planes, axis=-1)


def perimeter(mask):
    """Length of the outlines in pixels, by Crofton's formula in four directions."""
    m = np.pad(mask, 1)
    straight = np.count_nonzero(m[1:] != m[:-1]) + np.count_nonzero(m[:, 1:] != m[:, :-1])
    oblique = np.count_nonzero(m[1:, 1:] != m[:-1, :-1])
    oblique += np.count_nonzero(m[1:, :-1] != m[:-1, 1:])
    return math.pi / 8 * (straight + oblique / math.sqrt(2))


def shape(mask):
    """Area (pixels), perimeter (pixels), solidity and elongation of one lesion in a slice."""
    area = np.count_nonzero(mask)
    spread = np.linalg.eigvalsh(np.cov(np.stack(np.nonzero(mask))) + np.eye(2) / 12)
    solidity = area / np.count_nonzero(convex_hull(mask))
    return area, perimeter(mask), solidity, math.sqrt(spread[1] / spread[0])


def of_patient(mask):
    """The statistics of one patient by name, each a list of values, and the shapes by slice."""
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())[1:] * VOXEL
    ill = mask.any(axis=(0, 1))
    middle = [(n - 1) / 2 for n in mask.shape]
    x, y, _ = np.nonzero(mask)
    left = np.mean(x > middle[0])
    found = {
        "lesion of a patient, mL": [sizes.sum()],
        "lesions of a patient": [count],
        "a lesion, mL": sizes.tolist(),
        "share of the largest lesion": [sizes.max() / sizes.sum()],
        "slices with lesion": [np.count_nonzero(ill)],
        "slices in a row": [np.bincount(ndimage.label(ill)[0])[1:].max()],
        "share on the lesser side": [min(left, 1 - left)],
        "behind the middle, mm": [np.mean(middle[1] - y) * PIXEL],
        "beside the middle, mm": [np.mean(np.abs(x - middle[0])) * PIXEL],
        "lesion in a slice, cm2": (mask.sum(axis=(0, 1))[ill] * PIXEL**2 / 100).tolist(),
        "lesions in a slice": [],
    }
    shapes = []
    for index in np.flatnonzero(ill):
        labels, count = ndimage.label(mask[:, :, index], np.ones((3, 3)))
        found["lesions in a slice"].append(count)
        parts = (labels[box] == k for k, box in enumerate(ndimage.find_objects(labels), 1))
        shapes += [shape(part) for part in parts if np.count_nonzero(part) >= MEASURED]
    return found, shapes


def statistics(masks):
    """Every statistic by its name: the values of all patients, lesions or slices."""
    found, shapes = {}, []
    for mask in masks:
        own, more = of_patient(mask)
        shapes += more
        for name, values in own.items():
            found.setdefault(name, []).extend(values)
    area, length, solidity, elongation = np.array(shapes).T
    compactness = 4 * math.pi * area / length**2
    mm2 = area * PIXEL**2
    found["a lesion in a slice, mm2"] = mm2
    for name, values in (
        ("compactness", compactness), ("solidity", solidity), ("elongation", elongation)
    ):  # fmt: skip
        found[name] = values
        found[f"{name}, {LARGE:.0f} mm2 and more"] = values[mm2 >= LARGE]
    found["dimension of the outlines"] = [2 * np.polyfit(np.log(area), np.log(length), 1)[0]]
    return found


def text(values):
    """Median and quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return f"{median:.3g}" if len(values) == 1 else f"{median:.3g} [{low:.3g}, {high:.3g}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=Path, required=True, help="folder of MosMedData's masks")
    masks = list(real(parser.parse_args().masks))
    measured, made = statistics(masks), statistics(phantoms(len(masks)))
    print("median [quartiles] of patients, lesions or slices\n")
    print("| | Real | Phantoms |\n|---|---|---|")
    for name, values in measured.items():
        print(f"| {name} | {text(values)} | {text(made[name])} |")


if __name__ == "__main__":
    main()
