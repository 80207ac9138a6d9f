"""The whole network against the authors' PyTorch network, forward, losses and gradients."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssa_jax.models.attention import attention_loss_terms
from ssa_jax.models.ssa_net import SSANet
from ssa_jax.models.torch_weights import convert, torch_name
from ssa_jax.ops import tuning
from tests.support import golden_numbers as golden

pytestmark = pytest.mark.slow

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


def run(variables, theirs, train, model=MODEL):
    image = jnp.asarray(golden.nhwc(theirs["x_nchw"]))
    return model.apply(variables, image, train, mutable=["intermediates", "batch_stats"])


def published_dice(prob, mask):
    """The published form: 1 added to the intersection inside the factor 2."""
    prob, mask = prob.reshape(prob.shape[0], -1), mask.reshape(mask.shape[0], -1)
    both, size = (prob * mask).sum(1), prob.sum(1) + mask.sum(1)
    return 1 - (2 * (both + 1) / (size + 1)).mean()


def losses(params, variables, theirs, model):
    """Published Dice, the attention terms and the logits in training mode."""
    prediction, _ = run({**variables, "params": params}, theirs, True, model)
    mask = jnp.asarray(golden.nhwc(theirs["mask_nchw"]))
    dice = published_dice(jax.nn.sigmoid(prediction.logits), mask)
    return dice, attention_loss_terms(prediction.attention), prediction.logits


def test_parameter_count_of_the_published_network():
    image = jnp.zeros((1, 64, 64, 2))
    params = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), image, train=False))["params"]
    assert sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params)) == 31_098_945


@pytest.mark.parametrize("backend", [jax.default_backend(), "tpu"])
def test_inference_mode(variables, theirs, backend):
    prediction, state = run(variables, theirs, train=False, model=model_of(backend))
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


def model_of(backend, **changes):
    """The network with a backend's implementations, to run on the backend at hand."""
    choice = tuning.for_backend(backend)
    return MODEL.clone(
        conv_implementation=choice.convolution,
        spatial_conv_implementation=choice.spatial_conv,
        head_in_blocks=choice.head_in_blocks,
        **changes,
    )


def gradients(model, variables, theirs):
    """In training mode: total loss, attention loss, logits, and the gradients of both losses."""

    def two_losses(params):
        dice, terms, logits = losses(params, variables, theirs, model)
        return (dice + 0.1 * terms.sum(), terms.sum()), logits

    @jax.jit
    def computed(params, weights):
        values, pullback, logits = jax.vjp(two_losses, params, has_aux=True)
        weights = tuple(jnp.full_like(values[0], weight) for weight in weights)
        return *values, logits, pullback(weights)[0]

    # Two calls of one program, whose backward pass is compiled once.
    *values, of_total = computed(variables["params"], (1.0, 0.0))
    return *values, of_total, computed(variables["params"], (0.0, 1.0))[-1]


@pytest.mark.parametrize("backend", ["gpu", "cpu"])
def test_training_mode_and_gradients(variables, theirs, backend):
    total, distill, logits, *both = gradients(model_of(backend), variables, theirs)
    prob = jax.nn.sigmoid(logits)
    assert golden.relative_error(prob, golden.nhwc(theirs["train_prob"])) < 1e-4
    np.testing.assert_allclose(total, theirs["train_total_loss"], rtol=1e-4)
    np.testing.assert_allclose(distill, theirs["train_distill"], rtol=1e-4)
    for gradient, which in zip(both, ("train_grad_norms", "distill_grad_norms"), strict=True):
        check_gradient_norms(gradient, theirs, which, ROUNDING)


@pytest.mark.long
def test_gradients_in_float64(variables, theirs):
    """Where our rounding hides no mistake: all implementations agree to 1e-9, and the published
    norms are met to their own rounding, which is float32's."""
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables)
        ours, others = (
            gradients(model_of(backend, dtype=jnp.float64), exact, theirs)[3:]
            for backend in ("cpu", "gpu")
        )
        for gradient, which in zip(ours, ("train_grad_norms", "distill_grad_norms"), strict=True):
            check_gradient_norms(gradient, theirs, which, PUBLISHED_ROUNDING)
        one, other = jax.tree.leaves(ours), jax.tree.leaves(others)
        largest = max(float(jnp.linalg.norm(x.ravel())) for x in one)
        for mine, alike in zip(one, other, strict=True):
            assert mine.dtype == jnp.float64
            np.testing.assert_allclose(alike, mine, rtol=1e-9, atol=1e-12 * largest)


# Of gradient norms, at most and on average (root mean square). The published ones are up to 2.4e-3
# from ours in float64; how far float32 is off depends on the order of operations and so on the
# version of JAX: up to 3.3e-3 and 6.7e-3, on average 7e-4 and 2.0e-3, were seen on a CPU.
PUBLISHED_ROUNDING = (3e-3, 1e-3)
ROUNDING = (1e-2, 3e-3)


def check_gradient_norms(gradients, theirs, which, tolerances):
    """Norms agree with the published ones, except those that are zero in exact arithmetic.

    A bias right before a BatchNorm has no gradient but rounding: its norm is far below the rest.
    """
    at_most, on_average = tolerances
    expected = dict(zip(theirs["train_grad_names"].tolist(), theirs[which], strict=True))
    largest = max(expected.values())
    seen, errors = set(), []
    for path, gradient in flax.traverse_util.flatten_dict(gradients).items():
        name = torch_name(path, "published")
        seen.add(name)
        norm = float(jnp.linalg.norm(gradient.ravel()))
        assert abs(norm - expected[name]) <= at_most * expected[name] + 1e-7 * largest, (
            name,
            norm,
            expected[name],
        )
        if expected[name] > 1e-5 * largest:
            errors.append((norm - expected[name]) / expected[name])
    assert seen == set(expected)
    assert np.sqrt(np.mean(np.square(errors))) < on_average
