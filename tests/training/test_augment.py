"""Augmentation on the device: the host's changes and distribution, whatever the devices."""

import dataclasses
import math
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from input_pipeline.augment import Augmentation, _affine, _flip, _resample, augment
from ssa_jax.training.augment import Change, Ranges, apply, augmented, draw, slice_keys
from ssa_jax.training.mapping import MAPPINGS, map_step
from ssa_jax.training.state import init_state
from ssa_jax.training.step import AXIS, _places, make_train_step
from tests.conftest import variables_of
from tests.support.stand_in import CLASS_WEIGHT, SETTINGS, StandIn, batches

SIZE = 64
TIE = 0.002  # pixels: so exactly does Pillow's fixed-point arithmetic place a nearest pixel
ALL = Augmentation(
    flip_horizontal=True,
    flip_vertical=True,
    rotation_degrees=20.0,
    scaling=0.3,
    intensity_shift=0.1,
    intensity_gain=0.2,
    gamma=0.3,
    noise_sd=0.05,
    probability=0.6,
)
CHANGED = jax.jit(augmented, static_argnums=2)
CHANGES: dict[str, dict[str, Any]] = {
    "flips": {"flip_horizontal": True, "flip_vertical": True},
    "turned": {"angle": 0.3},
    "turned back and shrunk": {"angle": -0.7, "factor": 0.71},
    "enlarged": {"factor": 1.43},
    "recoloured": {"power": 1.3, "gain": 0.9, "shift": 0.07, "noise_sd": 0.04},
    "all": {
        "flip_horizontal": True,
        "angle": 0.2,
        "factor": 1.17,
        "power": 0.8,
        "gain": 1.15,
        "shift": -0.05,
        "noise_sd": 0.03,
    },
}


def change_of(**fields: Any) -> Change:
    """A change that does nothing but what is given."""
    nothing: Any = (False, False, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0)
    return Change(*nothing)._replace(**fields)


def ranges(settings):
    return Ranges(**asdict(settings))


def on_device(keys, batch, settings):
    """The changed batch on the host."""
    return jax.tree.map(np.asarray, CHANGED(keys, batch, ranges(settings)))


def example(size=SIZE):
    """Every pixel of every array drawn, so that none can be taken for another."""
    rng = np.random.default_rng(0)
    lung, mask = rng.integers(0, 2, (size, size)), rng.integers(0, 3, (size, size))
    return {
        "image": np.stack([rng.random((size, size)), lung], -1).astype(np.float32),
        "mask": mask.astype(np.int32),
        "weight": rng.random((size, size, 1), np.float32),
    }


def on_host(change, noise, given):
    """The host's own functions, with a given change."""
    made = _flip(given, change.flip_horizontal, change.flip_vertical)
    if (change.angle, change.factor) != (0.0, 1.0):
        made = _resample(made, change.angle, change.factor)
    image = made["image"].copy()
    value = image[..., 0] ** change.power * change.gain + change.shift + change.noise_sd * noise
    image[..., 0] = np.clip(value, 0, 1)
    return image, made["mask"], made["weight"]


def off_borders(change):
    """Pixels whose source is clear of a border between two pixels, by more than `TIE`."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    a, b, c, d, e, f = _affine(change.angle, change.factor, SIZE)
    places = np.stack([a * x + b * y + c, d * x + e * y + f])
    return (abs(places - np.round(places)) > TIE).all(axis=0)


@pytest.mark.parametrize("name", CHANGES)
def test_a_given_change_is_the_host_s(name):
    change, given = change_of(**CHANGES[name]), example()
    noise = np.random.default_rng(1).standard_normal((SIZE, SIZE), np.float32)
    image, mask, weight = map(np.asarray, jax.jit(apply)(change, noise, *given.values()))
    their_image, their_mask, their_weight = on_host(change, noise, given)
    assert (image.dtype, mask.dtype, weight.dtype) == (np.float32, np.int32, np.float32)
    clear = off_borders(change)
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(mask[clear], their_mask[clear])
    np.testing.assert_array_equal(weight[clear], their_weight[clear])
    np.testing.assert_array_equal(image[clear, 1], their_image[clear, 1])
    np.testing.assert_allclose(image[clear, 0], their_image[clear, 0], atol=1e-4, rtol=0)


def test_what_is_not_chosen_keeps_its_bits():
    """Probability 0 leaves the flips alone, which are exact, and all four of them occur."""
    given = example(32)
    batch = {name: np.repeat(array[None], 64, axis=0) for name, array in given.items()}
    keys = jax.random.split(jax.random.key(0), 64)
    still = replace(ALL, probability=0.0, flip_horizontal=False, flip_vertical=False)
    made = on_device(keys, batch | {"pseudo": np.arange(64)}, still)
    np.testing.assert_array_equal(made.pop("pseudo"), np.arange(64))
    jax.tree.map(np.testing.assert_array_equal, made, batch)
    made = on_device(keys, batch, replace(ALL, probability=0.0))
    ways = [(False, False), (False, True), (True, False), (True, True)]
    mirrored = [_flip(given, *way) for way in ways]
    seen = set()
    for k in range(64):
        (way,) = [w for w in range(4) if (made["mask"][k] == mirrored[w]["mask"]).all()]
        seen.add(way)
        for name, array in mirrored[way].items():
            np.testing.assert_array_equal(made[name][k], array)
    assert seen == {0, 1, 2, 3}


def features(image, mask):
    """Numbers of a changed slice that show each part of the change, but for the interpolation."""
    where = np.argwhere(mask == 1).mean(axis=0)
    other = np.argwhere(mask == 2).mean(axis=0)
    dark, bright = image[:, :16, 0], image[:, 16:, 0]
    return (*where, *(other - where), (mask > 0).sum(), dark.mean(), bright.mean(), dark.std())


@pytest.mark.parametrize("part", ["geometric", "photometric"])
def test_the_distribution_is_the_host_s(part):
    """Where two discs go and how large they are; the mean and spread of two grey values."""
    count, size, settings = 1500, 32, getattr(ALL, part)
    rows, columns = np.mgrid[:size, :size]
    discs = [np.hypot(rows - y, columns - x) < 4 for y, x in ((9, 12), (13, 21))]
    given = {
        "image": np.where(columns < 16, 0.3, 0.7).astype(np.float32)[..., None],
        "mask": (discs[0] + 2 * discs[1]).astype(np.int32),
        "weight": np.ones((size, size, 1), np.float32),
    }
    rng = np.random.default_rng(0)
    host = [augment(given, rng, settings) for _ in range(count)]
    batch = {name: np.repeat(array[None], count, axis=0) for name, array in given.items()}
    device = on_device(slice_keys(7, 0, jnp.arange(count)), batch, settings)
    theirs = np.array([features(made["image"], made["mask"]) for made in host])
    ours = np.array([features(*pair) for pair in zip(device["image"], device["mask"], strict=True)])
    chosen = slice(0, 5) if part == "geometric" else slice(5, 8)
    # Rounded, so that what both leave as it is ties in spite of the last bit.
    for mine, reference in zip(ours.T[chosen].round(5), theirs.T[chosen].round(5), strict=True):
        assert np.unique(reference).size > 50
        assert stats.ks_2samp(mine, reference).pvalue > 0.01


def test_draws_fill_their_ranges_and_are_independent():
    drawn = jax.vmap(partial(draw, ranges=ranges(ALL)))(jax.random.split(jax.random.key(3), 4000))
    drawn = jax.tree.map(np.asarray, drawn)
    chosen = np.stack([drawn.angle != 0, drawn.power != 1, drawn.noise_sd != 0])
    observed = np.bincount(chosen.T @ [4, 2, 1], minlength=8)
    wanted = [4000 * math.prod(0.6 if k >> n & 1 else 0.4 for n in range(3)) for k in range(8)]
    assert stats.chisquare(observed, wanted).pvalue > 0.01
    moved, recoloured, noisy = chosen
    uniform = {
        "turn": (drawn.angle[moved] / np.radians(20.0), -1, 1),
        "zoom": (np.log(drawn.factor[moved]) / np.log(1.3), -1, 1),
        "power": (np.log(drawn.power[recoloured]) / np.log(1.3), -1, 1),
        "gain": ((drawn.gain[recoloured] - 1) / 0.2, -1, 1),
        "shift": (drawn.shift[recoloured] / 0.1, -1, 1),
        "noise": (drawn.noise_sd[noisy] / 0.05, 0, 1),
    }
    for name, (values, low, high) in uniform.items():
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 0.01, name
    pairs = np.corrcoef([uniform["turn"][0], uniform["zoom"][0], drawn.flip_vertical[moved]])
    assert abs(pairs - np.eye(3)).max() < 0.06
    pairs = np.corrcoef([uniform[name][0] for name in ("power", "gain", "shift")])
    assert abs(pairs - np.eye(3)).max() < 0.06


def test_keys_differ_by_seed_step_and_place_alone():
    keys = [slice_keys(seed, step, jnp.arange(4)) for seed in (0, 1) for step in (0, 1)]
    words = {tuple(word) for word in np.concatenate([jax.random.key_data(key) for key in keys])}
    assert len(words) == 16
    again = slice_keys(1, jnp.asarray(1), jnp.array([3, 2]))
    assert (jax.random.key_data(again) == jax.random.key_data(keys[3])[jnp.array([3, 2])]).all()


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_places_are_those_of_the_loader_s_stream(processes):
    """Process p of P takes the examples p, p + P, ..., and gives its devices neighbours of them."""
    taken = np.concatenate([np.arange(24)[p::processes] for p in range(processes)])
    places = jax.pmap(lambda _: _places(3, processes), axis_name=AXIS)(np.zeros(8))
    np.testing.assert_array_equal(np.asarray(places), taken.reshape(8, 3))


def run_step(step, state, batch, way):
    """State and metrics after a step, on the host."""
    mapped = map_step(step, way if way in MAPPINGS else "pmap", CLASS_WEIGHT)
    place_state, place_batch = mapped.place_state, mapped.place_batch
    if way == "one device":  # pmap takes as many devices as the first axis is long
        place_state = place_batch = partial(jax.tree.map, lambda x: np.asarray(x)[None])
    return mapped.fetch(mapped.step(place_state(state), place_batch(batch)))


@pytest.mark.long
def test_a_step_sees_its_slices_changed_whatever_the_devices():
    """As one device would if the batch had been changed beforehand, by the second step's keys."""
    optimizer, (batch,) = optax.sgd(0.1), batches(1, batch=16)
    batch["image"] = batch["image"].clip(0, 1)  # as prepared slices are
    make = partial(make_train_step, StandIn(AXIS), optimizer, SETTINGS, steps_per_epoch=1)
    plain = make(average_decay=0.0)
    step = make(average_decay=0.0, augmentation=ranges(ALL), seed=5)
    state = init_state(variables_of(StandIn()), optimizer, average=False)
    state = dataclasses.replace(state, step=np.asarray(1, np.int32))
    changed = on_device(slice_keys(5, 1, jnp.arange(16)), batch, ALL)
    assert (changed["mask"] != batch["mask"]).mean() > 0.1
    wanted = run_step(plain, state, changed, "one device")
    for way in ("one device", "shard_map"):
        found = run_step(step, state, batch, way)
        for ours, theirs in zip(jax.tree.leaves(found[0]), jax.tree.leaves(wanted[0]), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
        assert found[1].compute()["loss"] == pytest.approx(wanted[1].compute()["loss"], rel=1e-5)
