"""Compute lung masks of slices and scans from intensity and shape, without training.

Aerated lung and ground-glass are found because they are dark. Dense lesions at the pleura are as
bright as muscle; they are included because a lung is convex towards the chest wall. In a scan,
solid lung is also found by the other lung and by the ribs; in a lone slice a lobe that is
completely consolidated is missed. Such a slice may have any orientation: every step treats rows and
columns, and the four sides of the image, alike.
"""

import numpy as np

from input_pipeline.lungs.components import Components
from input_pipeline.lungs.dependent import add_dependent
from input_pipeline.lungs.inside import (
    GAS_HU,
    MIN_SHARE,
    content_box,
    dark_regions,
    darkened,
    fill_of_picture,
    fill_of_scan,
    gas_of_picture,
    picture_level,
    smoothed,
)
from input_pipeline.lungs.left_right import ALONE, LEFT, RIGHT, label_left_right, spine_column
from input_pipeline.lungs.outlines import (
    box_of,
    convex_hull,
    dilate,
    split_in_two,
    with_dense_parts,
)
from input_pipeline.lungs.symmetry import add_mirrored

TISSUE_HU = -200.0  # between ground-glass (above -700) and fat (about -100)
GAS_SHARE = 0.05  # of the body's pixels; a larger component is lung even if dark (emphysema)
SATURATED = 0.82  # in 8 bits: with this share of its pixels at the darkest value lung is not shown
CORE = 0.15  # in 8 bits: lung but not fat is below this share of the way to the level of tissue
LEAST_CORE = 0.2  # in 8 bits: of what may be lung; a smaller core is of airways
SATURATION = 2  # grey values by which the darkest value differs after compression
BLUR_MM = 1.0  # smoothing of a scan; one pixel, if that is less or the spacing is unknown
# Conditions that a connected component of a whole scan must meet to count as lung.
AERATED_HU = -500.0
MIN_AERATED = 0.3  # minimal share of its voxels below AERATED_HU; stool has fewer
MOST_STOOL_ML = 400.0  # a larger component is a lung full of ground-glass
PURE_GAS = 0.8  # with this share of its voxels below GAS_HU or more it is gas, however large
MIN_OF_LARGEST = 0.02  # minimal size as a share of the largest component that is lung
MIN_ML = 10.0  # minimal volume in millilitres


def threshold_lung_mask(image: np.ndarray, *, intensity: str, dilation: int) -> np.ndarray:
    """Compute the lung mask of one axial slice.

    A dark component that contains a corner of the image is air outside the body; a lung that a
    tight crop cuts off at a side of the image is kept. 8-bit slices must have the usual lung window
    (lung dark, fat and muscle bright).

    Args:
        image: `[H, W]` Hounsfield units (any signed dtype; values below -1024 count as air), or
            uint8 grey values.
        intensity: 'hu' or 'uint8', which of the two.
        dilation: pixels by which the mask is grown at the end, 0 or more.

    Returns:
        `[H, W]` uint8, 1 inside the lungs, without the airways outside them; all 0 if the slice
        holds no lung.

    Raises:
        ValueError: `intensity` is neither of the two.
    """
    if intensity not in ("hu", "uint8"):
        raise ValueError(f"intensity is {intensity!r}, expected 'hu' or 'uint8'")
    mask = np.zeros(image.shape, np.uint8)
    if intensity == "hu":
        smooth = smoothed(image)
        aerated = _aerated(smooth, TISSUE_HU, fill_of_scan(image), gas=GAS_HU, air=GAS_HU)
        if aerated.any():
            mask = with_dense_parts(smooth >= TISSUE_HU, split_in_two(aerated))
    else:
        box = content_box(image)
        mask[box] = _lungs_of_picture(image[box])
    return dilate(mask, dilation)


def volume_lung_mask(
    voxels: np.ndarray, *, spacing: tuple[float, float, float] | None, dilation: int
) -> np.ndarray:
    """Compute the lung mask of a whole scan.

    Each slice is treated as by `threshold_lung_mask`, but which connected components are lung is
    decided in the whole scan. Components that are small in one slice are kept if they belong to a
    lung; gas in the bowel, the windpipe above the lungs and hollow parts of the table are removed.
    In addition to the input, this needs two bytes per voxel and a few slices.

    Args:
        voxels: `[slices, rows, columns]` HU, int16 or float32; slices inferior to superior, columns
            from the patient's right to the left.
        spacing: millimetres between (slices, rows, columns); None if unknown.
        dilation: pixels by which the mask is grown in each slice at the end, 0 or more.

    Returns:
        `[slices, rows, columns]` uint8, 1 inside the lungs; all 0 if the scan holds no lung.
    """
    if len(voxels) == 1:  # there are no neighbouring slices to decide by
        return threshold_lung_mask(voxels[0], intensity="hu", dilation=dilation)[None]
    mask = np.zeros(voxels.shape, np.uint8)
    blur = 1.0 if spacing is None else min(1.0, BLUR_MM / max(spacing[1:]))
    _keep_lungs(mask, voxels, blur, spacing)
    lung_labels = label_left_right(mask, voxels)
    middle = _middle_of_one_lung(lung_labels, voxels)
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        lung = _lung_of_slice(voxels[index], blur, lung_labels[index], middle)
        mask[index] = lung
    completed = add_mirrored(mask, lung_labels, voxels, level=TISSUE_HU, spacing=spacing)
    if spacing is not None:
        sides = [side for side in (RIGHT, LEFT) if side != completed]
        add_dependent(mask, lung_labels, voxels, sides=sides, level=TISSUE_HU, spacing=spacing)
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        mask[index] = dilate(mask[index], dilation)
    return mask


def saturated_share(picture: np.ndarray) -> float:
    """Return how much of what may be lung in an 8-bit slice has the darkest grey value.

    A soft-tissue window shows lung, with what is in it, as one black.

    Args:
        picture: `[H, W]` uint8.

    Returns:
        A share from 0 to 1; 0 if nothing may be lung.
    """
    content = picture[content_box(picture)]
    aerated, smooth, level = _aerated_of_picture(content)
    return _saturated(content, aerated, smooth, level) if aerated.any() else 0.0


def lung_and_tissue(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the grey values of aerated lung, and of tissue, in an 8-bit slice.

    Args:
        picture: `[H, W]` uint8; lung may be one black.

    Returns:
        `[lung pixels]` and `[tissue pixels]` float32, smoothed; both empty if the slice holds no
        lung. Neither has pixels of bars or of a fill around the content.
    """
    content = picture[content_box(picture)]
    aerated, smooth, level = _aerated_of_picture(content)
    return (smooth[aerated], smooth[smooth >= level]) if aerated.any() else (smooth[:0, 0],) * 2


def _lungs_of_picture(picture: np.ndarray) -> np.ndarray:
    """Return the lung mask of an 8-bit slice without bars around it, `[H, W]` uint8."""
    aerated, smooth, level = _aerated_of_picture(picture)
    if not aerated.any() or _saturated(picture, aerated, smooth, level) > SATURATED:
        return np.zeros(picture.shape, np.uint8)
    return with_dense_parts(smooth >= level, split_in_two(aerated))


def _saturated(picture: np.ndarray, aerated: np.ndarray, smooth: np.ndarray, level: float) -> float:
    """Return the share of the dark core of the aerated parts that has the darkest grey value."""
    darkest = float(picture.min())
    core = aerated & (smooth <= darkest + CORE * (level - darkest))
    if np.count_nonzero(core) < LEAST_CORE * np.count_nonzero(aerated):
        return 0.0
    return float(np.mean(picture[core] <= darkest + SATURATION))


def _aerated_of_picture(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return where an 8-bit slice shows aerated lung, the slice smoothed, and tissue's level."""
    fill = fill_of_picture(picture)
    if fill is not None and (dark := darkened(picture, fill)) is not picture:
        smooth = smoothed(dark)
        level = picture_level(smooth[~fill])
    else:
        smooth = smoothed(picture)
        level = picture_level(smooth)
    return _aerated(smooth, level, fill, gas=-np.inf, air=np.inf), smooth, level


def _aerated(
    smooth: np.ndarray, level: float, fill: np.ndarray | None, *, gas: float, air: float
) -> np.ndarray:
    """Return the dark components inside the body that are large enough for a lung and not gas."""
    labels, index, body = dark_regions(smooth, level, fill=fill, air=air, alone=True)
    if air == np.inf:
        gas = gas_of_picture(
            smooth, level, (labels == 0) if fill is None else (labels == 0) & ~fill
        )
    sizes = np.bincount(labels.ravel())
    lung = [
        i
        for i in index
        if sizes[i] >= GAS_SHARE * body
        or (sizes[i] >= MIN_SHARE * body and np.percentile(smooth[labels == i], 10) >= gas)
    ]
    return np.isin(labels, lung)


def _keep_lungs(
    mask: np.ndarray,
    voxels: np.ndarray,
    blur: float,
    spacing: tuple[float, float, float] | None,
) -> None:
    """Set `mask` to 1 in the aerated parts of the lungs.

    Args:
        mask: `[slices, rows, columns]` zeros; changed in place.
        voxels: `[slices, rows, columns]` HU.
        blur: standard deviation of the smoothing in pixels.
        spacing: millimetres between (slices, rows, columns); None if unknown.
    """
    # Of each region of a slice: pixels, pixels of gas, aerated pixels, share of the body's pixels.
    regions = [np.zeros((4, 0))]
    for index, image in enumerate(voxels):
        smooth = smoothed(image, blur)
        fill = fill_of_scan(image)
        labels, numbers, body = dark_regions(smooth, TISSUE_HU, fill=fill, air=GAS_HU, alone=False)
        counts = [
            np.bincount(labels[inside], minlength=labels.max() + 1)[numbers]
            for inside in (labels > 0, smooth < GAS_HU, smooth < AERATED_HU)
        ]
        size, gas = counts[0], counts[1]
        lung = (size >= GAS_SHARE * body) | (gas <= 0.1 * size)
        mask[index] = np.isin(labels, numbers[lung])
        regions.append(np.stack([*counts, size / max(body, 1)])[:, lung])
    components = Components(mask)
    lung = _are_lungs(components, np.concatenate(regions, axis=1), spacing)[components.of_region]
    chosen = np.concatenate([[False], lung])
    for index in range(len(mask)):
        mask[index] = chosen[components.labels(index)]


def _are_lungs(
    components: Components, regions: np.ndarray, spacing: tuple[float, float, float] | None
) -> np.ndarray:
    """Return which components are lungs.

    Args:
        components: connected components of the scan.
        regions: `[4, regions]` of each region of a slice: pixels, pixels of gas, aerated pixels,
            share of the body's pixels.
        spacing: millimetres between (slices, rows, columns); None if unknown.

    Returns:
        `[count]` bool.
    """
    size, gas, aerated = (components.totals(row) for row in regions[:3])
    section = np.zeros(components.count)
    np.maximum.at(section, components.of_region, regions[3])
    lung = (section >= MIN_SHARE) & (gas < PURE_GAS * size)
    filled = aerated >= MIN_AERATED * size
    if spacing is not None:
        volume = size * np.prod(spacing) / 1000.0
        filled |= volume >= MOST_STOOL_ML
        lung &= volume >= MIN_ML
    lung &= filled
    largest = size[lung].max(initial=0.0)
    return lung & (size >= MIN_OF_LARGEST * largest)


def _middle_of_one_lung(lung_labels: np.ndarray, voxels: np.ndarray) -> float | None:
    """Return the column of the spine if the scan holds one lung, or the tip of another, only."""
    sizes = [np.count_nonzero(lung_labels == side) for side in (RIGHT, LEFT)]
    if min(sizes) > (1 - ALONE) * max(sizes):
        return None
    return spine_column(lung_labels > 0, voxels)


def _lung_of_slice(
    plane: np.ndarray, blur: float, lung_labels: np.ndarray, middle: float | None
) -> np.ndarray:
    """Return the lung mask of one slice of a scan.

    Args:
        plane: `[rows, columns]` HU.
        blur: standard deviation of the smoothing in pixels.
        lung_labels: `[rows, columns]` lung labels of the aerated parts, not all 0.
        middle: column of the spine if the scan holds one lung only; else None.

    Returns:
        `[rows, columns]` uint8, 1 inside the lungs.
    """
    smooth, fill = smoothed(plane, blur), fill_of_scan(plane)
    dark = dark_regions(smooth, TISSUE_HU, fill=fill, air=GAS_HU, alone=False)[0] > 0
    other_gas = dark & (lung_labels == 0)
    solid = (smooth >= TISSUE_HU) | other_gas
    box = box_of(lung_labels > 0, margin=2)
    labels = lung_labels[box]
    # The chest wall is as thick as an organ, so only tissue between the lungs is considered.
    inside = convex_hull(labels > 0) & solid[box]
    lung = np.zeros(lung_labels.shape, np.uint8)
    middle = None if middle is None else middle - box[1].start
    lung[box] = with_dense_parts(inside, (labels == RIGHT, labels == LEFT), middle)
    return lung
