"""The whole network against the authors' PyTorch network, forward, losses and gradients."""

import sys

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssa_jax.attention import attention_loss_terms
from ssa_jax.model import SSANet
from ssa_jax.torch_weights import convert, torch_name
from tests import golden_numbers as golden

MODEL = SSANet(outputs=1, encoder="published", skip="add")


@pytest.fixture(scope="module")
def theirs():
    return golden.network()


@pytest.fixture(scope="module")
def variables(theirs):
    image = golden.nhwc(theirs["x_nchw"])
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), image, train=False))
    conversion = convert(golden.state_dict(), shapes)
    assert not (conversion.missing or conversion.extra or conversion.misshapen)
    return conversion.variables


def run(variables, theirs, train):
    image = jnp.asarray(golden.nhwc(theirs["x_nchw"]))
    return MODEL.apply(variables, image, train, mutable=["intermediates", "batch_stats"])


def published_dice(prob, mask):
    """The published form: 1 added to the intersection inside the factor 2."""
    prob, mask = prob.reshape(prob.shape[0], -1), mask.reshape(mask.shape[0], -1)
    both, size = (prob * mask).sum(1), prob.sum(1) + mask.sum(1)
    return 1 - (2 * (both + 1) / (size + 1)).mean()


def losses(params, variables, theirs):
    """Published Dice, the attention terms and the logits in training mode."""
    prediction, _ = run({**variables, "params": params}, theirs, train=True)
    mask = jnp.asarray(golden.nhwc(theirs["mask_nchw"]))
    dice = published_dice(jax.nn.sigmoid(prediction.logits), mask)
    return dice, attention_loss_terms(prediction.attention), prediction.logits


def test_parameter_count_of_the_published_network():
    image = jnp.zeros((1, 64, 64, 2))
    params = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), image, train=False))["params"]
    assert sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params)) == 31_098_945


def test_inference_mode(variables, theirs):
    prediction, state = run(variables, theirs, train=False)
    seen = state["intermediates"]
    prob = jax.nn.sigmoid(prediction.logits)
    terms = attention_loss_terms(prediction.attention)
    dice = published_dice(prob, golden.nhwc(theirs["mask_nchw"]))
    relative = golden.relative_error
    assert relative(seen["e4"][0], golden.nhwc(theirs["eval_e4"])) < 1e-4
    after = golden.nhwc(theirs["eval_e4_after_spatial_conv"])
    assert relative(seen["e4_after_spatial_conv"][0], after) < 1e-4
    assert relative(prob, golden.nhwc(theirs["eval_prob"])) < 1e-4
    np.testing.assert_allclose(terms, theirs["eval_distill_terms"], rtol=1e-4)
    np.testing.assert_allclose(terms.sum(), theirs["eval_distill"], rtol=1e-4)
    np.testing.assert_allclose(dice, theirs["eval_dice_loss"], rtol=1e-4)


# The forms of other backends, run on the CPU, and the CPU's own, which round in another order, see
# `check_gradient_norms`.
BY_BACKEND = pytest.mark.parametrize(("backend", "tolerance"), [("gpu", 1e-3), ("cpu", 4e-3)])


# 1.03e-3 was seen where 1e-3 was the bound, before transposed convolutions took their present form.
@pytest.mark.parametrize(("backend", "tolerance"), [("gpu", 1.5e-3), ("cpu", 4e-3)])
def test_training_mode_and_gradients(monkeypatch, variables, theirs, backend, tolerance):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    params = variables["params"]

    def total(params):
        dice, terms, logits = losses(params, variables, theirs)
        return dice + 0.1 * terms.sum(), logits

    gradient_of = jax.value_and_grad(total, has_aux=True)
    (loss, logits), gradients = (jax.jit(gradient_of) if backend == "cpu" else gradient_of)(params)
    prob = jax.nn.sigmoid(logits)
    assert golden.relative_error(prob, golden.nhwc(theirs["train_prob"])) < 1e-4
    np.testing.assert_allclose(loss, theirs["train_total_loss"], rtol=1e-4)
    check_gradient_norms(gradients, theirs, "train_grad_norms", tolerance)


@BY_BACKEND
def test_gradients_of_the_attention_loss_alone(monkeypatch, variables, theirs, backend, tolerance):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)

    def distill(params):
        return losses(params, variables, theirs)[1].sum()

    loss, gradients = jax.jit(jax.value_and_grad(distill))(variables["params"])
    np.testing.assert_allclose(loss, theirs["train_distill"], rtol=1e-4)
    check_gradient_norms(gradients, theirs, "distill_grad_norms", tolerance)


def test_forms_of_all_backends_have_the_same_gradients(monkeypatch, variables, theirs):
    """In float64, where neither their rounding nor the published one hides a mistake."""
    monkeypatch.setattr(sys.modules[__name__], "MODEL", MODEL.clone(dtype=jnp.float64))

    def gradients(backend):
        monkeypatch.setattr(jax, "default_backend", lambda: backend)

        def total(params):
            dice, terms, _ = losses(params, exact, theirs)
            return dice + 0.1 * terms.sum()

        return jax.jit(jax.grad(total))(exact["params"])

    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables)
        ours, others = (jax.tree.leaves(gradients(backend)) for backend in ("cpu", "gpu"))
        largest = max(float(jnp.linalg.norm(x)) for x in map(jnp.ravel, ours))
        for one, other in zip(ours, others, strict=True):
            assert one.dtype == jnp.float64
            np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-12 * largest)


def check_gradient_norms(gradients, theirs, which, tolerance):
    """Norms agree to `tolerance`, except those that are zero in exact arithmetic, and to 1e-3 on
    average (root mean square).

    The published float32 norms of either loss are up to 2.4e-3 from ours computed in float64: that
    much is rounding, which depends on the order of operations. Seen in float32 on one machine: the
    CPU's forms are up to 3.3e-3 (on average 7e-4) from the published norms, other backends' up to
    2.0e-3 when compiled.

    A bias right before a BatchNorm has no gradient but rounding: its norm is far below the rest.
    """
    expected = dict(zip(theirs["train_grad_names"].tolist(), theirs[which], strict=True))
    largest = max(expected.values())
    seen, errors = set(), []
    for path, gradient in flax.traverse_util.flatten_dict(gradients).items():
        name = torch_name(path, "published")
        seen.add(name)
        norm = float(jnp.linalg.norm(gradient.ravel()))
        assert abs(norm - expected[name]) <= tolerance * expected[name] + 1e-7 * largest, (
            name,
            norm,
            expected[name],
        )
        if expected[name] > 1e-5 * largest:
            errors.append((norm - expected[name]) / expected[name])
    assert seen == set(expected)
    assert np.sqrt(np.mean(np.square(errors))) < 1e-3
