"""The operations of the network against published counts, sums by hand, and XLA's own count."""

import jax
import numpy as np
import pytest

from ssa_jax.models.operations import operations
from ssa_jax.models.ssa_net import SSANet
from ssa_jax.ops import tuning


def test_operations_are_those_that_torchvision_publishes_for_resnet34():
    model = SSANet(encoder="torchvision")
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    encoder = {"encoder": shapes["params"]["encoder"]}
    # 3.66 billion multiply-adds, of which the classifier, which we lack, has half a million.
    assert operations(encoder, 224) / 2 == pytest.approx(3.664e9 - 0.5e6, rel=1e-3)


def test_operations_of_the_decoder_and_the_spatial_convolution():
    def count(*path, shape):
        tree = {"kernel": np.zeros(shape)}
        for name in reversed(path):
            tree = {name: tree}
        return operations(tree, 64)

    # 64 px: e4 is 2 x 2. The last decoder layer goes from 16 x 16 to 32 x 32.
    assert count("decoder", "layer1", "conv1", shape=(1, 1, 8, 2)) == 2 * 16 * 256
    assert count("decoder", "layer1", "deconv2", shape=(3, 3, 2, 2)) == 2 * 36 * 256
    assert count("decoder", "layer1", "conv3", shape=(1, 1, 2, 4)) == 2 * 8 * 1024
    assert count("decoder", "head_deconv1", shape=(4, 4, 4, 2)) == 2 * 128 * 1024
    assert count("decoder", "head_conv3", shape=(3, 3, 2, 1)) == 2 * 18 * 4096
    assert count("spatial_conv", shape=(9, 4, 4)) == 2 * 144 * 2
    assert count("encoder", "stem_norm", shape=(64,)) == 0


@pytest.mark.parametrize("fields", [{}, {"encoder": "torchvision"}, {"skip": "add"}])
def test_xla_counts_as_many_but_for_padding(fields, monkeypatch):
    """Of its own convolutions, as ours save some; kernels of nine would be padding mostly."""
    monkeypatch.setattr(tuning, "for_backend", lambda _=None: tuning.OTHERWISE)
    model = SSANet(spatial_conv_implementation="unrolled", kernel_size=1, **fields)
    image = jax.ShapeDtypeStruct((1, 256, 256, 2), np.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    forward = jax.jit(lambda v, x: model.apply(v, x, train=False))
    counted = forward.lower(variables, image).cost_analysis()["flops"]
    assert operations(variables["params"], 256) == pytest.approx(counted, rel=0.07)
