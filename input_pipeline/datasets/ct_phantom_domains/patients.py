"""Generate 8-bit chest CT slices of two domains from a seed, with lesions as in real masks.

Anatomy, vessels and scanner are those of `ct_phantom`, lesions those of `lesions`, windows and
orientations those of `domains`. The splits are those of COVID-SemiSeg, so that what unlabelled
slices are worth there can be studied where the truth is known:

- 'train' and 'test': one slice of each patient, from where much lesion is (domain `LABELLED`).
- 'unlabelled': neighbouring slices of 20 other patients, ten of the domain `BRIGHT` and ten of
  `SIMILAR`, a quarter of the number of slices that each of the real ones has. Their masks are
  stored, but shown in the split 'unlabelled_truth' alone.

Labels: 0 background, 1 ground-glass opacity, 2 consolidation. The lung mask includes the lesions.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from input_pipeline.datasets.ct_phantom.body import Anatomy, Array, body_hu, draw_anatomy, lungs
from input_pipeline.datasets.ct_phantom.lung import (
    LUNG_LENGTH,
    SIZE,
    Textures,
    Vessels,
    add_vessels,
    draw_textures,
    draw_vessels,
    lung_hu,
    mix,
)
from input_pipeline.datasets.ct_phantom.patients import lung_share, pixels, scan
from input_pipeline.datasets.ct_phantom_domains.domains import (
    BRIGHT,
    LABELLED,
    SIMILAR,
    Domain,
    Look,
    dense_bone,
    draw_look,
    picture,
    placed,
)
from input_pipeline.datasets.ct_phantom_domains.lesions import (
    VOXEL,
    Lesions,
    draw_lesions,
    outlined,
    sample,
)
from input_pipeline.datasets.ct_phantom_domains.opacities import (
    Opacity,
    draw_burden,
    draw_opacity,
    with_lesions,
)
from input_pipeline.slices import Slice

SEED = 2020
# Slices of each patient, by split: of `unlabelled` those of COVID-SemiSeg's scans, divided by four.
COUNTS_BRIGHT = (42, 37, 35, 29, 28, 28, 25, 20, 19, 17)
COUNTS_SIMILAR = (52, 16, 10, 9, 9, 6, 5, 5, 5, 3)
SPLITS = {
    "train": [(LABELLED, 1)] * 50,
    "test": [(LABELLED, 1)] * 48,
    "unlabelled": [(BRIGHT, n) for n in COUNTS_BRIGHT] + [(SIMILAR, n) for n in COUNTS_SIMILAR],
}
PRETRAINING = "pretraining"  # labelled slices of many other patients, a data set of its own
PRETRAINING_SPLIT = {PRETRAINING: [(LABELLED, 1)] * 600}
# Share of the lungs that lesions fill: median, standard deviation of its logarithm, and bounds.
BURDEN = {"train": (0.17, 1.1), "test": (0.17, 1.1), "unlabelled": (0.025, 1.0)}
PRETRAINING_BURDEN = BURDEN["train"]
HIGHEST, LOWEST = 0.12, 0.85  # levels between which slices lie
PARENCHYMA = 35.0  # HU, standard deviation of the fine texture of the lung
GAP = 4.0  # mm between neighbouring slices


@dataclass(frozen=True)
class _Patient:
    """What the slices of one patient have in common."""

    body: Anatomy
    look: Look
    lesions: Lesions
    opacity: Opacity
    vessels: list[Vessels]
    textures: Textures


def _draw_patient(domain: Domain, split: str, rng: np.random.Generator) -> _Patient:
    """Draw body, look, lesions, their densities, vessels and textures, in this order."""
    body, look = draw_look(domain, draw_anatomy(rng), rng)
    lesions = draw_lesions(body, rng, *draw_burden(rng, *BURDEN.get(split, PRETRAINING_BURDEN)))
    opacity = draw_opacity(rng)
    return _Patient(body, look, lesions, opacity, draw_vessels(body, rng), draw_textures(rng))


def _heights(lesions: Lesions, count: int, rng: np.random.Generator) -> Array:
    """Choose neighbouring heights in mm where much lesion is; a single one by chance."""
    first, last = HIGHEST * LUNG_LENGTH, LOWEST * LUNG_LENGTH
    heights = (np.arange(len(lesions.by_height)) + 0.5) * VOXEL
    amount = np.where((heights > first) & (heights < last), lesions.by_height, 0) + 1e-6
    if count == 1:
        return rng.choice(heights, 1, p=amount / amount.sum())
    gap = min(GAP, (last - first) / (count - 1))
    below = np.cumsum(amount)
    starts = np.linspace(first, last - gap * (count - 1), 50)
    inside = [
        np.interp(s + gap * (count - 1), heights, below) - np.interp(s, heights, below)
        for s in starts
    ]
    return starts[int(np.argmax(inside))] + gap * np.arange(count)


def _cut(
    patient: _Patient, z: float, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Return image (grey values), mask (0, 1, 2) and lung mask (0, 1) of one slice, `[H, W]`."""
    body, scanner, level = patient.body, patient.look.scanner, z / LUNG_LENGTH
    x, y = pixels(scanner)
    field, edge = lungs(body, x, y, level), 1.2 * scanner.spacing
    inside = field < 0
    healthy = lung_hu(body, x, y, level, np.clip(-field, 0, None), patient.textures)
    glass, solid = (sample(f, x, y, z) for f in (patient.lesions.glass, patient.lesions.solid))
    middle, fine = mix(patient.textures.middle, z), mix(patient.textures.fine, z)
    healthy += PARENCHYMA * fine
    lung = with_lesions(healthy, glass, solid, middle, fine, patient.opacity)
    add_vessels(lung, patient.vessels, z, scanner, body.blood)
    around = dense_bone(body_hu(body, x, y, level, edge))
    hu = around + (lung - around) * lung_share(body, x, y, level, field, edge)
    mask = np.where(outlined(inside & (glass > 0)), np.where(solid > 0, 2, 1), 0).astype(np.uint8)
    image, lung_mask = picture(scan(hu, scanner, rng), patient.look), inside.astype(np.uint8)
    return (
        placed(image, lung_mask, patient.look, labels=False),
        placed(mask, lung_mask, patient.look, labels=True),
        placed(lung_mask, lung_mask, patient.look, labels=True),
    )


def made_from() -> list[Any]:
    """Return what the data set depends on, for the hash of its records."""
    splits = {name: [(asdict(domain), n) for domain, n in v] for name, v in SPLITS.items()}
    return [SEED, SIZE, splits, BURDEN]


def pretraining_made_from() -> list[Any]:
    """Return what the slices to pretrain on depend on, as `made_from`."""
    of = [(asdict(domain), n) for domain, n in PRETRAINING_SPLIT[PRETRAINING]]
    return [SEED, SIZE, of, PRETRAINING_BURDEN]


def every_split() -> dict[str, list[tuple[Domain, int]]]:
    """Return domain and number of slices of each patient, by split, of both data sets."""
    return SPLITS | PRETRAINING_SPLIT


def make_patient(split: str, index: int, *, seed: int = SEED) -> list[Slice]:
    """Generate all slices of one patient; the same seed, split and index give the same slices.

    Args:
        split: a key of `every_split`.
        index: number of the patient in the split, 0 or more.
        seed: seed of the data set.

    Returns:
        Slices from apex to base, with image uint8 grey values, mask uint8 (0, 1, 2) and lung uint8
        (0, 1), all `[H, W]` of a size of their own.
    """
    splits = every_split()
    rng = np.random.default_rng([seed, list(splits).index(split), index])
    domain, count = splits[split][index]
    patient = _draw_patient(domain, split, rng)
    name = f"{split}{index:03d}"
    return [
        Slice(*_cut(patient, float(z), rng), f"{name}_{k:03d}", name, None)
        for k, z in enumerate(_heights(patient.lesions, count, rng))
    ]
