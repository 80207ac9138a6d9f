"""Segmentation metrics of one case on its own grid, in two separate blocks (section 4.2).

`standard` is the headline: Dice at 0.5, and HD95 and NSD of the package `surface-distance` (surface
elements weighted by their length or area), in millimetres where the spacing is known, else in
pixels, as `unit` states. A case without lesion in truth and prediction is excluded from the means
and counted; a missed lesion or a false alarm counts in every mean with the worst value.
`paper_compat` is what the paper's text and its authors' evaluator compute, for comparison with the
paper's tables alone.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

import numpy as np
import surface_distance
from scipy import ndimage

Outcome = Literal["scored", "both_empty", "miss", "false_alarm"]

_COMPAT_TOLERANCE = 3.0  # pixels
_COMPAT_FACTOR = 0.95  # the paper's "multiplied by 95%"


class CaseMetrics(TypedDict):
    """The `standard` block of one case.

    Attributes:
        dsc: Dice coefficient in [0, 1]; None where both masks are empty, as the next three.
        hd95: 95th percentile of the Hausdorff distance, in `unit`.
        nsd: normalised surface Dice in [0, 1].
        mae: share of wrong pixels in [0, 1].
        unit: of distances, "mm", or "px" where the spacing is unknown.
        tolerance: of NSD, in `unit`.
        outcome: "scored", "both_empty", "miss" (empty prediction) or "false_alarm" (empty truth).
        intersection: pixels that truth and prediction share.
        truth_size: pixels of the truth.
        prediction_size: pixels of the prediction.
    """

    dsc: float | None
    hd95: float | None
    nsd: float | None
    mae: float | None
    unit: Literal["mm", "px"]
    tolerance: float
    outcome: Outcome
    intersection: int
    truth_size: int
    prediction_size: int


class CaseRow(TypedDict):
    """The metrics of one case and class, see `summary.summarize`.

    Attributes:
        case: name of the slice or volume.
        patient: of the case.
        class_name: of the class.
        standard: block of metrics.
        paper_compat: block of metrics, for 2-D cases alone.
    """

    case: str
    patient: str
    class_name: str
    standard: CaseMetrics
    paper_compat: NotRequired[dict[str, float]]


def dice_score(truth: np.ndarray, prediction: np.ndarray) -> float | None:
    """Compute the Dice similarity coefficient of two masks (equation 10).

    Args:
        truth: boolean `[H, W]` or `[D, H, W]`.
        prediction: boolean, same shape.

    Returns:
        2 |G and S| / (|G| + |S|) in [0, 1]; None where both masks are empty.

    Raises:
        ValueError: shapes differ, are not 2-D or 3-D, or a mask is not boolean.
    """
    _check_masks(truth, prediction)
    total = int(truth.sum()) + int(prediction.sum())
    return 2 * int((truth & prediction).sum()) / total if total else None


def case_metrics(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    spacing: Sequence[float] | None,
    tolerance: float = 3.0,
) -> CaseMetrics:
    """Compute the `standard` block of one slice or volume.

    HD95 is the larger of the two directed 95th percentiles, and NSD the share of both surfaces
    within `tolerance` of the other (Nikolov et al., 2018; equation 13), both weighted by the length
    (2-D) or area (3-D) of each surface element. MAE is the share of wrong pixels (equation 12).
    Where one mask is empty, DSC and NSD are 0 and HD95 is the image's diagonal.

    Args:
        truth: boolean `[H, W]` or `[D, H, W]`.
        prediction: boolean, same shape.
        spacing: mm along each axis of the arrays (row before column), or None where it is
            unknown: `hd95` and `tolerance` are then in pixels and `unit` is "px".
        tolerance: of NSD, in `unit`, more than 0.

    Returns:
        The block.

    Raises:
        ValueError: shapes differ or are not 2-D or 3-D, a mask is not boolean, `spacing` does not
            have one positive number for each axis, or `tolerance` is not positive.
    """
    _check_masks(truth, prediction)
    scale = _check_spacing(spacing, truth.ndim)
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(
            f"tolerance is {tolerance}; expected a positive distance in mm (or pixels)"
        )
    sizes = int(truth.sum()), int(prediction.sum())
    outcome = _outcome(*sizes)
    dsc, hd95, nsd = _overlap_and_surface(truth, prediction, outcome, scale, tolerance)
    return {
        "dsc": dsc,
        "hd95": hd95,
        "nsd": nsd,
        "mae": None if outcome == "both_empty" else float((truth ^ prediction).mean()),
        "unit": "px" if spacing is None else "mm",
        "tolerance": float(tolerance),
        "outcome": outcome,
        "intersection": int((truth & prediction).sum()),
        "truth_size": sizes[0],
        "prediction_size": sizes[1],
    }


def paper_compat_metrics(
    truth: np.ndarray, prediction: np.ndarray, probability: np.ndarray
) -> dict[str, float]:
    """Compute the `paper_compat` block of one slice, in pixels; its means are over all slices.

    Args:
        truth: boolean `[H, W]`.
        prediction: boolean `[H, W]`.
        probability: float `[H, W]` in [0, 1], the map that `prediction` was derived from.

    Returns:
        By name:

        - 'dsc': equation 10; both empty 1, one empty 0.
        - 'hausdorff': equation 11 over all pixels of the masks, times 0.95; both empty 0, one empty
          0.95 of the image's diagonal.
        - 'hausdorff_rows': what the authors' evaluator computes, equation 11 with the H rows of
          each mask as points of a W-dimensional space, times 0.95; defined for empty masks too (a
          row of zeros is a point; both empty 0).
        - 'mae': equation 12 with the probability as S.
        - 'nsd': equation 13 over boundary pixels (mask pixels that touch the background or the
          image's border along an axis) with a tolerance of 3 pixels; both empty 1, one empty 0.

    Raises:
        ValueError: shapes differ or are not 2-D, a mask is not boolean, or the probability is
            not finite or outside [0, 1].
    """
    _check_masks(truth, prediction)
    _check_probability(probability, truth)
    outcome = _outcome(int(truth.sum()), int(prediction.sum()))
    dsc = dice_score(truth, prediction)
    return {
        "dsc": 1.0 if dsc is None else dsc,
        "hausdorff": _COMPAT_FACTOR * _pixel_hausdorff(truth, prediction, outcome),
        "hausdorff_rows": _COMPAT_FACTOR * _row_hausdorff(truth, prediction),
        "mae": float(np.abs(probability.astype(np.float64) - truth).mean()),
        "nsd": _boundary_nsd(truth, prediction, outcome),
    }


def threshold_mean_dice(truth: np.ndarray, probability: np.ndarray) -> float:
    """Average the Dice over 256 thresholds, as Inf-Net's evaluator reports on COVID-SemiSeg.

    The map is rounded to 8 bits (Inf-Net scores saved pictures) and its range is stretched to
    0..255, unless it is constant. The thresholds are k/255, a pixel at the threshold counts as
    lesion, and a threshold without a true positive has Dice 0, so an empty truth gives 0.

    Args:
        truth: boolean `[H, W]`.
        probability: float `[H, W]` in [0, 1].

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: as `paper_compat_metrics`.
    """
    _check_masks(truth, truth)
    _check_probability(probability, truth)
    gray = np.rint(probability.astype(np.float64) * 255)
    low, span = gray.min(), np.ptp(gray)
    level = np.floor((gray - low) * 255 / span if span else gray).astype(np.int64)
    at_least = np.bincount(level.ravel(), minlength=256)[::-1].cumsum()
    hits = np.bincount(level[truth], minlength=256)[::-1].cumsum()
    total = at_least + int(truth.sum())
    return float(np.divide(2 * hits, total, out=np.zeros(256), where=total > 0).mean())


def case_rows(
    truth: np.ndarray,
    prediction: np.ndarray,
    probability: np.ndarray | None = None,
    *,
    case: str,
    patient: str,
    class_names: Sequence[str],
    spacing: Sequence[float] | None,
    tolerance: float = 3.0,
) -> list[CaseRow]:
    """Compute both blocks of each class from the label maps of a case.

    Args:
        truth: integer `[H, W]` or `[D, H, W]`; 0 background, i the class `class_names[i - 1]`.
        prediction: as `truth`.
        probability: float `[H, W, len(class_names)]` in [0, 1], without the background's
            channel. Without it, and for volumes, which the paper does not score, there is no
            `paper_compat`.
        case: name of the slice or volume.
        patient: of the case; the bootstrap resamples patients.
        class_names: names of the classes 1, 2, ...; for one class ("lesion",).
        spacing: see `case_metrics`.
        tolerance: see `case_metrics`.

    Returns:
        A row for each class.

    Raises:
        ValueError: as `case_metrics` and `paper_compat_metrics`, a label outside
            0..len(class_names), or a probability of another shape.
    """
    for name, labels in (("truth", truth), ("prediction", prediction)):
        _check_labels(labels, f"{name} of {case}", len(class_names))
    if probability is not None and probability.shape != (*truth.shape, len(class_names)):
        raise ValueError(
            f"probability of {case} has shape {list(probability.shape)}, expected "
            f"{[*truth.shape, len(class_names)]}; give one channel per class, without background"
        )
    rows: list[CaseRow] = []
    for index, class_name in enumerate(class_names):
        pair = truth == index + 1, prediction == index + 1
        row: CaseRow = {
            "case": case,
            "patient": patient,
            "class_name": class_name,
            "standard": case_metrics(*pair, spacing=spacing, tolerance=tolerance),
        }
        if probability is not None and truth.ndim == 2:
            compat = paper_compat_metrics(*pair, probability[..., index])
            compat["dsc_256"] = threshold_mean_dice(pair[0], probability[..., index])
            row["paper_compat"] = compat
        rows.append(row)
    return rows


def _check_masks(truth: np.ndarray, prediction: np.ndarray) -> None:
    for name, mask in (("truth", truth), ("prediction", prediction)):
        if mask.dtype != np.bool_:
            raise ValueError(
                f"{name} has type {mask.dtype}, expected bool; compare it with the class or 0.5"
            )
    if truth.shape != prediction.shape:
        raise ValueError(
            f"prediction has shape {list(prediction.shape)}, expected the truth's "
            f"{list(truth.shape)}; resample it to the truth's own grid"
        )
    if truth.ndim not in (2, 3) or truth.size == 0:
        raise ValueError(f"masks have shape {list(truth.shape)}, expected [H, W] or [D, H, W]")


def _check_spacing(spacing: Sequence[float] | None, axes: int) -> tuple[float, ...]:
    if spacing is None:
        return (1.0,) * axes
    scale = tuple(float(value) for value in spacing)
    if len(scale) != axes or not all(math.isfinite(value) and value > 0 for value in scale):
        raise ValueError(
            f"spacing is {list(scale)}; expected {axes} positive numbers in mm, one per axis"
        )
    return scale


def _check_probability(probability: np.ndarray, truth: np.ndarray) -> None:
    if truth.ndim != 2 or probability.shape != truth.shape:
        raise ValueError(
            f"probability has shape {list(probability.shape)} and truth {list(truth.shape)}, "
            "expected the same [H, W]"
        )
    if not np.issubdtype(probability.dtype, np.floating):
        raise ValueError(f"probability has type {probability.dtype}, expected a float in [0, 1]")
    low, high = float(probability.min()), float(probability.max())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ValueError(f"probability spans {low:g} to {high:g}, expected finite values in [0, 1]")


def _check_labels(labels: np.ndarray, what: str, classes: int) -> None:
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{what} has type {labels.dtype}, expected integer class labels")
    if labels.size and (labels.min() < 0 or labels.max() > classes):
        raise ValueError(
            f"{what} has labels {labels.min()} to {labels.max()}, expected 0 to {classes}"
        )


def _outcome(truth_size: int, prediction_size: int) -> Outcome:
    if truth_size:
        return "scored" if prediction_size else "miss"
    return "false_alarm" if prediction_size else "both_empty"


def _diagonal(shape: tuple[int, ...], scale: Sequence[float]) -> float:
    return math.hypot(*(size * step for size, step in zip(shape, scale, strict=True)))


def _overlap_and_surface(
    truth: np.ndarray,
    prediction: np.ndarray,
    outcome: Outcome,
    scale: tuple[float, ...],
    tolerance: float,
) -> tuple[float | None, float | None, float | None]:
    """Compute DSC, HD95 and NSD; where a mask is empty, the values defined for that."""
    if outcome == "both_empty":
        return None, None, None
    if outcome != "scored":
        return 0.0, _diagonal(truth.shape, scale), 0.0
    with warnings.catch_warnings():
        # surface-distance 0.1 calls scipy.ndimage by a namespace that SciPy 2 will drop.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="surface_distance")
        surfaces = surface_distance.compute_surface_distances(truth, prediction, scale)
    return (
        dice_score(truth, prediction),
        float(surface_distance.compute_robust_hausdorff(surfaces, 95.0)),
        float(surface_distance.compute_surface_dice_at_tolerance(surfaces, tolerance)),
    )


def _pixel_hausdorff(truth: np.ndarray, prediction: np.ndarray, outcome: Outcome) -> float:
    if outcome == "both_empty":
        return 0.0
    if outcome != "scored":
        return _diagonal(truth.shape, (1.0, 1.0))
    to_truth = ndimage.distance_transform_edt(~truth)
    to_prediction = ndimage.distance_transform_edt(~prediction)
    return float(max(to_prediction[truth].max(), to_truth[prediction].max()))


def _row_hausdorff(truth: np.ndarray, prediction: np.ndarray) -> float:
    rows_t, rows_p = truth.astype(np.float64), prediction.astype(np.float64)
    shared = rows_t @ rows_p.T
    squared = rows_t.sum(1)[:, None] + rows_p.sum(1)[None, :] - 2 * shared
    return math.sqrt(max(squared.min(1).max(), squared.min(0).max()))


def _boundary_nsd(truth: np.ndarray, prediction: np.ndarray, outcome: Outcome) -> float:
    if outcome != "scored":
        return 1.0 if outcome == "both_empty" else 0.0
    edge_t = truth & ~ndimage.binary_erosion(truth)
    edge_p = prediction & ~ndimage.binary_erosion(prediction)
    near_t = ndimage.distance_transform_edt(~edge_p)[edge_t] <= _COMPAT_TOLERANCE
    near_p = ndimage.distance_transform_edt(~edge_t)[edge_p] <= _COMPAT_TOLERANCE
    return float((near_t.sum() + near_p.sum()) / (near_t.size + near_p.size))
