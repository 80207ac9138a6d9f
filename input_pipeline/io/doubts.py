"""Check the voxels of a scan against what was stated of them; the only place where this is done.

A doubt is one sentence with a figure and a remedy. Nothing here refuses or changes a scan: readers
add the doubts to `Scan.notes`, and every command that reads prints them.
"""

import numpy as np

from input_pipeline.preprocess import HU_WINDOW, windowed

WINDOW = f"{HU_WINDOW[0]:g}..{HU_WINDOW[1]:g} HU"
STATE_WINDOWED = (
    "state its intensity as 'windowed' (--intensity windowed; for `prepare folder` in dataset.json)"
)
EXPORT = "export the original series, not a picture of it"  # DICOM is always in HU
LOOKS_WINDOWED = "all values lie in 0..255, as in a scan windowed to 8 bits"
ONLY_SCALES = "the affine only scales"  # the orientation is a default, the sizes are not
STEP = 4  # along each axis of the subsample that is looked at
SHORT = 64  # voxels; a shorter axis is looked at whole
FEWEST = 1000  # voxels; smaller arrays show no peaks
ENOUGH = 0.02  # share of the voxels that makes air or soft tissue plausible
# Hounsfield units that hold air or lung, and soft tissue with fat, in any scan of a chest.
AIR, TISSUE = (-1100.0, -600.0), (-200.0, 150.0)
# Those of the peaks of air and of soft tissue, by which an offset is found.
AIR_PEAK, TISSUE_PEAK = (-1030.0, -960.0), (-20.0, 80.0)
BIN = 10.0  # HU
FURTHEST = 4100.0  # HU; no larger offset is looked for
USUAL_OFFSET = 1024  # 12 bits; it may be applied twice
NEAR_OFFSET = 60.0  # HU; an offset that differs by less is called by its usual value
NORMALISED = 50.0  # a range of values as small as this is no longer in HU
MOST_WITHOUT_AIR = -300.0  # HU; a scan whose lowest value is above this holds no air
SCALES = (1000.0, 100.0, 10.0, 2.0, 0.5, 0.1)  # that values may be short of


def value_doubts(voxels: np.ndarray, intensity: str, *, states_hu: bool = False) -> list[str]:
    """Return what speaks against the stated intensity, in one pass over a part of the voxels.

    Args:
        voxels: `[slices, rows, columns]` in the orientation of `Scan.voxels` or of any file.
        intensity: 'hu', or 'uint8' for grey values 0 to 255 of the window -1250 to 250 HU.
        states_hu: whether the format states HU (DICOM), so that the user can state nothing else.

    Returns:
        At most one sentence, the most likely reason.
    """
    low, high = float(voxels.min()), float(voxels.max())
    sample = _sample(voxels)
    if sample.size < FEWEST:
        doubt = _of_range(low, high, states_hu) if intensity == "hu" else ""
        if intensity == "hu" and low >= 0:
            doubt = doubt or _without_air(low)
    elif low == high:
        doubt = f"all voxels are {low:g}, expected a scan; export it again"
    elif _is_inverted(sample):
        doubt = (
            f"the outside is bright and the body dark, as in inverted grey values (lungs bright); "
            f"invert them: {255 if intensity == 'uint8' else low + high:g} minus each value"
        )
    elif intensity == "hu":
        doubt = _of_range(low, high, states_hu) or _of_peaks(sample, low)
    else:
        doubt = _of_grey(sample, high)
    return [doubt] if doubt else []


def orientation_doubt(affine: np.ndarray, sizes: np.ndarray) -> str:
    """Return the doubt that an affine is only a program's default; '' if a scanner may have set it.

    Args:
        affine: `[4, 4]` from voxel indices to right, front, head.
        sizes: the header's own voxel sizes; NaN where unknown.
    """
    matrix, found = affine[:3, :3], np.linalg.norm(affine[:3, :3], axis=0)
    if affine[:3, 3].any() or np.count_nonzero(matrix) != 3 or (np.diag(matrix) == 0).any():
        return ""
    if (found == 1).all():
        name = "the identity" if (np.diag(matrix) > 0).all() else "1 mm along every axis"
        what = f"the affine is {name}, with the origin at 0: voxels of 1 mm and the orientation are"
        sizes_too = ", and correct the voxel sizes if they are not 1 mm"
    elif (np.diag(matrix) > 0).all() or (sizes == 1).all():
        what, sizes_too = f"{ONLY_SCALES}, with the origin at 0: the orientation is", ""
    else:
        return ""
    return (
        f"{what} a program's default, so left and right are not known; state where the file's axes "
        f"point to, for instance --axes LPS{sizes_too}"
    )


def _sample(voxels: np.ndarray) -> np.ndarray:
    """Return every fourth voxel along each long axis; a view."""
    return voxels[tuple(slice(None, None, STEP if n >= SHORT else 1) for n in voxels.shape)]


def _of_range(low: float, high: float, states_hu: bool) -> str:
    """Return the doubt that the range alone of values stated as HU gives."""
    remedy = EXPORT if states_hu else f"if it is one, {STATE_WINDOWED}"
    if low < 0:
        return ""
    if high <= 1:
        return f"all values lie in 0..1, as in a scan windowed to fractions of {WINDOW}; {remedy}"
    if high <= 255:
        return f"{LOOKS_WINDOWED}; {remedy}"
    return ""


def _of_peaks(sample: np.ndarray, low: float) -> str:
    """Return the doubt that the peaks of air and soft tissue give of values stated as HU."""
    # A constant outside (padding, or air cut off) is no air of the scan's own scale.
    inside = sample[sample > low] if np.mean(sample == low) > ENOUGH / 2 else sample
    if not inside.size or min(_share(inside, AIR), _share(inside, TISSUE)) >= ENOUGH:
        return ""
    offset = _offset(inside)
    if offset is None:
        offset = _offset(sample)
    if offset:
        word, undo = ("plus", "subtract it from") if offset > 0 else ("minus", "add it to")
        return (
            f"air lies near {offset - 1000} and soft tissue near {offset + 40}, so the values may "
            f"be Hounsfield units {word} an offset of about {abs(offset)}; {undo} the values (or "
            f"change the file's intercept)"
        )
    if offset == 0:
        return ""
    for scale in SCALES:
        if _offset(inside * np.float32(scale)) == 0:
            return (
                f"air lies near {-1000 / scale:g} and soft tissue near {40 / scale:g}, so the "
                f"values may be in another unit; multiply them by {scale:g} to get Hounsfield units"
            )
    if sample.max() - low <= NORMALISED:
        return (
            f"all values lie in {low:.3g}..{sample.max():.3g}, as in a normalised scan, expected "
            f"Hounsfield units from about -1000 (air); export the scan before its normalisation"
        )
    return _without_air(low) if low > MOST_WITHOUT_AIR else ""


def _without_air(low: float) -> str:
    """Return the doubt that the lowest value gives where there is no peak to see."""
    return (
        f"no value is below {low:g}, so there is no air (-1000) and no lung; if it is a chest, the "
        f"values may be Hounsfield units plus an offset, such as 1024: export them again"
    )


def _offset(values: np.ndarray) -> int | None:
    """Return the offset from HU at which both air and soft tissue have a peak; None without one.

    Nothing may lie below that air: with inverted values bone would.
    """
    edges = np.arange(-2 * FURTHEST, 2 * FURTHEST + BIN, BIN)
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    below = np.concatenate([[0], np.cumsum(counts)]) / values.size
    offsets = np.arange(-FURTHEST, FURTHEST + BIN, BIN)

    def at(hu: float) -> np.ndarray:
        return below[np.searchsorted(edges, offsets + hu)]

    air, tissue = (at(band[1]) - at(band[0]) for band in (AIR_PEAK, TISSUE_PEAK))
    both = np.where(at(AIR[0]) < ENOUGH / 2, np.minimum(air, tissue), 0)
    if both.max() < ENOUGH:
        return None
    found = float(np.median(offsets[both >= 0.9 * both.max()]))
    usual = round(found / USUAL_OFFSET) * USUAL_OFFSET
    return usual if abs(found - usual) <= NEAR_OFFSET else round(found / BIN) * int(BIN)


def _of_grey(sample: np.ndarray, high: float) -> str:
    """Return the doubt that grey values 0 to 255 give."""
    if high <= 16:
        return (
            f"the largest grey value is {high:g}, as in a label map, expected a scan windowed to "
            f"0..255; name the scan itself"
        )
    inside = sample[(sample > sample.min()) & (sample < 255)]
    air, tissue = (tuple(windowed(np.array(band)).tolist()) for band in (AIR, TISSUE))
    if inside.size and min(_share(inside, air), _share(inside, tissue)) < ENOUGH:
        return (
            f"grey values are rarely {air[0]} to {air[1]} (air, lung) or {tissue[0]} to "
            f"{tissue[1]} (soft tissue), so the window may not be {WINDOW}; export the scan with "
            f"that window (level -500, width 1500), or in HU for --intensity hu"
        )
    return ""


def _is_inverted(sample: np.ndarray) -> bool:
    """Say whether the corners, outside the patient, are the brightest and the middle is dark.

    Between the lungs the middle of a chest is tissue. The corners' own value does not count as the
    brightest of the body, as they may hold padding of any value.
    """
    rows, columns = sample.shape[1:]
    if min(rows, columns) < 16:
        return False
    y, x = max(1, rows // 12), max(1, columns // 12)
    ends = [(a, b) for a in (slice(y), slice(-y, None)) for b in (slice(x), slice(-x, None))]
    corner = float(np.median([np.median(sample[:, a, b]) for a, b in ends]))
    spine = slice(columns * 45 // 100, columns * 55 // 100 + 1)
    middle = float(np.median(sample[:, rows * 3 // 10 : rows * 7 // 10, spine]))
    others = sample[sample != corner]
    if not others.size:
        return False
    dark, bright = np.percentile(others, (1, 99))
    span = float(bright - dark)
    brighter = np.mean(sample > corner + 0.06 * span)
    return bool(
        span > 0
        and corner > dark + 0.75 * span
        and middle < dark + 0.35 * span
        and brighter < ENOUGH / 2
    )


def _share(values: np.ndarray, band: tuple[float, ...]) -> float:
    """Return the share of the values that lie in a band, its ends included."""
    return float(np.mean((values >= band[0]) & (values <= band[1]))) if values.size else 0.0
