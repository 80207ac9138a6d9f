"""The whole network: sizes it takes, exact parameter counts, options and types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssa_jax.models.ssa_net import SSANet, nested_logits, probabilities
from ssa_jax.training.state import init_variables
from tests.conftest import variables_of
from tests.support.golden_numbers import relative_error

pytestmark = pytest.mark.slow

PUBLISHED_COUNT = 31_098_945  # two input channels, skips added


def shapes_of(model, channels=2, size=(64, 96)):
    """Shapes and types of prediction and variables; nothing is compiled or computed."""
    image = jax.ShapeDtypeStruct((2, *size, channels), np.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, True), image)


def count(model, channels=2):
    params = shapes_of(model, channels)[1]["params"]
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("size", [(64, 65), (48, 64), (33, 31)])
def test_sizes_that_are_no_multiple_of_32_are_refused(size):
    height, width = size
    message = rf"image has {height} x {width} pixels, expected multiples of 32; resize"
    with pytest.raises(ValueError, match=message):
        shapes_of(SSANet(), size=size)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("size", [(64, 96), (32, 32)])
def test_shapes_of_a_prediction(classes, size):
    prediction, _ = shapes_of(SSANet(outputs=classes), size=size)
    assert prediction.logits.shape == (2, *size, classes)
    sides = [(2, size[0] // n, size[1] // n) for n in (4, 8, 16, 32)]
    assert [m.shape for m in prediction.attention] == sides


@pytest.mark.long
def test_a_wide_slice_and_its_transpose_are_treated_alike(network_variables):
    """Only the order of the four passes knows rows from columns; without them the network of a
    transposed image with transposed kernels is the transposed network."""
    model = SSANet(spatial_conv=False)
    image = np.random.default_rng(0).random((1, 64, 96, 2), np.float32)
    variables = {
        "params": {k: v for k, v in network_variables["params"].items() if k != "spatial_conv"},
        "batch_stats": network_variables["batch_stats"],
    }
    swapped = jax.tree.map(lambda x: x.swapaxes(0, 1) if x.ndim == 4 else x, variables)
    run = jax.jit(lambda v, x: model.apply(v, x, train=False).logits)
    wide, high = run(variables, image), run(swapped, image.swapaxes(1, 2))
    assert wide.shape == (1, 64, 96, 1)
    assert relative_error(wide, high.swapaxes(1, 2)) < 1e-5


def decoder_layer(channels, features):
    """Parameters of a decoder layer."""
    middle = channels // 4
    convolutions = channels * middle + middle + 9 * middle**2 + middle + middle * features
    return convolutions + features + 2 * (2 * middle + features)


def test_parameter_counts():
    assert count(SSANet(skip="add")) == PUBLISHED_COUNT
    # Joined skips double what three decoder layers see: half of it is the skip.
    wider = [(512, 256, 128), (256, 128, 64), (128, 64, 64)]
    more = sum(decoder_layer(new, out) - decoder_layer(old, out) for new, old, out in wider)
    assert count(SSANet()) == PUBLISHED_COUNT + more == 31_320_545
    assert count(SSANet()) - count(SSANet(spatial_conv=False)) == 4 * 9 * 512 * 512
    assert count(SSANet(kernel_size=9)) - count(SSANet(kernel_size=3)) == 4 * 6 * 512 * 512
    assert count(SSANet()) - count(SSANet(), channels=1) == 7 * 7 * 64
    assert count(SSANet(outputs=3)) - count(SSANet()) == 2 * (3 * 3 * 32 + 1)


def test_torchvision_encoder():
    published = shapes_of(SSANet())[1]["params"]["encoder"]
    torchvision = shapes_of(SSANet(encoder="torchvision"))[1]["params"]["encoder"]
    blocks = [name for name in torchvision if "block" in name]
    assert len(blocks) == 3 + 4 + 6 + 3
    for name in blocks:
        assert "bias" in published[name]["conv1"]
        assert "bias" not in torchvision[name]["conv1"]
        assert "bias" not in published[name]["conv2"]
    assert "shortcut" in published["stage1_block1"]
    assert "shortcut" not in torchvision["stage1_block1"]
    # torchvision's resnet34 has 21,797,672 parameters, 513,000 of them in its classifier; its stem
    # sees one channel more.
    sizes = [np.prod(leaf.shape) for leaf in jax.tree.leaves(torchvision)]
    assert sum(sizes) == 21_797_672 - 513_000 - 7 * 7 * 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "resnet50"}, "model.encoder is 'resnet50'; expected one of"),
        ({"skip": "none"}, "model.skip is 'none'; expected one of"),
        ({"kernel_size": 4}, "kernel width is 4; expected an odd one"),
        ({"spatial_conv_implementation": "fast"}, "implementation is 'fast'; expected one of"),
        ({"conv_implementation": "fast"}, "implementation is 'fast'; expected"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(SSANet(**options))


def test_bfloat16_computes_close_and_keeps_float32_outside(network_variables):
    shapes = shapes_of(SSANet(dtype=jnp.bfloat16))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(shapes)} == {"float32"}
    image = np.random.default_rng(0).random((1, 32, 32, 2), np.float32)

    def logits(dtype):
        run = jax.jit(lambda v, x: SSANet(dtype=dtype).apply(v, x, train=False).logits)
        return run(network_variables, image)

    # 2^-9 for one rounding to 8 bits; about 90 of them follow each other.
    assert 2**-9 < relative_error(logits(jnp.bfloat16), logits(jnp.float32)) < 0.05


def test_probabilities():
    logits = np.random.default_rng(0).standard_normal((1, 2, 3, 1), np.float32)
    lesion = 1 / (1 + np.exp(-logits[..., 0]))
    binary = probabilities(logits)
    np.testing.assert_allclose(binary[..., 1], lesion, rtol=1e-6)
    np.testing.assert_allclose(binary.sum(-1), 1, rtol=1e-6)
    three = probabilities(np.log(np.float32([[[[1, 2, 5]]]])))
    np.testing.assert_allclose(three, [[[[1 / 8, 2 / 8, 5 / 8]]]], rtol=1e-6)


def test_nested_classes_by_hand():
    """A lesion with probability 0.8, of which 0.25 is consolidation."""
    decisions = jnp.log(jnp.array([0.8 / 0.2, 0.25 / 0.75])).reshape(1, 1, 1, 2)
    made = probabilities(nested_logits(decisions))[0, 0, 0]
    np.testing.assert_allclose(made, [0.2, 0.6, 0.2], rtol=1e-6)


def test_nested_probabilities_sum_to_one_and_are_finite_where_decisions_are_sure():
    decisions = 60 * jax.random.normal(jax.random.key(0), (2, 3, 4, 3))
    logits = nested_logits(decisions)
    assert logits.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(jnp.exp(logits).sum(-1), 1, rtol=1e-4)
    np.testing.assert_allclose(probabilities(logits), jnp.exp(logits), rtol=1e-4, atol=1e-6)
    gradient = jax.grad(lambda x: nested_logits(x).sum())(decisions)
    assert jnp.isfinite(gradient).all()


def test_a_nested_head_has_one_decision_for_each_class():
    nested, plain = SSANet(outputs=3, nested=True), SSANet(outputs=3)
    prediction, variables = shapes_of(nested)
    assert prediction.logits.shape == (2, 64, 96, 3)
    assert count(plain) - count(nested) == 9 * 32 + 1  # kernel and bias of one output
    assert variables["params"]["decoder"]["head_conv3"]["bias"].shape == (2,)


@pytest.mark.parametrize("nested", [False, True])
def test_density_tells_the_classes_apart(nested):
    """Consolidation gains 20 x (0.8 - 0.6) = 4 where the intensity is 0.8; the lesion stays."""
    plain = SSANet(outputs=3, nested=nested, stage_sizes=(1, 1, 1, 1), kernel_size=3)
    variables = variables_of(plain)
    image = np.random.default_rng(0).random((1, 64, 64, 2), np.float32)
    image[0, 10:20, 30:40, 0] = 0.8

    def parts(model):
        run = jax.jit(lambda v, x: probabilities(model.apply(v, x, train=False).logits))
        background, glass, solid = jnp.moveaxis(run(variables, image)[0], -1, 0)
        return background, jnp.log(solid / glass)

    (before, odds), (after, raised) = map(parts, (plain, plain.clone(density=(20.0, 0.6))))
    np.testing.assert_allclose(after, before, rtol=1e-4)
    np.testing.assert_allclose((raised - odds)[10:20, 30:40], 4.0, atol=1e-3)
    np.testing.assert_allclose(raised - odds, 20 * (image[0, ..., 0] - 0.6), atol=1e-2)


@pytest.mark.long
def test_initial_weights_do_not_depend_on_how_well_they_are_compiled():
    model, key = SSANet(stage_sizes=(1, 1, 1, 1)), jax.random.key(3)
    options = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    best = jax.jit(lambda key: init_variables(model, key, 2), compiler_options=options)(key)
    jax.tree.map(np.testing.assert_array_equal, init_variables(model, key, 2), best)
