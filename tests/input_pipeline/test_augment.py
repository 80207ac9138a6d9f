"""Augmentation: geometry moves everything together, intensity touches channel 0 alone."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from input_pipeline.augment import Augmentation, Example, augment

SIZE = 32
NONE = Augmentation(
    flip_horizontal=False,
    flip_vertical=False,
    rotation_degrees=0.0,
    scaling=0.0,
    intensity_shift=0.0,
    intensity_gain=0.0,
    gamma=0.0,
    noise_sd=0.0,
    probability=1.0,
)
GEOMETRY = replace(
    NONE, flip_horizontal=True, flip_vertical=True, rotation_degrees=30.0, scaling=0.3
)
INTENSITY = replace(NONE, intensity_shift=0.1, intensity_gain=0.2, gamma=0.3, noise_sd=0.05)


def _with(field: str, value: float) -> Augmentation:
    """All off but one field."""
    return Augmentation(**{**asdict(NONE), field: value})


def blob(row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.hypot(rows - row, columns - column) <= radius


def example(seed: int = 0) -> Example:
    """Random intensity, a lesion off the middle, a lung around it, weight 1."""
    rng = np.random.default_rng(seed)
    lesion, lung = blob(10, 21, 3), blob(12, 19, 9)
    image = np.stack([rng.uniform(0.2, 0.8, (SIZE, SIZE)), lung], axis=-1).astype(np.float32)
    return {
        "image": image,
        "mask": lesion.astype(np.int32),
        "weight": np.ones((SIZE, SIZE, 1), np.float32),
    }


def marker() -> Example:
    """One disc, the same in intensity, lung mask and labels (as class 2)."""
    disc = blob(11, 20, 4)
    return {
        "image": np.stack([disc, disc], axis=-1).astype(np.float32),
        "mask": 2 * disc.astype(np.int32),
        "weight": np.ones((SIZE, SIZE, 1), np.float32),
    }


def centre(array: np.ndarray) -> np.ndarray:
    """Centre of gravity (row, column)."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.array([(array * rows).sum(), (array * columns).sum()]) / array.sum()


def run(given: Example, settings: Augmentation, seed: int) -> Example:
    return augment(given, np.random.default_rng(seed), settings)


def test_settings_of_zero_change_nothing() -> None:
    given = example()
    result = run(given, NONE, 3)
    assert result.keys() == given.keys()
    for name in given:
        np.testing.assert_array_equal(result[name], given[name])


def test_probability_of_zero_leaves_all_but_the_flips_off() -> None:
    settings = replace(GEOMETRY, flip_horizontal=False, flip_vertical=False, probability=0.0)
    settings = replace(settings, intensity_shift=0.2, noise_sd=0.2, gamma=0.3)
    for seed in range(10):
        np.testing.assert_array_equal(run(example(), settings, seed)["image"], example()["image"])


def test_arrays_given_stay_as_they_are() -> None:
    given = example()
    for array in given.values():
        array.setflags(write=False)
    augment(given, np.random.default_rng(0), replace(GEOMETRY, noise_sd=0.1, gamma=0.2))
    for name, array in example().items():
        np.testing.assert_array_equal(given[name], array)


@pytest.mark.parametrize("axis, field", [(1, "flip_horizontal"), (0, "flip_vertical")])
def test_flips_are_exact_and_happen_every_other_time(axis: int, field: str) -> None:
    given, flipped = example(), 0
    for seed in range(40):
        result = run(given, _with(field, True), seed)
        mirrored = bool((result["mask"] != given["mask"]).any())
        flipped += mirrored
        for name in given:
            expected = np.flip(given[name], axis) if mirrored else given[name]
            np.testing.assert_array_equal(result[name], expected)
    assert 10 <= flipped <= 30


@pytest.mark.parametrize("seed", range(25))
def test_image_lung_and_labels_move_together(seed: int) -> None:
    result = run(marker(), GEOMETRY, seed)
    expected = centre(result["image"][..., 0])
    np.testing.assert_allclose(centre(result["image"][..., 1]), expected, atol=0.25)
    np.testing.assert_allclose(centre(result["mask"] == 2), expected, atol=0.25)
    both = (result["mask"] == 2) & (result["image"][..., 1] == 1)
    assert both.sum() == (result["mask"] == 2).sum() == result["image"][..., 1].sum()
    assert set(np.unique(result["mask"])) == {0, 2}


def test_rotation_and_scaling_follow_the_drawn_numbers() -> None:
    """The landmark lands where plane geometry puts it, to a third of a pixel."""
    middle, start = (SIZE - 1) / 2, np.array([11.0, 20.0]) - (SIZE - 1) / 2
    moved = []
    for seed in range(20):
        result = run(marker(), replace(NONE, rotation_degrees=20.0, scaling=0.2), seed)
        draws = np.random.default_rng(seed)
        draws.random(2), draws.random(3)
        turn, zoom = draws.uniform(-1.0, 1.0, 5)[:2]
        angle, factor = np.radians(20.0 * turn), 1.2**zoom
        row = np.cos(angle) * start[0] + np.sin(angle) * start[1]
        column = np.cos(angle) * start[1] - np.sin(angle) * start[0]
        expected = middle + factor * np.array([row, column])
        np.testing.assert_allclose(centre(result["image"][..., 0]), expected, atol=0.34)
        area = result["image"][..., 0].sum() / marker()["image"][..., 0].sum()
        assert area == pytest.approx(factor**2, rel=0.06)
        moved.append(np.abs(expected - start - middle).max())
    assert max(moved) > 2.0


def test_pixels_from_outside_have_no_weight() -> None:
    given = example()
    given["image"][..., 0] = 1.0
    given["mask"][:] = 1
    outside = 0
    for seed in range(10):
        result = run(given, replace(NONE, rotation_degrees=45.0, scaling=0.5), seed)
        weight = result["weight"][..., 0]
        assert set(np.unique(weight)) <= {0.0, 1.0}
        outside += int((weight == 0).sum())
        np.testing.assert_array_equal(result["mask"], weight.astype(np.int32))
        np.testing.assert_allclose(result["image"][weight == 1, 0], 1.0, atol=1e-6)
        assert (result["image"][weight == 0, 0] > 0).sum() <= 2  # rounding on the rim
        assert not result["image"][weight == 0, 1].any()
    assert outside > 100


def test_intensity_changes_touch_channel_0_alone() -> None:
    given = example()
    for seed in range(10):
        result = run(given, INTENSITY, seed)
        np.testing.assert_array_equal(result["image"][..., 1], given["image"][..., 1])
        np.testing.assert_array_equal(result["mask"], given["mask"])
        np.testing.assert_array_equal(result["weight"], given["weight"])
        assert (result["image"][..., 0] != given["image"][..., 0]).mean() > 0.99
        assert result["image"].min() >= 0.0 and result["image"].max() <= 1.0


@pytest.mark.parametrize(
    "field, value",
    [("intensity_shift", 0.1), ("intensity_gain", 0.2), ("gamma", 0.3)],
)
def test_each_intensity_change_is_the_formula_it_names(field: str, value: float) -> None:
    given, largest = example()["image"][..., 0], 0.0
    for seed in range(20):
        result = run(example(), _with(field, value), seed)["image"][..., 0]
        middle = given > 0.3
        if field == "intensity_shift":
            drawn = (result - given)[middle]
        elif field == "intensity_gain":
            drawn = (result / given - 1.0)[middle & (result < 1)]
        else:
            drawn = (np.log(result) / np.log(given) - 1.0)[middle]
        assert np.ptp(drawn) < 1e-4
        assert np.abs(drawn).max() <= value + 1e-4
        largest = max(largest, float(np.abs(drawn).max()))
    assert largest > 0.6 * value


def test_noise_has_at_most_the_standard_deviation_named() -> None:
    found = [
        (run(example(), replace(NONE, noise_sd=0.04), s)["image"] - example()["image"])[
            ..., 0
        ].std()
        for s in range(30)
    ]
    assert max(found) < 0.043
    assert 0.012 < np.mean(found) < 0.028


def test_same_generator_same_result_another_differs() -> None:
    settings = replace(GEOMETRY, intensity_shift=0.1, noise_sd=0.02)
    first, again, other = (run(example(), settings, seed) for seed in (5, 5, 6))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["image"] != other["image"]).any()


def test_left_and_right_never_swap_without_the_switch() -> None:
    """A marker far on the right stays on the right through every other change."""
    given = marker()
    disc = blob(16, 27, 3)
    given["mask"] = disc.astype(np.int32)
    settings = replace(GEOMETRY, flip_horizontal=False, gamma=0.2, noise_sd=0.1)
    for seed in range(60):
        assert centre(run(given, settings, seed)["mask"])[1] > SIZE / 2
    swapped = [
        centre(run(given, replace(settings, flip_horizontal=True), seed)["mask"])[1] < SIZE / 2
        for seed in range(60)
    ]
    assert 15 < sum(swapped) < 45


def test_shapes_and_dtypes_stay() -> None:
    given = example()
    for channels in (1, 2):
        one = {**given, "image": given["image"][..., :channels]}
        result = run(one, replace(GEOMETRY, gamma=0.2, noise_sd=0.1), 2)
        for name, array in one.items():
            assert result[name].shape == array.shape
            assert result[name].dtype == array.dtype


@pytest.mark.parametrize(
    "field, value",
    [("rotation_degrees", 90.0), ("scaling", -0.1), ("probability", 1.5), ("gamma", float("nan"))],
)
def test_a_number_outside_its_range_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"augmentation {field} is"):
        _with(field, value)
