"""Mixing of two slices: which pixels come from which slice, and what stays as it was."""

import numpy as np
import pytest

from input_pipeline.mixing import BOX_AREA, Mixing, draw_box, exchange_amplitudes, mix

S = 40


def example(value: float, *, lung: slice = slice(8, 32), label: int = 0) -> dict[str, np.ndarray]:
    """A slice of one grey value with a square lung; its lesion is the square of rows 16 to 24."""
    image = np.full((S, S, 2), value, np.float32)
    image[..., 1] = 0
    image[lung, lung, 1] = 1
    mask = np.zeros((S, S), np.int32)
    mask[16:24, 16:24] = label
    return {"image": image, "mask": mask, "weight": np.ones((S, S, 1), np.float32)}


def mixed(one: dict, other: dict, seed: int = 0, **probability: float) -> dict[str, np.ndarray]:
    return mix(one, other, np.random.default_rng(seed), Mixing(**probability))


def test_nothing_is_mixed_by_default():
    one, other = example(0.2), example(0.8, label=2)
    made = mixed(one, other)
    assert not Mixing()
    for name in one:
        np.testing.assert_array_equal(made[name], one[name])


def test_cutmix_takes_image_lung_mask_and_weight_of_one_box_from_the_other_slice():
    one, other = example(0.2), example(0.8, lung=slice(0, S), label=2)
    other["weight"][:] = 0.5
    for seed in range(20):
        made = mixed(one, other, seed, cutmix=1.0)
        box = made["image"][..., 0] == np.float32(0.8)
        rows, columns = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box.any(axis=0))
        assert box.sum() == len(rows) * len(columns)  # one filled rectangle
        assert 0.5 * BOX_AREA[0] < box.mean() < 1.2 * BOX_AREA[1]
        for name in one:
            np.testing.assert_array_equal(made[name][box], other[name][box])
            np.testing.assert_array_equal(made[name][~box], one[name][~box])


def test_copy_paste_adds_the_lesions_within_the_lungs_and_keeps_the_lung_mask():
    one, other = example(0.2, lung=slice(20, 32), label=1), example(0.8, label=2)
    other["mask"][22:24] = 0
    other["weight"][20, :] = 0  # an ignored row is no lesion
    other["weight"][21, :] = 0.5
    made = mixed(one, other, copy_paste=1.0)
    pasted = np.zeros((S, S), bool)
    pasted[21, 20:24] = True
    assert (made["mask"][pasted] == 2).all() and (made["weight"][pasted] == 0.5).all()
    assert (made["image"][pasted, 0] == np.float32(0.8)).all()
    np.testing.assert_array_equal(made["mask"][~pasted], one["mask"][~pasted])
    np.testing.assert_array_equal(made["image"][~pasted], one["image"][~pasted])
    np.testing.assert_array_equal(made["image"][..., 1], one["image"][..., 1])


def test_a_box_excludes_pasted_lesions():
    one, other = example(0.2), example(0.8, label=2)
    box = mixed(one, other, 3, cutmix=1.0)
    both = mixed(one, other, 3, cutmix=1.0, copy_paste=1.0)
    np.testing.assert_array_equal(box["image"], both["image"])


def test_without_lung_mask_lesions_are_pasted_where_the_slice_has_pixels():
    one, other = example(0.2), example(0.8, label=1)
    one["image"], other["image"] = one["image"][..., :1], other["image"][..., :1]
    one["weight"][:, 20:] = 0  # outside of the picture
    made = mixed(one, other, copy_paste=1.0)
    assert (made["mask"] > 0).sum() == 8 * 4


def test_amplitudes_carry_the_mean_over_and_keep_the_shapes():
    rng = np.random.default_rng(1)
    fine = 0.05 * np.sign(rng.standard_normal((S, S)))
    one, other = (0.3 + fine).astype(np.float32), np.full((S, S), 0.6, np.float32)
    whole = exchange_amplitudes(one, other, 1.0)
    assert whole.dtype == np.float32 and abs(whole.mean() - 0.6) < 1e-3
    assert np.corrcoef((whole - whole.mean()).ravel(), fine.ravel())[0, 1] > 0.98
    np.testing.assert_allclose(exchange_amplitudes(one, other, 0.0), one, atol=1e-6)
    half = exchange_amplitudes(one, other, 0.5)
    assert abs(half.mean() - 0.45) < 1e-2


def test_mask_and_weight_do_not_change_with_the_amplitudes():
    one, other = example(0.2, label=1), example(0.8, label=2)
    made = mixed(one, other, amplitude=1.0)
    np.testing.assert_array_equal(made["mask"], one["mask"])
    np.testing.assert_array_equal(made["image"][..., 1], one["image"][..., 1])
    assert made["image"][..., 0].mean() > 0.2


def test_boxes_lie_inside_and_reach_every_border():
    rng = np.random.default_rng(0)
    boxes = [draw_box(rng, (20, 60)) for _ in range(500)]
    rows = [(r.start, r.stop) for r, _ in boxes]
    columns = [(c.start, c.stop) for _, c in boxes]
    assert min(r[0] for r in rows) == 0 and max(r[1] for r in rows) == 20
    assert min(c[0] for c in columns) == 0 and max(c[1] for c in columns) == 60


@pytest.mark.parametrize("field", ["cutmix", "copy_paste", "amplitude"])
def test_a_probability_outside_its_range_is_refused(field):
    with pytest.raises(ValueError, match=rf"mixing\.{field} is 1\.5; expected 0 to 1"):
        Mixing(**{field: 1.5})
