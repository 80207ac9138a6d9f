import jax
import jax.numpy as jnp
import optax
import pytest

from ssa_jax.experiment.traffic import layer_of, least_traffic
from ssa_jax.models.ssa_net import SSANet
from ssa_jax.training.state import init_state


@pytest.mark.parametrize(
    ("scope", "layer"),
    [
        ("jit(step)/shard_map/jvp(SSANet)/encoder/stem_norm/psum", "stem"),
        ("jit(step)/transpose(jvp(SSANet))/encoder/stage3_block1/conv2/mul", "stage3 backward"),
        ("jit(step)/transpose(jvp(SSANet))/encoder/select_and_scatter", "stem backward"),
        ("jit(step)/jvp(SSANet)/spatial_conv/while/body/dot_general", "spatial_conv"),
        ("jit(step)/jvp(SSANet)/decoder/decoder._head/head_conv2/conv", "head"),
        ("jit(step)/jvp(SSANet)/decoder/layer2/conv1/dot", "decoder layer2"),
        ("jit(step)/jvp(SSANet)/integer_pow", "attention"),
        ("jit(step)/jvp(SSANet)/decoder/layer2/deconv2/transpose()/conv", "decoder layer2"),
        ("jit(step)/transpose(jvp(SSANet))/decoder/layer2/deconv2/conv", "decoder layer2 backward"),
        ("jit(step)/mul", "outside the network"),
        ("", "outside the network"),
    ],
)
def test_layer_of_a_scope(scope, layer):
    assert layer_of(scope) == layer


def shapes(model, image):
    def state():
        variables = model.init(jax.random.key(0), jnp.zeros(image.shape), train=False)
        return init_state(variables, optax.adam(1e-3), average=True)

    return jax.eval_shape(state)


def test_least_traffic_by_hand():
    image = jax.ShapeDtypeStruct((2, 64, 64, 1), jnp.float32)
    model = SSANet(stage_sizes=(1, 1, 1, 1), dtype=jnp.bfloat16)
    state = shapes(model, image)
    forward = least_traffic(model, state, image, step=False)
    # The stem: 7x7 from 1 to 64 channels, BatchNorm's scale and bias; 32 x 32 pixels of 64.
    stem, result = 49 * 64 + 2 * 64, 2 * 2 * 32 * 32 * 64
    assert forward["stem"] == 4 * stem + 2 * result
    # The head: 4x4 from 64 to 32 channels to 64 x 64 pixels, 3x3 to 32 and to 1, with biases.
    head = 16 * 64 * 32 + 32 + 9 * 32 * 32 + 32 + 9 * 32 + 1
    result = 2 * 2 * 64 * 64 * (32 + 32 + 1)
    assert forward["head"] == 4 * head + 2 * result
    assert forward["spatial_conv"] == 4 * 4 * 9 * 512 * 512 + 2 * 2 * 2 * 2 * 2 * 512
    step = least_traffic(model, state, image, step=True)
    assert {layer: step[layer] for layer in forward} == forward
    assert step["head backward"] == 2 * 2 * head + 2 * result
    # Parameters, two moments and the average; running statistics and theirs; two counters.
    numbers = {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree))
        for name, tree in (("params", state.params), ("stats", state.batch_stats))
    }
    held = 4 * (4 * numbers["params"] + 2 * numbers["stats"] + 2)
    assert step["outside the network"] == 2 * held + 2 * numbers["params"]


def test_least_traffic_does_not_depend_on_how_the_head_is_kept():
    image = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)
    plain = SSANet(stage_sizes=(1, 1, 1, 1), head_in_blocks=False)
    state = shapes(plain, image)
    blocks = plain.clone(head_in_blocks=True)
    assert least_traffic(plain, state, image, step=True) == least_traffic(
        blocks, state, image, step=True
    )
