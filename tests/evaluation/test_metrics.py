"""Metrics against hand-computed values, loops over the definitions, and other libraries."""

import math
from typing import Any

import numpy as np
import pytest
import SimpleITK
from medpy.metric import binary as medpy
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist, directed_hausdorff
from skimage.metrics import hausdorff_distance
from skimage.segmentation import find_boundaries

from ssa_jax.evaluation.metrics import (
    case_metrics,
    case_rows,
    dice_score,
    paper_compat_metrics,
    threshold_mean_dice,
)
from ssa_jax.evaluation.summary import summarize

SHAPES = [((32, 32), (0.6, 1.7)), ((12, 24, 20), (3.0, 0.7, 1.1))]


def box(shape: tuple[int, ...], *slices: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*bounds) for bounds in slices)] = True
    return mask


def blob_pair(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth random masks that overlap in part."""
    rng = np.random.default_rng(seed)
    field, other = (ndimage.gaussian_filter(rng.normal(size=shape), 2.5) for _ in range(2))
    mixed = 0.8 * field + 0.6 * other
    return field > np.quantile(field, 0.8), mixed > np.quantile(mixed, 0.8)


def contour_elements(mask: np.ndarray, spacing: tuple[float, float]) -> tuple[np.ndarray, ...]:
    """Contour of a 2-D mask by marching squares: positions `[N, 2]` in mm and lengths `[N]`."""
    padded = np.pad(mask, 1)
    half_diagonal = math.hypot(*spacing) / 2
    points, lengths = [], []
    for row, column in np.ndindex(padded.shape[0] - 1, padded.shape[1] - 1):
        window = padded[row : row + 2, column : column + 2]
        inside = int(window.sum())
        if inside in (0, 4):
            continue
        if inside in (1, 3):
            length = half_diagonal
        elif window[0, 0] == window[1, 1]:
            length = 2 * half_diagonal
        else:  # the edge between rows runs along the columns, and the reverse
            length = spacing[1] if window[0, 0] == window[0, 1] else spacing[0]
        points.append((row * spacing[0], column * spacing[1]))
        lengths.append(length)
    return np.array(points), np.array(lengths)


def weighted_percentile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    order = np.argsort(values)
    reached = 0.0
    for index in order:
        reached += weights[index]
        if reached >= share * weights.sum():
            return float(values[index])
    raise AssertionError


# ---- standard block


def test_hand_computed_2d() -> None:
    truth = box((20, 30), (2, 8), (3, 13))
    prediction = box((20, 30), (4, 10), (3, 13))  # two rows lower
    result = case_metrics(truth, prediction, spacing=(2.0, 1.0), tolerance=3.0)
    assert result["dsc"] == pytest.approx(80 / 120)
    assert result["hd95"] == 4.0  # two rows of 2 mm
    assert result["mae"] == pytest.approx(40 / 600)
    assert (result["unit"], result["outcome"]) == ("mm", "scored")
    assert (result["intersection"], result["truth_size"], result["prediction_size"]) == (40, 60, 60)
    # Contour of each: 2 * 9 edges of 1 mm, 2 * 5 of 2 mm, 4 corners of half a pixel's diagonal.
    # Farther than 3 mm: the 9 edges and 2 corners of the outer side, two rows (4 mm) away, and
    # the 3 middle edges of the inner side, 4 mm or more from the other's left, right and end.
    corner = math.sqrt(5) / 2
    whole, far = 18 + 20 + 4 * corner, 9 + 2 * corner + 3
    assert result["nsd"] == pytest.approx(1 - far / whole)


def test_spacing_is_row_before_column() -> None:
    truth, prediction = box((20, 20), (5, 10), (5, 10)), box((20, 20), (5, 10), (8, 13))
    assert case_metrics(truth, prediction, spacing=(1.0, 2.0))["hd95"] == 6.0
    assert case_metrics(truth, prediction, spacing=(2.0, 1.0))["hd95"] == 3.0
    volume = box((4, 20, 20), (1, 3), (5, 10), (5, 10)), box((4, 20, 20), (1, 3), (8, 13), (5, 10))
    assert case_metrics(*volume, spacing=(9.0, 0.5, 7.0))["hd95"] == 1.5


def test_without_spacing_in_pixels_and_said_so() -> None:
    truth, prediction = box((20, 20), (5, 10), (5, 10)), box((20, 20), (5, 10), (8, 13))
    result = case_metrics(truth, prediction, spacing=None)
    assert (result["hd95"], result["unit"], result["nsd"]) == (3.0, "px", 1.0)


def test_nsd_tolerance_is_inclusive_and_used() -> None:
    truth, prediction = box((20, 20), (5, 10), (5, 10)), box((20, 20), (5, 10), (8, 13))
    assert case_metrics(truth, prediction, spacing=None, tolerance=3.0)["nsd"] == 1.0
    below = case_metrics(truth, prediction, spacing=None, tolerance=2.99)["nsd"]
    assert below is not None
    assert below < 1


EMPTY, FULL = np.zeros((30, 40), bool), box((30, 40), (1, 3), (1, 3))


@pytest.mark.parametrize(
    ("truth", "prediction", "scores", "outcome"),
    [
        (EMPTY, EMPTY, (None, None, None, None), "both_empty"),
        (FULL, EMPTY, (0.0, 100.0, 0.0, 4 / 1200), "miss"),
        (EMPTY, FULL, (0.0, 100.0, 0.0, 4 / 1200), "false_alarm"),
        (FULL, FULL, (1.0, 0.0, 1.0, 0.0), "scored"),
    ],
)
def test_four_empty_cases(
    truth: np.ndarray, prediction: np.ndarray, scores: tuple[float | None, ...], outcome: str
) -> None:
    result = case_metrics(truth, prediction, spacing=(2.0, 2.0))  # 60 mm by 80 mm
    assert (result["dsc"], result["hd95"], result["nsd"], result["mae"]) == scores
    assert result["outcome"] == outcome


def test_empty_volume_has_the_volumes_diagonal() -> None:
    truth = box((2, 3, 6), (0, 1), (0, 1), (0, 1))
    result = case_metrics(truth, np.zeros_like(truth), spacing=(1.0, 1.0, 1.0))
    assert result["hd95"] == 7.0


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_dice_equals_medpy(shape: tuple[int, ...], spacing: tuple[float, ...], seed: int) -> None:
    truth, prediction = blob_pair(shape, seed)
    expected = medpy.dc(prediction, truth)
    assert 0.3 < expected < 0.95
    assert dice_score(truth, prediction) == pytest.approx(expected, rel=1e-12)
    assert case_metrics(truth, prediction, spacing=spacing)["dsc"] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.6, 1.7)])
def test_surface_metrics_equal_a_loop_over_contour_elements(
    spacing: tuple[float, float], seed: int
) -> None:
    truth, prediction = blob_pair((32, 32), seed)
    (at_t, length_t), (at_p, length_p) = (contour_elements(m, spacing) for m in (truth, prediction))
    distance = cdist(at_t, at_p)
    from_t, from_p = distance.min(1), distance.min(0)
    hd95 = max(
        weighted_percentile(from_t, length_t, 0.95), weighted_percentile(from_p, length_p, 0.95)
    )
    near = length_t[from_t <= 2.0].sum() + length_p[from_p <= 2.0].sum()
    result = case_metrics(truth, prediction, spacing=spacing, tolerance=2.0)
    assert result["hd95"] == pytest.approx(hd95, rel=1e-9)
    assert result["nsd"] == pytest.approx(near / (length_t.sum() + length_p.sum()), rel=1e-9)


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_hd95_equals_medpy_on_shifted_boxes(
    shape: tuple[int, ...], spacing: tuple[float, ...], axis: int
) -> None:
    # A whole side of the box moves, far more than 5% of its surface, so the definitions agree.
    truth = box(shape, *((2, size // 2) for size in shape))
    prediction = np.roll(truth, 3, axis)
    expected = medpy.hd95(prediction, truth, voxelspacing=spacing)
    assert expected == pytest.approx(3 * spacing[axis])
    assert case_metrics(truth, prediction, spacing=spacing)["hd95"] == pytest.approx(expected)


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
@pytest.mark.parametrize("seed", range(6))
def test_hd95_between_medpys_percentiles(
    shape: tuple[int, ...], spacing: tuple[float, ...], seed: int
) -> None:
    # medpy pools both directions before the percentile, weighs every border voxel alike, and
    # measures between centres of border voxels, not between surface elements at voxel corners.
    # Corners lie within half a voxel's diagonal of a border voxel's centre and the reverse, so
    # distances differ by one diagonal at most: that bounds the value from above by the largest
    # distance. The lower bound would follow if all elements weighed alike; it and the last line
    # were observed for these seeds. The exact check is the loop over contour elements above.
    truth, prediction = blob_pair(shape, seed)
    diagonal = math.hypot(*spacing)
    low = medpy.hd95(prediction, truth, voxelspacing=spacing)
    high = medpy.hd(prediction, truth, voxelspacing=spacing)
    value = case_metrics(truth, prediction, spacing=spacing)["hd95"]
    assert value is not None
    assert low - diagonal <= value <= high + diagonal
    assert value == pytest.approx(low, abs=2 * diagonal)


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_nsd_near_simpleitk_on_border_voxels(
    shape: tuple[int, ...], spacing: tuple[float, ...], seed: int
) -> None:
    # SimpleITK's contour filter gives border voxels, its Maurer filter their distances in mm.
    # Unweighted voxel counts stand for lengths and areas and for the half-voxel shift between
    # voxel and surface: they differ by a few percent where a boundary runs along a diagonal.
    truth, prediction = blob_pair(shape, seed)
    tolerance = 2.0
    edges, distances = [], []
    for mask in (truth, prediction):
        image = SimpleITK.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        edge = SimpleITK.BinaryContour(image, fullyConnected=False)
        away = SimpleITK.SignedMaurerDistanceMap(edge, squaredDistance=False, useImageSpacing=True)
        edges.append(SimpleITK.GetArrayFromImage(edge).astype(bool))
        distances.append(np.abs(SimpleITK.GetArrayFromImage(away)))
    near = [distances[1][edges[0]] <= tolerance, distances[0][edges[1]] <= tolerance]
    expected = np.concatenate(near).mean()
    result = case_metrics(truth, prediction, spacing=spacing, tolerance=tolerance)
    assert result["nsd"] == pytest.approx(expected, abs=0.08)


# ---- paper_compat block


def test_paper_compat_by_hand() -> None:
    truth, prediction = box((8, 8), (1, 4), (1, 4)), box((8, 8), (1, 4), (3, 6))
    probability = np.where(prediction, 0.75, 0.25)
    result = paper_compat_metrics(truth, prediction, probability)
    assert result["dsc"] == pytest.approx(6 / 18)
    assert result["hausdorff"] == pytest.approx(0.95 * 2)
    # A row of 3 lesion pixels differs from the other mask's in 4, from its empty rows in 3.
    assert result["hausdorff_rows"] == pytest.approx(0.95 * 3**0.5)
    # 3 hits and 6 false positives off by 0.25 or 0.75, 6 misses by 0.75, 49 others by 0.25
    assert result["mae"] == pytest.approx((3 * 0.25 + 6 * 0.75 + 6 * 0.75 + 49 * 0.25) / 64)
    assert result["nsd"] == 1.0  # all boundary pixels within 3 pixels


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        (EMPTY, EMPTY, {"dsc": 1.0, "hausdorff": 0.0, "hausdorff_rows": 0.0, "nsd": 1.0}),
        (FULL, EMPTY, {"dsc": 0.0, "hausdorff": 47.5, "hausdorff_rows": 0.95 * 2**0.5, "nsd": 0.0}),
        (EMPTY, FULL, {"dsc": 0.0, "hausdorff": 47.5, "hausdorff_rows": 0.95 * 2**0.5, "nsd": 0.0}),
        (FULL, FULL, {"dsc": 1.0, "hausdorff": 0.0, "hausdorff_rows": 0.0, "nsd": 1.0}),
    ],
)
def test_paper_compat_four_empty_cases(
    truth: np.ndarray, prediction: np.ndarray, expected: dict[str, float]
) -> None:
    result = paper_compat_metrics(truth, prediction, prediction.astype(np.float32))
    assert result == pytest.approx(expected | {"mae": (truth ^ prediction).mean()})


@pytest.mark.parametrize("seed", range(4))
def test_paper_compat_equals_scipy_skimage_and_a_tree(seed: int) -> None:
    truth, prediction = blob_pair((40, 32), seed)
    result = paper_compat_metrics(truth, prediction, prediction.astype(float))
    rows = [
        directed_hausdorff(a.astype(float), b.astype(float))[0]
        for a, b in ((truth, prediction), (prediction, truth))
    ]
    assert result["hausdorff_rows"] == pytest.approx(0.95 * max(rows), rel=1e-12)
    assert result["hausdorff"] == pytest.approx(0.95 * hausdorff_distance(truth, prediction))
    edges = [
        np.argwhere(find_boundaries(np.pad(mask, 1), connectivity=1, mode="inner"))
        for mask in (truth, prediction)
    ]
    near = [cKDTree(edges[1 - i]).query(edges[i])[0] <= 3 for i in range(2)]
    assert result["nsd"] == pytest.approx(np.concatenate(near).mean(), rel=1e-12)
    assert result["nsd"] < 1


@pytest.mark.parametrize("seed", range(3))
def test_threshold_mean_dice_equals_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = blob_pair((24, 24), seed)[0]
    gray = np.clip(rng.normal(90 + 60 * truth, 40), 20, 231).astype(int)
    low, high = int(gray.min()), int(gray.max())
    scores = []
    for k in range(256):
        chosen = (gray - low) * 255 >= k * (high - low)  # the same comparison in whole numbers
        hits = int((chosen & truth).sum())
        scores.append(2 * hits / (int(chosen.sum()) + int(truth.sum())) if hits else 0.0)
    probability = (gray / 255).astype(np.float32)
    assert threshold_mean_dice(truth, probability) == pytest.approx(np.mean(scores), rel=1e-12)


def test_threshold_mean_dice_by_hand() -> None:
    truth = box((4, 4), (0, 2), (0, 2))
    # Stretched to {0, 1}: threshold 0 takes all 16 pixels, the other 255 exactly the truth.
    soft = np.where(truth, 0.4, 0.2)
    assert threshold_mean_dice(truth, soft) == pytest.approx((255 + 8 / 20) / 256)
    assert threshold_mean_dice(np.zeros_like(truth), soft) == 0.0
    # Constant zero: only threshold 0 takes pixels, all of them.
    assert threshold_mean_dice(truth, np.zeros((4, 4))) == pytest.approx(8 / 20 / 256)


# ---- rows


def test_case_rows_split_the_classes() -> None:
    truth, prediction = np.zeros((2, 16, 16), np.int32)
    truth[2:6, 2:6], truth[8:12, 8:12] = 1, 2
    prediction[2:6, 2:6], prediction[8:12, 10:14] = 1, 2
    probability = np.stack([prediction == 1, prediction == 2], -1).astype(np.float32)
    names = ("GGO", "consolidation")
    rows = case_rows(
        truth, prediction, probability, case="a", patient="p", class_names=names, spacing=None
    )
    assert [r["class_name"] for r in rows] == list(names)
    assert [r["standard"]["dsc"] for r in rows] == [1.0, 0.5]
    assert [r["paper_compat"]["dsc"] for r in rows] == [1.0, 0.5]
    assert rows[1]["paper_compat"]["dsc_256"] == pytest.approx((255 * 0.5 + 32 / 272) / 256)
    summary = summarize(rows)
    assert summary["standard"]["average"]["dsc"]["mean"] == 0.75
    assert summary["paper_compat"]["average"]["hausdorff"]["mean"] == pytest.approx(0.95)


def test_volumes_have_no_paper_compat_block() -> None:
    labels = box((3, 8, 8), (1, 2), (2, 5), (2, 5)).astype(np.int32)
    probability = labels[..., None].astype(np.float32)
    rows = case_rows(
        labels,
        labels,
        probability,
        case="a",
        patient="p",
        class_names=["lesion"],
        spacing=(3.0, 1.0, 1.0),
    )
    assert "paper_compat" not in rows[0]
    assert "paper_compat" not in summarize(rows)


# ---- bad input

MASK = box((8, 8), (1, 3), (1, 3))
BAD_CASES: list[tuple[str, tuple[Any, Any], dict[str, Any]]] = [
    ("shape", (MASK, MASK[:4]), {"spacing": None}),
    ("bool", (MASK.astype(np.float32), MASK), {"spacing": None}),
    ("bool", (MASK, MASK.astype(np.uint8)), {"spacing": None}),
    (r"\[H, W\] or \[D, H, W\]", (MASK[0], MASK[0]), {"spacing": None}),
    (r"\[H, W\] or \[D, H, W\]", (MASK[:0], MASK[:0]), {"spacing": None}),
    ("2 positive numbers", (MASK, MASK), {"spacing": (1.0, 1.0, 1.0)}),
    ("2 positive numbers", (MASK, MASK), {"spacing": (1.0, 0.0)}),
    ("2 positive numbers", (MASK, MASK), {"spacing": (1.0, math.nan)}),
    ("tolerance", (MASK, MASK), {"spacing": None, "tolerance": -1.0}),
]


@pytest.mark.parametrize(("message", "masks", "options"), BAD_CASES)
def test_case_metrics_refuses(message: str, masks: tuple[Any, Any], options: Any) -> None:
    with pytest.raises(ValueError, match=message) as error:
        case_metrics(*masks, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("message", "probability"),
    [
        ("finite", np.full((8, 8), np.nan)),
        ("finite", np.full((8, 8), 1.5)),
        ("float", np.zeros((8, 8), int)),
        ("shape", np.zeros((8, 9))),
    ],
)
def test_probability_is_checked(message: str, probability: np.ndarray) -> None:
    with pytest.raises(ValueError, match=message):
        paper_compat_metrics(MASK, MASK, probability)
    with pytest.raises(ValueError, match=message):
        threshold_mean_dice(MASK, probability)


def test_labels_are_checked() -> None:
    labels = MASK.astype(np.int32)
    options: Any = {"case": "x.png", "patient": "p", "class_names": ["a"], "spacing": None}
    with pytest.raises(ValueError, match=r"prediction of x\.png has labels 0 to 2, expected 0 to"):
        case_rows(labels, 2 * labels, **options)
    with pytest.raises(ValueError, match=r"truth of x\.png has type bool"):
        case_rows(MASK, labels, **options)
    with pytest.raises(ValueError, match=r"probability of x\.png has shape \[8, 8\]"):
        case_rows(labels, labels, np.zeros((8, 8)), **options)
