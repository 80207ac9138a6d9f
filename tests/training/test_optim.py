"""Schedules at chosen updates, accumulation, weight decay and clipping."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssa_jax.training.optim import make_optimizer, make_schedule


def schedule(name="cosine", **changes):
    settings = {"learning_rate": 0.1, "total_updates": 110, "warmup_updates": 10}
    return make_schedule(name, **{**settings, "decay_updates": 40, **changes})


def run(optimizer, params, gradients):
    """Parameters after each of several gradients."""
    state = optimizer.init(params)
    history = []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


def optimizer(learning_rate=0.1, *, weight_decay=0.0, clip_norm=0.0, accumulate_steps=1):
    return make_optimizer(
        optax.constant_schedule(learning_rate),
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        accumulate_steps=accumulate_steps,
    )


def test_cosine_after_a_warm_up():
    values = [schedule()(n) for n in (0, 1, 5, 10, 60, 35, 110)]
    quarter = 0.05 * (1 + np.cos(np.pi / 4))
    np.testing.assert_allclose(values, [0, 0.01, 0.05, 0.1, 0.05, quarter, 0], atol=1e-7)
    np.testing.assert_allclose(schedule(warmup_updates=0)(0), 0.1, rtol=1e-6)


def test_steps_divide_by_ten():
    stepped = schedule("step")
    values = [stepped(n) for n in (0, 5, 10, 49, 50, 89, 90)]
    np.testing.assert_allclose(values, [0, 0.05, 0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-5)


def test_what_a_schedule_refuses():
    with pytest.raises(ValueError, match=r"optim.schedule is 'linear'; expected one of"):
        schedule("linear")
    with pytest.raises(ValueError, match=r"takes 110 of 110 updates, .* optim.warmup_epochs"):
        schedule(warmup_updates=110)


def test_first_update_is_the_learning_rate_against_the_gradient_s_sign():
    params = {"w": jnp.zeros(3)}
    (after,) = run(optimizer(), params, [{"w": jnp.array([2.0, -0.5, 0.0])}])
    np.testing.assert_allclose(after["w"], [-0.1, 0.1, 0.0], rtol=1e-5)


def test_the_schedule_counts_updates():
    gradients = [{"w": jnp.ones(1)}] * 3
    steps = make_optimizer(
        optax.piecewise_constant_schedule(0.1, {1: 0.5, 2: 0.5}),
        weight_decay=0.0,
        clip_norm=0.0,
        accumulate_steps=1,
    )
    history = [float(p["w"][0]) for p in run(steps, {"w": jnp.zeros(1)}, gradients)]
    np.testing.assert_allclose(history, [-0.1, -0.15, -0.175], rtol=1e-5)


def test_accumulated_steps_are_one_update_with_the_mean():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.standard_normal(5, np.float32))}
    gradients = [{"w": jnp.asarray(rng.standard_normal(5, np.float32))} for _ in range(6)]
    history = run(optimizer(accumulate_steps=3, clip_norm=0.5), params, gradients)
    for before, after in ((params, history[0]), (history[0], history[1])):
        np.testing.assert_array_equal(before["w"], after["w"])
    means = [{"w": (g[0]["w"] + g[1]["w"] + g[2]["w"]) / 3} for g in (gradients[:3], gradients[3:])]
    expected = run(optimizer(clip_norm=0.5), params, means)
    np.testing.assert_allclose(history[2]["w"], expected[0]["w"], rtol=1e-5)
    np.testing.assert_allclose(history[5]["w"], expected[1]["w"], rtol=1e-5)


def test_weight_decay_is_decoupled_and_leaves_vectors_alone():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "scale": jnp.ones(2)}
    (after,) = run(
        optimizer(weight_decay=0.5), params, [{name: 0 * p for name, p in params.items()}]
    )
    np.testing.assert_allclose(after["kernel"], 1 - 0.1 * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(after["bias"], 1)
    np.testing.assert_array_equal(after["scale"], 1)


def test_clipping_bounds_the_norm_of_all_gradients_together():
    # Adam's first step forgets the scale; what it remembers of the gradient does not.
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    for clip, factor in ((1.0, 0.2), (10.0, 1.0), (0.0, 1.0)):
        tx = optimizer(clip_norm=clip)
        _, state = tx.update(gradient, tx.init(gradient), gradient)
        mean = optax.tree_utils.tree_get(state, "mu")
        np.testing.assert_allclose(mean["a"], [0.1 * 3 * factor], rtol=1e-5)
        np.testing.assert_allclose(mean["b"], [[0.1 * 4 * factor]], rtol=1e-5)
