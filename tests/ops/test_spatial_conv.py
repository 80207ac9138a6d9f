"""Spatial convolution: the published numbers, equation 5 as a loop, and its limits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssa_jax.models.layers import SpatialConv
from ssa_jax.ops.spatial_conv import ON_ANY_BACKEND, PASSES, spatial_convolution
from tests.support import golden_numbers as golden

NAMES = [name for name, _, _ in PASSES]


@pytest.fixture(scope="module")
def theirs():
    return golden.spatial_conv()


def published(theirs, prefix):
    """Kernels (or their gradients): PyTorch's `[O, I, 1, k]` or `[O, I, k, 1]` as `[k, I, O]`."""
    weights = {name: theirs[f"{prefix}_{name}"] for name in NAMES}
    return {name: w.reshape(*w.shape[:2], -1).transpose(2, 1, 0) for name, w in weights.items()}


def random_case(shape, size, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape, np.float32)
    draw = partial(rng.standard_normal, (size, shape[-1], shape[-1]), np.float32)
    return x, {name: 0.3 * draw() for name in NAMES}


def equation_5(x, kernels):
    """The four passes, number by number, in float64."""
    x = x.astype(np.float64)
    for name, axis, step in (("down", 1, 1), ("up", 1, -1), ("right", 2, 1), ("left", 2, -1)):
        kernel = kernels[name].astype(np.float64)
        y = np.moveaxis(x, axis, 1)[:, ::step].copy()  # the pass travels along axis 1
        for j in range(1, y.shape[1]):
            for position in range(y.shape[2]):
                message = np.zeros((y.shape[0], y.shape[3]))
                for tap in range(len(kernel)):
                    source = position + tap - len(kernel) // 2
                    if 0 <= source < y.shape[2]:
                        message += y[:, j - 1, source] @ kernel[tap]
                y[:, j, position] += np.maximum(message, 0)
        x = np.moveaxis(y[:, ::step], 1, axis)
    return x


@pytest.mark.parametrize("impl", ON_ANY_BACKEND)
def test_published_output_after_every_pass(theirs, impl):
    x = golden.nhwc(theirs["x_nchw"])
    kernels = published(theirs, "w")
    run = jax.jit(partial(spatial_convolution, implementation=impl))
    order = ("down", "up", "right", "left")
    for number, name in enumerate(order, start=1):
        # A pass with a kernel of zeros changes nothing.
        so_far = {n: kernels[n] * np.float32(n in order[:number]) for n in order}
        expected = golden.nhwc(theirs[f"after_{name}"])
        assert golden.relative_error(run(x, so_far), expected) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("impl", ON_ANY_BACKEND)
def test_published_gradients(theirs, impl):
    x, cotangent = (golden.nhwc(theirs[f"{name}_nchw"]) for name in ("x", "cotangent"))

    @jax.jit
    def gradients(x, kernels):
        return jax.vjp(partial(spatial_convolution, implementation=impl), x, kernels)[1](cotangent)

    dx, dkernels = gradients(x, published(theirs, "w"))
    assert golden.relative_error(dx, golden.nhwc(theirs["dx_nchw"])) <= 1e-5
    for name, expected in published(theirs, "dw").items():
        assert golden.relative_error(dkernels[name], expected) <= 1e-5, name


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 3, 5, 2), 3),
        ((2, 4, 3, 2), 9),  # wider than the map
        ((2, 1, 4, 3), 5),  # nothing travels down or up
        ((1, 1, 1, 2), 9),  # a 32 x 32 image
        ((4, 4, 6, 2), 9),  # large enough to be filtered, in rows of four and in triples
    ],
)
@pytest.mark.parametrize("impl", ON_ANY_BACKEND)
def test_equation_5_as_a_loop(shape, size, impl):
    x, kernels = random_case(shape, size)
    y = jax.jit(partial(spatial_convolution, implementation=impl))(x, kernels)
    np.testing.assert_allclose(y, equation_5(x, kernels), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("unroll", [1, 3])
@pytest.mark.parametrize("impl", ["filtered", "custom_vjp", "scan"])
@pytest.mark.parametrize(("shape", "size"), [((2, 5, 7, 4), 5), ((4, 8, 4, 4), 9)])
def test_scans_agree_with_the_unrolled_loop_in_value_and_gradient(shape, size, impl, unroll):
    x, kernels = jax.tree.map(jnp.asarray, random_case(shape, size))

    @partial(jax.jit, static_argnames=("impl", "unroll"))
    def value_and_gradients(impl, unroll=1):
        y, pullback = jax.vjp(
            partial(spatial_convolution, implementation=impl, unroll=unroll), x, kernels
        )
        return y, pullback(x)

    scanned = jax.tree.leaves(value_and_gradients(impl, unroll))
    for ours, theirs in zip(scanned, jax.tree.leaves(value_and_gradients("unrolled")), strict=True):
        assert golden.relative_error(ours, theirs) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("impl", ON_ANY_BACKEND)
def test_bfloat16_stays_close_to_the_published_numbers(theirs, impl):
    x, cotangent = (golden.nhwc(theirs[f"{name}_nchw"]) for name in ("x", "cotangent"))
    to_bfloat16 = partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, jnp.bfloat16))

    @jax.jit
    def value_and_gradients(x, kernels, cotangent):
        y, pullback = jax.vjp(partial(spatial_convolution, implementation=impl), x, kernels)
        return y, *pullback(cotangent)

    made = value_and_gradients(*to_bfloat16((x, published(theirs, "w"), cotangent)))
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.bfloat16)}
    y, dx, dkernels = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), made)
    assert golden.relative_error(y, golden.nhwc(theirs["y_nchw"])) < 0.01
    # Rounding the inputs alone, computed in float32, moves the gradients by up to 0.091: messages
    # near 0 change sign.
    assert golden.relative_error(dx, golden.nhwc(theirs["dx_nchw"])) < 0.1
    for name, expected in published(theirs, "dw").items():
        assert golden.relative_error(dkernels[name], expected) < 0.1, name


def test_even_kernels_and_unknown_implementations_are_refused():
    x, kernels = random_case((1, 3, 3, 2), 4)
    with pytest.raises(ValueError, match=r"kernel width is 4; expected an odd one"):
        spatial_convolution(x, kernels)
    with pytest.raises(ValueError, match=r"implementation is 'loop'; expected one of"):
        spatial_convolution(x, kernels, "loop")


def test_bfloat16_stays_close_and_keeps_float32_parameters():
    x, kernels = random_case((2, 4, 4, 8), 3)
    module = SpatialConv(kernel_size=3, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    assert {(leaf.shape, str(leaf.dtype)) for leaf in shapes.values()} == {((3, 8, 8), "float32")}
    y = jax.jit(module.apply)({"params": kernels}, x)
    assert y.dtype == jnp.bfloat16
    # bfloat16 keeps 8 bits: 2^-9 for each of the few roundings that add up.
    assert golden.relative_error(y.astype(jnp.float32), equation_5(x, kernels)) < 0.02
