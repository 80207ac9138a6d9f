"""The ONNX graph: ONNX Runtime's probabilities are those of the Flax network, in every variant."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from ssa_jax.evaluation import onnx_graph
from ssa_jax.evaluation.inference import MIRRORED, predicted
from ssa_jax.models.ssa_net import SSANet
from tests.conftest import variables_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# With the implementations that compile fastest; that all of them agree is shown elsewhere.
SMALL: Any = partial(
    SSANet,
    stage_sizes=(1, 2, 1, 1),
    kernel_size=3,
    conv_implementation="xla",
    spatial_conv_implementation="scan",
)
VARIANTS = {
    "binary": SMALL(),
    "nested": SMALL(
        encoder="torchvision",
        skip="add",
        padding="reflect",
        nested=True,
        density=(20.0, 0.6),
        outputs=3,
    ),
    "plain": SMALL(spatial_conv=False, outputs=3),
    "density": SMALL(spatial_conv=False, outputs=3, density=(20.0, 0.6)),
}


def moved(variables):
    """Move every vector, so that no bias is 0 and no statistic of BatchNorm what it is at first."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: x if x.ndim > 1 else x + rng.uniform(-0.2, 0.2, x.shape).astype(np.float32),
        variables,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flip"), [("binary", False), ("nested", True), ("plain", False), ("density", False)]
)
def test_onnx_runtime_gives_the_probabilities_of_the_network(name, flip):
    model = VARIANTS[name]
    variables = moved(variables_of(model))
    data = onnx_graph.onnx_model(
        model, variables, shape=(None, 64, 64, 2), flip=flip, about="For a test."
    )
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"about": "For a test."}
    image = np.random.default_rng(1).random((3, 64, 64, 2), np.float32)
    once = jax.jit(lambda variables, image: predicted(model, variables, image, flip=False)[0])
    axes = MIRRORED if flip else MIRRORED[:1]
    expected = np.mean([np.flip(once(variables, np.flip(image, a)), a) for a in axes], axis=0)
    assert np.ptp(expected[..., 1]) > 0.3  # the comparison is of more than one value
    for count in (1, 3):
        (prob,) = session.run(["prob"], {"image": image[:count]})
        assert (prob.shape, prob.dtype) == (expected[:count].shape, np.float32)
        np.testing.assert_allclose(prob, expected[:count], rtol=0, atol=1e-5)


def test_a_layer_that_is_not_in_the_graph_is_noticed():
    model = VARIANTS["binary"]
    variables = variables_of(model)
    variables["params"]["encoder"]["stage1_block9"] = {"conv1": {"kernel": np.zeros((1, 1, 1, 1))}}
    with pytest.raises(AssertionError, match="a layer of the network is missing"):
        onnx_graph.onnx_model(model, variables, shape=(1, 32, 32, 2), flip=False, about="")
