"""The domains of the phantoms: scanner, window, orientation and crop of their 8-bit slices.

The figures are those of the slices of COVID-SemiSeg (Fan et al., Inf-Net, IEEE TMI 2020): its 50
labelled slices are the domain `LABELLED`, its 1,119 unlabelled slices named `coronacases` the
domain `BRIGHT`, whose window ends far above soft tissue and which are mirrored, and its 481 named
`radiopaedia` the domain `SIMILAR`. `python -m tests.domain_figures` prints both beside each other.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from input_pipeline.datasets.ct_phantom.body import Anatomy, Array
from input_pipeline.datasets.ct_phantom.lung import SIZE, Scanner

Range = tuple[float, float]
BONE_HU, BONE = 200.0, 2.9  # HU above BONE_HU are enlarged so many times: cortical bone


@dataclass(frozen=True)
class Domain:
    """How the slices of a domain look; each range is of a uniform distribution over patients.

    Attributes:
        lung_front: HU of the lung at the front.
        lung_back: HU added gradually towards the back.
        bottom: HU that become grey value 0.
        top: mean and standard deviation of the HU that become grey value 255.
        noise: standard deviation of the noise in HU.
        grain: correlation length of the noise in pixels.
        blur: standard deviation of the blur in pixels.
        sharpness: how much of the difference from a smoothed picture is added, as a sharp kernel.
        squeeze: left-to-right size of the picture over the true one.
        margin: pixels around the lungs.
        spine_first: whether the spine is at the first columns instead of the last ones.
    """

    lung_front: Range
    lung_back: Range
    bottom: Range
    top: Range
    noise: Range
    grain: Range
    blur: Range
    sharpness: Range
    squeeze: Range
    margin: tuple[int, int]
    spine_first: bool


LABELLED = Domain(
    lung_front=(-930, -830),
    lung_back=(10, 120),
    bottom=(-1150, -1000),
    top=(240, 85),
    noise=(8, 40),
    grain=(0.4, 0.9),
    blur=(0.35, 0.8),
    sharpness=(0.0, 0.8),
    squeeze=(0.62, 0.95),
    margin=(0, 4),
    spine_first=False,
)
BRIGHT = Domain(
    lung_front=(-925, -870),
    lung_back=(10, 60),
    bottom=(-1024, -1000),
    top=(1700, 150),
    noise=(12, 20),
    grain=(0.7, 0.9),
    blur=(0.45, 0.6),
    sharpness=(0.0, 0.3),
    squeeze=(0.95, 1.05),
    margin=(0, 3),
    spine_first=True,
)
SIMILAR = Domain(
    lung_front=(-905, -730),
    lung_back=(10, 120),
    bottom=(-1130, -1060),
    top=(180, 45),
    noise=(14, 28),
    grain=(0.4, 0.6),
    blur=(0.35, 0.6),
    sharpness=(0.2, 0.8),
    squeeze=(0.95, 1.05),
    margin=(0, 3),
    spine_first=False,
)


@dataclass(frozen=True)
class Look:
    """What the slices of one patient share of their domain: scanner, window and crop.

    Attributes:
        scanner: the scanner.
        sharpness: of the kernel, see `Domain`.
        window: HU that become grey values 0 and 255.
        squeeze: left-to-right size of the picture over the true one.
        margin: pixels around the lungs.
        spine_first: whether the spine is at the first columns.
    """

    scanner: Scanner
    sharpness: float
    window: Range
    squeeze: float
    margin: int
    spine_first: bool


def draw_look(domain: Domain, body: Anatomy, rng: np.random.Generator) -> tuple[Anatomy, Look]:
    """Draw scanner, window and crop of one patient, and the density of the patient's lungs.

    Args:
        domain: the domain.
        body: the patient's body.
        rng: the source of randomness.

    Returns:
        The body with lungs as the domain has them, and the look of its slices.
    """
    scanner = Scanner(
        spacing=2.0 * body.width * rng.uniform(1.03, 1.10) / SIZE,
        turn=float(np.radians(rng.normal(0, 3.0))),
        move=(rng.normal(0, 4.0), rng.normal(-4, 6.0)),
        shift=float(np.clip(rng.normal(0, 15), -40, 40)),
        gain=rng.uniform(0.97, 1.03),
        blur=rng.uniform(*domain.blur),
        noise=rng.uniform(*domain.noise),
        grain=rng.uniform(*domain.grain),
        thickness=rng.uniform(1.5, 5.0),
    )
    middle, deviation = domain.top
    top = float(np.clip(rng.normal(middle, deviation), middle - 130, middle + 2.5 * deviation))
    look = Look(
        scanner=scanner,
        sharpness=rng.uniform(*domain.sharpness),
        window=(rng.uniform(*domain.bottom), top),
        squeeze=rng.uniform(*domain.squeeze),
        margin=int(rng.integers(domain.margin[0], domain.margin[1] + 1)),
        spine_first=domain.spine_first,
    )
    front, back = rng.uniform(*domain.lung_front), rng.uniform(*domain.lung_back)
    return replace(body, lung_front=front, lung_back=back), look


def dense_bone(hu: Array) -> Array:
    """Return HU with cortical bone as dense as a fine scan shows it.

    Args:
        hu: HU of any shape.
    """
    return hu + (BONE - 1) * np.clip(hu - BONE_HU, 0, None)


def picture(hu: NDArray[np.int16], look: Look) -> NDArray[np.uint8]:
    """Return the grey values of a slice: the kernel's sharpness, then the window.

    Args:
        hu: `[H, W]` HU of the scanner.
        look: of the patient.
    """
    smooth = hu.astype(np.float32)
    sharp = smooth + look.sharpness * (smooth - ndimage.gaussian_filter(smooth, 1.0))
    low, high = look.window
    return np.rint(np.clip((sharp - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def placed(
    array: NDArray[np.uint8], lung: NDArray[np.uint8], look: Look, *, labels: bool
) -> NDArray[np.uint8]:
    """Crop a slice to the lungs and lay it as the domain does: the right lung above.

    Args:
        array: `[SIZE, SIZE]` grey values or labels.
        lung: `[SIZE, SIZE]` 1 inside the lungs.
        look: of the patient.
        labels: whether the values are labels, which are not mixed.

    Returns:
        `[H, W]` of the same kind; the columns go from front to back, or from back to front.
    """
    rows, columns = (np.flatnonzero(lung.any(axis=axis)) for axis in (1, 0))
    top, left = (max(int(k[0]) - look.margin, 0) for k in (rows, columns))
    bottom, right = (int(k[-1]) + 1 + look.margin for k in (rows, columns))
    cut = array[top:bottom, left:right].T
    cut = np.ascontiguousarray(cut[:, ::-1] if look.spine_first else cut)
    size = (cut.shape[1], round(cut.shape[0] * look.squeeze))
    way = Image.Resampling.NEAREST if labels else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(cut).resize(size, way))
