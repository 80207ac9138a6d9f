"""The training step: one device or eight, pmap or shard_map, and what it reports."""

import dataclasses
import functools
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssa_jax.models.ssa_net import Prediction, SSANet
from ssa_jax.ops import tuning
from ssa_jax.training.mapping import MAPPINGS, map_step
from ssa_jax.training.optim import make_optimizer
from ssa_jax.training.state import TrainState, init_state
from ssa_jax.training.step import (
    AXIS,
    PooledDice,
    TrainMetrics,
    make_train_step,
    overlap,
    total_loss,
)
from tests.conftest import variables_of
from tests.support.golden_numbers import relative_error
from tests.support.stand_in import CLASS_WEIGHT, SETTINGS, StandIn, batches

pytestmark = pytest.mark.slow

WAYS = ("one device", *MAPPINGS)


def train_step(model, optimizer, settings=SETTINGS, *, steps_per_epoch=1, average_decay=0.5):
    return make_train_step(
        model, optimizer, settings, steps_per_epoch=steps_per_epoch, average_decay=average_decay
    )


def run(step, state, data, way):
    """States and metrics after every step, on the host."""
    mapped = map_step(step, way if way in MAPPINGS else "pmap", CLASS_WEIGHT)
    place_state, place_batch = mapped.place_state, mapped.place_batch
    if way == "one device":  # pmap takes as many devices as the first axis is long
        place_state = place_batch = partial(jax.tree.map, lambda x: np.asarray(x)[None])
    placed, history = place_state(state), []
    for batch in data:
        placed, metrics = mapped.step(placed, place_batch(batch))
        history.append((mapped.fetch(placed), mapped.fetch(metrics)))
    return history


def sgd():
    """SGD, since Adam divides rounding by rounding where a gradient is zero in exact arithmetic
    (every bias before a BatchNorm) and moves by the whole learning rate."""
    return optax.sgd(3e-3, momentum=0.9)


@pytest.fixture(scope="module")
def three_steps_of_the_network():
    """SSA-Net: its first variables, and what gives states and metrics after three steps of a way.

    At 64 pixels the deepest map is 2 x 2, so that wider kernels would not reach further. XLA's own
    convolutions compile in half the time.
    """
    quick = dataclasses.replace(tuning.BY_BACKEND["cpu"], convolution="xla", spatial_conv="scan")
    model = SSANet(kernel_size=3, stage_sizes=(1, 1, 1, 1), axis_name=AXIS)
    variables = variables_of(model.clone(axis_name=None))
    step = train_step(model, sgd(), dataclasses.replace(SETTINGS, normalize="none"))
    state = init_state(variables, sgd(), average=False)

    @functools.cache
    def result(way):
        with mock.patch.dict(tuning.BY_BACKEND, cpu=quick):
            return run(step, state, batches(3, 64), way)[-1]

    return variables, result


@pytest.mark.parametrize(
    "ways",
    [("one device", "pmap"), pytest.param(("pmap", "shard_map"), marks=pytest.mark.long)],
)
def test_three_steps_of_the_network_agree(three_steps_of_the_network, ways):
    start, result = three_steps_of_the_network
    (ours, our_metrics), (theirs, their_metrics) = map(result, ways)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), ours.params, theirs.params
    )
    moved = jax.tree.map(lambda new, old: np.abs(new - old).max(), ours.params, start["params"])
    assert max(jax.tree.leaves(moved)) > 50 * 1e-5  # the tolerance is small against three steps
    for one, other in zip(
        *map(jax.tree.leaves, (ours.batch_stats, theirs.batch_stats)), strict=True
    ):
        assert relative_error(one, other) < 1e-3
    np.testing.assert_allclose(our_metrics.loss.compute(), their_metrics.loss.compute(), rtol=1e-4)
    assert our_metrics.dsc.size == their_metrics.dsc.size or ways[0] == "one device"


@pytest.fixture(scope="module")
def three_exact_steps():
    """Three steps each way in float64, with all that the optimiser can do."""
    with jax.enable_x64(True):
        optimizer = make_optimizer(
            optax.constant_schedule(1e-2), weight_decay=1e-2, clip_norm=0.1, accumulate_steps=1
        )
        variables = jax.tree.map(lambda x: x.astype(np.float64), variables_of(StandIn()))
        state = init_state(variables, optimizer, average=True)
        data = [b | {"image": b["image"].astype(np.float64)} for b in batches(3)]
        step = train_step(StandIn(AXIS), optimizer)
        return {way: run(step, state, data, way)[-1] for way in WAYS}


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_eight_devices_are_one_device_in_exact_arithmetic(three_exact_steps, mapping):
    """Parameters, statistics, Adam's state, the running average and the sums of the metrics."""
    (one, one_metrics), (eight, eight_metrics) = (
        three_exact_steps[way] for way in ("one device", mapping)
    )
    assert one.params["Conv_0"]["kernel"].dtype == np.float64
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), one, eight)
    values, sums = one_metrics.compute(), eight_metrics.compute()
    for name in values:
        np.testing.assert_allclose(sums[name], values[name], rtol=1e-5, err_msg=name)
    assert eight_metrics.dsc.size == one_metrics.dsc.size > 0
    assert eight_metrics.loss.count == 8 * one_metrics.loss.count


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_groups_of_devices_have_statistics_of_their_own(mapping):
    """Two halves of the devices: each its own in the step, and the running ones their mean."""
    halves = [{k: x[:4] for k, x in batch.items()} for batch in batches(2)]
    both = jax.tree.map(lambda *parts: np.concatenate(parts), *halves)
    state = init_state(variables_of(StandIn()), sgd(), average=False)

    def after(data, groups=None):
        model = StandIn(AXIS, axis_index_groups=groups)
        ((new, metrics),) = run(train_step(model, sgd()), state, [data], mapping)
        return new, metrics.compute()["dice_loss"]

    grouped, loss = after(both, ((0, 1, 2, 3), (4, 5, 6, 7)))
    alone = [after({k: np.concatenate([x, x]) for k, x in half.items()}) for half in halves]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *(one.batch_stats for one, _ in alone))
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, grouped.batch_stats, mean)
    jax.tree.map(
        close, grouped.params, jax.tree.map(lambda a, b: (a + b) / 2, *(s.params for s, _ in alone))
    )
    np.testing.assert_allclose(loss, (alone[0][1] + alone[1][1]) / 2, rtol=1e-5)
    together, _ = after(both)
    assert (
        abs(together.params["Conv_0"]["kernel"] - grouped.params["Conv_0"]["kernel"]).max() > 1e-5
    )


@pytest.mark.parametrize("way", WAYS)
def test_parts_of_a_share_are_as_devices_of_their_own(way):
    """Two parts of every device's share, against two groups of devices with a part each."""
    state = init_state(variables_of(StandIn()), sgd(), average=True)
    first, second = batches(2)
    halves = jax.tree.map(lambda *parts: np.concatenate(parts), first, second)
    groups = ((0, 1, 2, 3), (4, 5, 6, 7))
    model = StandIn(AXIS, axis_index_groups=groups)
    ((expected, their_metrics),) = run(train_step(model, sgd()), state, [halves], "pmap")
    step = make_train_step(
        StandIn(AXIS), sgd(), SETTINGS, steps_per_epoch=1, average_decay=0.5, microbatches=2
    )
    turns = jax.tree.map(
        lambda a, b: np.stack([a, b], axis=1).reshape(-1, *a.shape[1:]), first, second
    )
    ((found, our_metrics),) = run(step, state, [turns], way)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, found, expected)
    for name, value in their_metrics.compute().items():
        np.testing.assert_allclose(our_metrics.compute()[name], value, rtol=1e-5, err_msg=name)
    assert our_metrics.dsc.size == their_metrics.dsc.size > 0


@dataclasses.dataclass
class Recorded:
    """What a mapping made of six steps of the stand-in."""

    start: TrainState
    start_before: TrainState
    history: list
    times_traced: int


@pytest.fixture(scope="module", params=MAPPINGS)
def recorded(request):
    """Epochs of two steps; the attention loss starts at step 2 and is fully on at step 4."""
    settings = dataclasses.replace(SETTINGS, alpha=3.0, start_epoch=1.0, ramp_epochs=1.0)
    inner = train_step(StandIn(AXIS), sgd(), settings, steps_per_epoch=2, average_decay=0.2)
    traced = []

    def step(state, batch, class_weight):
        traced.append(1)
        return inner(state, batch, class_weight)

    start = init_state(variables_of(StandIn()), sgd(), average=True)
    before = jax.tree.map(np.array, start)
    return Recorded(start, before, run(step, start, batches(6), request.param), len(traced))


def test_the_step_is_compiled_once_and_takes_nobody_s_arrays(recorded):
    assert recorded.times_traced == 1
    jax.tree.map(np.testing.assert_array_equal, recorded.start, recorded.start_before)
    assert [int(state.step) for state, _ in recorded.history] == [1, 2, 3, 4, 5, 6]


def test_an_unknown_mapping_is_refused():
    with pytest.raises(ValueError, match=r"train.mapping is 'vmap'; expected one of"):
        map_step(train_step(StandIn(AXIS), sgd()), "vmap", CLASS_WEIGHT)


def test_running_average_of_parameters_and_statistics(recorded):
    expected = recorded.start.variables
    # (1 + n) / (10 + n) for n = 0, 1, 2 ..., but not above 0.2.
    decays = (1 / 10, 2 / 11, 0.2, 0.2, 0.2, 0.2)
    for (state, _), decay in zip(recorded.history, decays, strict=True):
        now = {"params": state.params, "batch_stats": state.batch_stats}
        expected = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, expected, now)
        close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
        jax.tree.map(close, state.average, expected)
        assert state.variables is state.average


def test_without_an_average_the_network_is_the_last_one():
    state = init_state(variables_of(StandIn()), sgd(), average=False)
    assert state.average is None
    assert state.variables == {"params": state.params, "batch_stats": state.batch_stats}


def test_attention_loss_counts_from_its_epoch_on(recorded):
    weights = []
    for _, metrics in recorded.history:
        values = metrics.compute()
        attention = sum(values[f"attention_{m}_{m + 1}"] for m in (1, 2, 3))
        rest = values["loss"] - values["dice_loss"] - 0.5 * values["cross_entropy_loss"]
        weights.append(rest / attention)
    np.testing.assert_allclose(weights, [0, 0, 0, 1.5, 3, 3], atol=0.02)


@pytest.mark.parametrize(("epoch", "factor"), [(0.0, 0.0), (2.0, 0.25), (9.0, 0.5)])
def test_the_weight_of_pseudo_labelled_slices_rises(epoch, factor):
    """The loss is that of the labelled slice, and `factor` times that of the other one."""
    settings = dataclasses.replace(SETTINGS, alpha=0.0, pseudo=0.5, pseudo_ramp_epochs=4.0)
    (batch,) = batches(1, 8)
    two = jax.tree.map(lambda x: jnp.asarray(x)[:2], batch)
    logits = jax.random.normal(jax.random.key(0), (*two["mask"].shape, 1))
    maps = tuple(jnp.ones((2, 4, 4)) for _ in range(4))

    def loss_of(chosen, **marks):
        part = jax.tree.map(lambda x: x[chosen], {**two, **marks})
        prediction = Prediction(logits[chosen], tuple(m[chosen] for m in maps))
        return total_loss(prediction, part, jnp.array(CLASS_WEIGHT), settings, epoch)[0]

    whole = loss_of(slice(0, 2), pseudo=jnp.array([0.0, 1.0]))
    expected = (loss_of(slice(0, 1)) + factor * loss_of(slice(1, 2))) / 2
    np.testing.assert_allclose(whole, expected, rtol=1e-5)


def test_overlap_counts_pixels_with_weight():
    logits = np.float32([[[2, -1, 3], [-2, 1, 4]]])[..., None]
    mask = np.int32([[[1, 1, 0], [0, 1, 1]]])
    weight = np.float32([[[1, 1, 1], [1, 0.3, 0]]])[..., None]
    # Counted: predicted 1 0 1 / 0 1 -, true 1 1 0 / 0 1 -.
    assert overlap(logits, mask, weight) == {"intersection": 2, "size": 3 + 3}
    three = np.float32(np.eye(3))[[[[2, 1, 1], [0, 2, 2]]]]
    # Predicted 2 1 1 / 0 2 -, true 1 1 2 / 0 2 -: each class for itself.
    counted = overlap(three, np.int32([[[1, 1, 2], [0, 2, 0]]]), weight)
    assert counted == {"intersection": 2, "size": 4 + 4}


def test_pooled_dice_adds_up():
    total = PooledDice.empty()
    assert total.compute() == 0
    for intersection, size in ((3.0, 10.0), (0.0, 4.0), (5.0, 10.0)):
        total = total.merge(PooledDice.from_model_output(jnp.array(intersection), jnp.array(size)))
    assert total.compute() == pytest.approx(2 * 8 / 24)


def test_metrics_of_steps_merge_to_their_means(recorded):
    metrics = [m for _, m in recorded.history]
    merged = functools.reduce(TrainMetrics.merge, metrics)
    assert isinstance(merged, TrainMetrics)
    for name, value in merged.compute().items():
        if name != "dsc":
            mean = np.mean([m.compute()[name] for m in metrics])
            np.testing.assert_allclose(value, mean, rtol=1e-5, err_msg=name)
    shares = [(float(m.dsc.intersection), float(m.dsc.size)) for m in metrics]
    intersection, size = np.sum(shares, axis=0)
    np.testing.assert_allclose(merged.compute()["dsc"], 2 * intersection / size, rtol=1e-6)


def test_reported_gradient_norm_is_that_of_the_mean_gradient(recorded):
    state, metrics = recorded.history[0]
    first_momentum = state.opt_state[0].trace  # the first gradient itself
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(first_momentum)))
    np.testing.assert_allclose(metrics.compute()["gradient_norm"], norm, rtol=1e-5)
