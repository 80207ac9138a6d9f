"""The online teacher: which pixels and labels the network learns, and from whom."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssa_jax.models.ssa_net import probabilities
from ssa_jax.training.consistency import labelled_by_teacher
from ssa_jax.training.mapping import map_step
from ssa_jax.training.state import init_state
from ssa_jax.training.step import make_train_step
from tests.support.stand_in import CLASS_WEIGHT, SETTINGS, StandIn, batches

ETA = 0.55


@pytest.fixture(scope="module")
def teacher():
    return jax.device_get(StandIn().init(jax.random.key(5), jnp.zeros((1, 16, 16, 2)), train=False))


def pairs(seed: int = 0) -> dict[str, np.ndarray]:
    """Four pairs; the second half exchanges a box of rows."""
    labelled, other = batches(2, 16, seed=seed, batch=4)
    box = np.zeros((4, 16, 16, 1), np.float32)
    box[2:, 3:9] = 1
    strong = np.clip(other["image"] + 0.1, 0, 1)
    views = {"weak": other["image"], "strong": strong, "valid": other["weight"], "box": box}
    return labelled | views


def test_the_teacher_labels_the_weak_view_and_the_box_exchanges_all_that_belongs_together(teacher):
    batch = pairs()
    made = jax.device_get(labelled_by_teacher(StandIn(), teacher, batch, ETA))
    prob = np.asarray(probabilities(StandIn().apply(teacher, batch["weak"], train=False).logits))
    label = prob.argmax(-1)
    weight = batch["valid"] * (prob.max(-1, keepdims=True) > ETA)
    assert 0.05 < (weight[..., 0] > 0).mean() < 0.85 and 0 < label.mean() < 1  # tells something
    own = {"image": batch["image"], "mask": batch["mask"], "weight": batch["weight"]}
    other = {"image": batch["strong"], "mask": label, "weight": weight}
    np.testing.assert_array_equal(made["pseudo"], [0] * 4 + [1] * 4)
    for name in own:
        first, second = made[name][:4], made[name][4:]
        np.testing.assert_array_equal(first[:2], own[name][:2])
        np.testing.assert_array_equal(second[:2], other[name][:2])
        np.testing.assert_array_equal(first[2:, 3:9], other[name][2:, 3:9])
        np.testing.assert_array_equal(second[2:, 3:9], own[name][2:, 3:9])
        np.testing.assert_array_equal(first[2:, 9:], own[name][2:, 9:])
        np.testing.assert_array_equal(second[2:, :3], other[name][2:, :3])


def test_the_step_learns_what_the_moving_average_says():
    """The same as a labelled step on the batch that the teacher makes, of the average's weights."""
    optimizer = optax.sgd(0.1)
    model = StandIn(axis_name="batch")
    settings = dataclasses.replace(SETTINGS, pseudo=0.5)
    variables = StandIn().init(jax.random.key(1), jnp.zeros((1, 16, 16, 2)), train=False)
    made = {"steps_per_epoch": 1, "average_decay": 0.5}
    online = map_step(
        make_train_step(model, optimizer, settings, **made, teacher_eta=ETA), "pmap", CLASS_WEIGHT
    )
    plain = map_step(make_train_step(model, optimizer, settings, **made), "pmap", CLASS_WEIGHT)
    start = init_state(variables, optimizer, average=True)
    other = StandIn().init(jax.random.key(2), jnp.zeros((1, 16, 16, 2)), train=False)
    start = start.replace(average=jax.device_get(other))

    batch = jax.tree.map(lambda x: np.concatenate([x, x]), pairs())  # one for each of 8 devices
    expected_batch = [
        jax.device_get(
            labelled_by_teacher(
                StandIn(), other, jax.tree.map(lambda x, k=k: x[k : k + 1], batch), ETA
            )
        )
        for k in range(8)
    ]
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *expected_batch)
    ours, metrics = online.step(online.place_state(start), online.place_batch(batch))
    theirs, _ = plain.step(plain.place_state(start), plain.place_batch(joined))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        online.fetch(ours).params,
        plain.fetch(theirs).params,
    )
    assert np.isfinite(float(online.fetch(metrics).compute()["loss"]))
