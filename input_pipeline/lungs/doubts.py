"""Say what is doubtful about the lungs that were found, in sentences for the user.

The sentences name neither file nor picture; whoever prints them does.
"""

import numpy as np

from input_pipeline.grey_values import anatomy_range
from input_pipeline.lungs.inside import fill_of_scan
from input_pipeline.lungs.left_right import LEFT, RIGHT
from input_pipeline.lungs.outlines import grown
from input_pipeline.lungs.threshold import SATURATED, TISSUE_HU, saturated_share

LUNG_WINDOW = "export the slice with a lung window, such as -1250 to 250 HU"
REMEDY = "look at the mask; `predict --lungs` takes a folder of masks, or unet:WEIGHTS"
NAMES = {RIGHT: "right", LEFT: "left"}
LEAST_OF_OTHER = 0.5  # of the other lung's volume with air; healthy ones differ by a fifth
LITRES = (0.8, 9.0)  # of both lungs of an adult, breathed out with disease to breathed in
SECTION = (0.1, 0.75)  # share of the chest's largest section that is lung
MOST_DENSE = 0.25  # of a lung as dense as tissue; vessels and hila are 5 to 10 %
CUT_ROWS = 0.1  # of the slices with lung in which it touches the edge of the field of view
CUT_SECTION = 0.4  # of the largest section; with more lung in an end slice the scan ends in it


def lung_doubts(
    labels: np.ndarray, voxels: np.ndarray, spacing: tuple[float, float, float] | None
) -> list[str]:
    """Return what is doubtful about the lung labels of a scan.

    Args:
        labels: `[slices, rows, columns]` lung labels: 0 none, 1 right, 2 left.
        voxels: `[slices, rows, columns]` HU; slices from the feet to the head.
        spacing: millimetres between (slices, rows, columns); None if unknown.

    Returns:
        One sentence for each doubt, with figure and remedy; an empty list if there is none.
    """
    if not labels.any():
        return [f"no lung found in {len(labels)} slices; {REMEDY}"]
    dense = dense_shares(labels, voxels)
    with_air = {
        side: float(np.count_nonzero(labels == side)) * (1 - dense.get(side, 0.0)) for side in NAMES
    }
    sections = np.count_nonzero(labels, axis=(1, 2))
    doubts = [
        *_missing(with_air, spacing),
        *_unlikely_size(labels, voxels, sections, spacing),
        *_cut_off(labels, voxels, sections),
    ]
    for side, share in dense.items():
        if share > MOST_DENSE:
            doubts.append(
                f"{share:.0%} of the {NAMES[side]} lung is as dense as muscle, where its shape "
                f"alone tells lung from other tissue: {1 - share:.0%} of it is sure; {REMEDY}"
            )
    return doubts


def dense_shares(labels: np.ndarray, voxels: np.ndarray) -> dict[int, float]:
    """Return which share of each lung is as dense as tissue, so that shape alone finds it.

    Args:
        labels: `[slices, rows, columns]` lung labels: 0 none, 1 right, 2 left.
        voxels: `[slices, rows, columns]` HU.

    Returns:
        By label, 0 to 1; lungs that are missing are left out.
    """
    size, dense = np.zeros(3), np.zeros(3)
    for plane, lung in zip(voxels, labels, strict=True):
        size += np.bincount(lung.ravel(), minlength=3)[:3]
        dense += np.bincount(lung[plane >= TISSUE_HU], minlength=3)[:3]
    return {side: float(dense[side] / size[side]) for side in (RIGHT, LEFT) if size[side]}


def picture_doubts(picture: np.ndarray, lung: np.ndarray) -> list[str]:
    """Return what is doubtful about the lung mask of an 8-bit slice.

    Args:
        picture: `[H, W]` uint8 grey values.
        lung: `[H, W]` its lung mask.

    Returns:
        One sentence for each doubt, with figure and remedy; an empty list if there is none.
    """
    if lung.any():
        return []
    return _black_lung(picture) or [f"no lung found; {REMEDY}, or leave the slice out"]


def grey_doubts(picture: np.ndarray) -> list[str]:
    """Return what is doubtful about the grey values of an 8-bit slice that anatomy is to map.

    Args:
        picture: `[H, W]` uint8 grey values.

    Returns:
        One sentence for each doubt, with figure and remedy; an empty list if there is none.
    """
    if anatomy_range(picture, (0.0, 1.0)) is None:
        return [
            f"grey values of lung and soft tissue were not found, so the slice was mapped by its "
            f"1st and 99th percentile and may look unlike the training slices; {LUNG_WINDOW}"
        ]
    return _black_lung(picture)


def _black_lung(picture: np.ndarray) -> list[str]:
    """Say if the window shows lung as one black."""
    share = saturated_share(picture)
    if share <= SATURATED:
        return []
    return [
        f"{share:.0%} of what may be lung has the darkest grey value, so this window cannot show "
        f"lung; {LUNG_WINDOW}"
    ]


def _missing(with_air: dict[int, float], spacing: tuple[float, float, float] | None) -> list[str]:
    """Say which lung is missing or much smaller than the other, by its voxels with air."""
    small, large = sorted(with_air, key=lambda side: with_air[side])
    if with_air[small] >= LEAST_OF_OTHER * with_air[large]:
        return []
    one, unit = (1.0, "voxels") if spacing is None else (float(np.prod(spacing)) / 1000, "mL")
    volumes = [f"{with_air[side] * one:.0f} {unit}" for side in (small, large)]
    return [
        f"the {NAMES[small]} lung is missing or much smaller than the other ({volumes[0]} with air "
        f"against {volumes[1]}): solid, collapsed, removed or outside the scan; {REMEDY}"
    ]


def _unlikely_size(
    labels: np.ndarray,
    voxels: np.ndarray,
    sections: np.ndarray,
    spacing: tuple[float, float, float] | None,
) -> list[str]:
    """Say if the lungs are unlikely large or small for the body, or for an adult."""
    largest = int(sections.argmax())
    body = np.count_nonzero((voxels[largest] >= TISSUE_HU) | (labels[largest] > 0))
    share = sections[largest] / body
    doubts = []
    if not SECTION[0] <= share <= SECTION[1]:
        doubts.append(
            f"the lungs are {share:.0%} of the chest where they are widest, expected "
            f"{SECTION[0]:.0%} to {SECTION[1]:.0%}; {REMEDY}"
        )
    if spacing is None:
        return doubts
    litres = float(sections.sum() * np.prod(spacing) / 1e6)
    whole = max(sections[0], sections[-1]) < CUT_SECTION * sections[largest]
    if litres > LITRES[1] or (whole and litres < LITRES[0]):
        doubts.append(
            f"the lungs have {litres:.2f} L, expected {LITRES[0]:g} to {LITRES[1]:g} L of an "
            f"adult; {REMEDY}"
        )
    return doubts


def _cut_off(labels: np.ndarray, voxels: np.ndarray, sections: np.ndarray) -> list[str]:
    """Say if the lungs reach beyond the field of view or the ends of the scan."""
    doubts = []
    with_lung = np.flatnonzero(sections)
    touching = sum(_touches_edge(labels[index] > 0, voxels[index]) for index in with_lung)
    if touching > CUT_ROWS * with_lung.size:
        doubts.append(
            f"the lungs touch the edge of the field of view in {touching} of {with_lung.size} "
            f"slices, so volumes and shares are of the part inside; reconstruct the scan with a "
            f"larger field if there is one"
        )
    ends = [sections[index] / sections.max() for index in (0, -1)]
    cut = [end for end, share in zip(("feet", "head"), ends, strict=True) if share > CUT_SECTION]
    if cut and len(labels) > 1:
        doubts.append(
            f"the scan ends within the lungs towards the {' and the '.join(cut)} "
            f"({max(ends):.0%} of their largest section in the last slice), so volumes are of the "
            f"part inside; name the whole series"
        )
    return doubts


def _touches_edge(lung: np.ndarray, plane: np.ndarray) -> bool:
    """Return whether the lung of a slice touches the picture's edge or the scanner's circle."""
    if any(side.any() for side in (lung[0], lung[-1], lung[:, 0], lung[:, -1])):
        return True
    fill = fill_of_scan(plane)
    return fill is not None and bool((lung & grown(fill, 4)).any())
