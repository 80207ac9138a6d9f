"""Find the dark regions of a slice that lie inside the body, whatever surrounds it.

A slice may show the whole body with a table under it, in a circle that a program has filled with
black, grey or white, or be a tight crop whose lungs are cut off at its sides.
"""

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from input_pipeline.lungs.outlines import convex_hull, grown, opening

AIR_HU = -1024.0  # lower values, which mark the outside of the scan, count as this one
GAS_HU = -925.0  # air outside the body and bowel gas are below this
TISSUE_FRACTION = 0.78  # in 8 bits: the level of -200 HU, between the medians of lung and of tissue
AIRY = 0.2  # of a region outside the body, clothes and table included, is below GAS_HU
GAS_FRACTION = (GAS_HU + 1000) / 800  # of the way from air to the level of -200 HU
MAX_DARKNESS = 0.65  # in 8 bits: lung is darker than this share of its tissue, else there is none
MIN_SHARE = 0.01  # of the body's pixels; smaller dark components are airways and bowel gas
BAR = 0.9  # a row or column of a bar around a picture has one value in more than this share of it
BAR_TOLERANCE = 2  # grey values by which that value differs after compression; air varies more
FILL_TOLERANCE = 8  # grey values by which a constant differs after compression (JPEG)
CONSTANT = 0.75  # of the fill has one value, give or take 1; tissue varies more
FILL_SHARE = 0.01  # of the pixels; less constant at the corners is no fill
FRINGE = 4  # pixels beside the fill that compression (JPEG) has changed
NOT_CONVEX = 0.1  # of a content's hull; with more of the constant in it, this is tissue, no fill
SURROUNDED = 0.1  # of the pixels; with less outside the body the picture is a tight crop
DARK = 5.0  # percentile of the content's grey values that a bright fill is replaced by
FILL_RIM = 2  # pixels beside the fill that smoothing has mixed with it
TABLE = 0.012  # of the picture's longer side; what a disc of this radius does not fit in is no body
COARSE = 128  # pixels of the longer side at which the body's hull is computed
BODY_PARTS = 0.02  # of the largest part; smaller ones are cables, the table or an arm's section


def picture_level(values: np.ndarray) -> float:
    """Return the grey value between lung with ground-glass and tissue.

    Args:
        values: grey values, smoothed; any shape.

    Returns:
        A grey value; -inf if there is no lung.
    """
    if np.ptp(values) == 0:
        return -np.inf
    middle = threshold_otsu(values)
    dark, bright = np.median(values[values <= middle]), np.median(values[values > middle])
    if dark > MAX_DARKNESS * bright:
        return -np.inf
    return float(dark + TISSUE_FRACTION * (bright - dark))


def gas_of_picture(smooth: np.ndarray, level: float, outside: np.ndarray) -> float:
    """Return the grey value of -925 HU, from the air around the patient and the level of tissue.

    Args:
        smooth: `[H, W]` grey values, smoothed.
        level: the grey value of -200 HU.
        outside: `[H, W]` bool, true where no lung may be, but in fill.

    Returns:
        A grey value; -inf if little air is seen, as in a tight crop.
    """
    air = smooth[outside & (smooth < level)]
    if air.size < SURROUNDED * smooth.size:
        return -np.inf
    dark = float(np.median(air))
    return dark + GAS_FRACTION * (level - dark)


def darkened(picture: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """Return a picture whose fill is as dark as the air or the lung in it.

    Args:
        picture: `[H, W]` uint8.
        fill: `[H, W]` bool, the constant around the content.

    Returns:
        `[H, W]` uint8; the picture itself if the fill is dark already.
    """
    rim = grown(fill, FILL_RIM)
    dark = np.percentile(picture[~rim], DARK)
    return picture if np.median(picture[fill]) <= dark else np.where(rim, np.uint8(dark), picture)


def smoothed(image: np.ndarray, pixels: float = 1.0) -> np.ndarray:
    """Return the image as float32, smoothed by a Gaussian of this standard deviation in pixels."""
    return ndimage.gaussian_filter(np.maximum(image.astype(np.float32), AIR_HU), pixels)


def content_box(picture: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and columns of a picture without the bars of one value around them.

    Args:
        picture: `[H, W]` uint8.

    Returns:
        The box of the content; the whole picture if it has none.
    """
    box = [slice(0, size) for size in picture.shape]
    for axis in (0, 1):
        lines = np.moveaxis(picture[tuple(box)], axis, 0).astype(np.int16)
        if not lines.size:
            break
        near = np.abs(lines - lines[0, 0]) <= BAR_TOLERANCE
        content = np.flatnonzero(near.mean(axis=1) < BAR)
        if not content.size:
            return slice(0, picture.shape[0]), slice(0, picture.shape[1])
        box[axis] = slice(int(content[0]), int(content[-1]) + 1)
    return box[0], box[1]


def fill_of_picture(picture: np.ndarray) -> np.ndarray | None:
    """Find the constant, of any value, that surrounds the content of a picture.

    The content is convex: a circle, or what is left of a turned picture. Tissue that a window shows
    as one value surrounds lungs that are not.

    Args:
        picture: `[H, W]` uint8.

    Returns:
        `[H, W]` bool, true in the fill; None if there is none.
    """
    corners = picture[[0, 0, -1, -1], [0, -1, 0, -1]].astype(np.int16)
    like = np.abs(corners[:, None] - corners) <= FILL_TOLERANCE
    if like.sum(axis=1).max() < 2:
        return None
    value = corners[like.sum(axis=1).argmax()]
    away = np.abs(picture.astype(np.int16) - value)
    fill = _at_corners(away <= FILL_TOLERANCE)
    size = np.count_nonzero(fill)
    if size < FILL_SHARE * picture.size or np.count_nonzero(away[fill] <= 1) < CONSTANT * size:
        return None
    content = grown(~grown(fill, FRINGE), FRINGE)
    if not content.any():
        return None
    hull = convex_hull(content)
    if np.count_nonzero(hull & fill) > NOT_CONVEX * hull.sum():
        return None
    return ~hull & grown(fill, FRINGE)


def _at_corners(mask: np.ndarray) -> np.ndarray:
    """Return the components of a mask that contain a corner of the image."""
    labels, count = ndimage.label(mask)
    chosen = np.zeros(count + 1, bool)
    chosen[labels[np.ix_((0, -1), (0, -1))]] = True
    chosen[0] = False
    return chosen[labels]


def fill_of_scan(plane: np.ndarray) -> np.ndarray | None:
    """Find the outside of a slice in HU, which the readers set to air.

    Args:
        plane: `[rows, columns]` HU.

    Returns:
        `[rows, columns]` bool, true outside; None if the corners are inside.
    """
    if (plane[[0, 0, -1, -1], [0, -1, 0, -1]] > AIR_HU).all():
        return None
    return _at_corners(plane <= AIR_HU)


def dark_regions(
    smooth: np.ndarray,
    level: float,
    *,
    fill: np.ndarray | None,
    air: float,
    alone: bool,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Find the dark components inside the body.

    Args:
        smooth: `[H, W]` HU or grey values, smoothed.
        level: what is below it is dark.
        fill: `[H, W]` bool, the outside of the scan if it is known.
        air: a component at a corner or beside the fill is outside if a good part of it is below
            this; a lung that fills a corner of a cropped scan is not. Infinite if unknown.
        alone: whether there is only this slice to decide by; then a component that lies for the
            most part beside the body (under the table, in front of the chest) is outside.

    Returns:
        `[H, W]` number of the component of each pixel (0 for other pixels), the numbers that occur,
        and the number of pixels of the body.
    """
    dark = smooth < level
    bright = ~dark
    if fill is not None:
        rim = grown(fill, FILL_RIM)
        dark, bright = dark & ~rim, bright & ~rim
    labels, count = ndimage.label(dark)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    outside = np.zeros(count + 1, bool)
    outside[labels[np.ix_((0, -1), (0, -1))]] = True
    if fill is not None and air < np.inf:
        outside[labels[grown(rim, 1) & dark]] = True
    airy = np.bincount(labels[smooth < air], minlength=count + 1) >= AIRY * sizes
    outside &= airy
    around = sizes[outside].sum()
    fringe = 0 if fill is None else int(rim.sum())
    body = int(smooth.size - sizes[outside].sum()) - fringe
    if alone and (fill is not None or around >= SURROUNDED * smooth.size):
        beside = ~outside & (sizes >= MIN_SHARE / 2 * body)
        if beside.any():
            inside = np.bincount(labels[_body_hull(bright)], minlength=count + 1)
            outside |= beside & (2 * inside < sizes)
            body = int(smooth.size - sizes[outside].sum()) - fringe
    outside[0] = True
    labels[outside[labels]] = 0
    return labels, np.flatnonzero(~outside), body


def _body_hull(bright: np.ndarray) -> np.ndarray:
    """Return the convex hull of the body, without the table and cables.

    Args:
        bright: `[H, W]` bool, true in tissue, bone and the table.
    """
    step = max(1, max(bright.shape) // COARSE)
    coarse = bright[::step, ::step]
    labels, count = ndimage.label(opening(coarse, TABLE * max(coarse.shape)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    if not count:
        return np.zeros(bright.shape, bool)
    hull = convex_hull((sizes >= BODY_PARTS * sizes.max())[labels] & (labels > 0))
    rows, columns = bright.shape
    return np.repeat(np.repeat(hull, step, 0), step, 1)[:rows, :columns]
