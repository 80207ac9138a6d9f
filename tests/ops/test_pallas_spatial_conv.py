"""The spatial convolution as a Pallas kernel: its numbers, interpreted, and its compilation."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from ssa_jax.models.ssa_net import SSANet
from ssa_jax.ops import tuning
from ssa_jax.ops.pallas_spatial_conv import sizes_of, vmem_bytes
from ssa_jax.ops.spatial_conv import PASSES, spatial_convolution
from tests.ops.test_spatial_conv import published, random_case
from tests.support import ROOT
from tests.support import golden_numbers as golden

NAMES = [name for name, _, _ in PASSES]
interpreted = partial(spatial_convolution, implementation="pallas", interpret=True)


@pytest.fixture(scope="module")
def theirs():
    return golden.spatial_conv()


def value_and_gradients(convolve, x, kernels, cotangent):
    y, pullback = jax.vjp(convolve, x, kernels)
    return y, *pullback(cotangent)


def errors(ours, theirs):
    """Relative errors of the output, the map's gradient and each kernel's."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    widened = [(np.asarray(a, np.float32), np.asarray(b, np.float32)) for a, b in pairs]
    # The gradient of a kernel that sends nothing is 0 in both.
    return [golden.relative_error(a, b) if b.any() else np.abs(a).max() for a, b in widened]


def test_published_output_after_every_pass(theirs):
    x, kernels = golden.nhwc(theirs["x_nchw"]), published(theirs, "w")
    run = jax.jit(interpreted)
    for number, name in enumerate(NAMES, start=1):
        # A pass with a kernel of zeros changes nothing.
        so_far = {n: kernels[n] * np.float32(n in NAMES[:number]) for n in NAMES}
        expected = golden.nhwc(theirs[f"after_{name}"])
        assert golden.relative_error(run(x, so_far), expected) <= 1e-5


@pytest.mark.slow
def test_published_gradients(theirs):
    x, cotangent = (golden.nhwc(theirs[f"{name}_nchw"]) for name in ("x", "cotangent"))
    run = jax.jit(partial(value_and_gradients, interpreted))
    _, dx, dkernels = run(x, published(theirs, "w"), cotangent)
    assert golden.relative_error(dx, golden.nhwc(theirs["dx_nchw"])) <= 1e-5
    for name, expected in published(theirs, "dw").items():
        assert golden.relative_error(dkernels[name], expected) <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3, 5, 11, 4), 5),
        ((1, 2, 3, 2), 9),  # wider than the map
        ((2, 1, 4, 3), 5),  # nothing travels down or up
        ((6, 3, 64, 2), 3),  # rows in two blocks of three images, columns in one of six
    ],
)
def test_float32_agrees_with_the_scan(shape, size):
    x, kernels = random_case(shape, size)
    cotangent, _ = random_case(shape, size, seed=1)
    runs = [
        jax.jit(partial(value_and_gradients, convolve))(x, kernels, cotangent)
        for convolve in (interpreted, partial(spatial_convolution, implementation="scan"))
    ]
    assert max(errors(*runs)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "size"), [((1, 4, 4, 8), 3), ((3, 5, 11, 4), 5)])
def test_bfloat16_agrees_with_the_scan_in_float32(shape, size):
    """Only what is stored is rounded to bfloat16, by 2^-9, once for each slice of each pass."""
    x, kernels = random_case(shape, size)
    cotangent, _ = random_case(shape, size, seed=1)
    exact = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), (x, kernels, cotangent))
    ours = jax.jit(partial(value_and_gradients, interpreted))(*exact)
    assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {jnp.dtype(jnp.bfloat16)}
    scan = partial(spatial_convolution, implementation="scan")
    widened = jax.tree.map(lambda a: a.astype(jnp.float32), exact)
    of_y, *of_gradients = errors(ours, jax.jit(partial(value_and_gradients, scan))(*widened))
    assert of_y < 0.01
    assert max(of_gradients) < 0.02


def mapped(function):
    """A function of one device over four, whose batches lie along the first axis."""
    mesh = Mesh(np.array(jax.devices()[:4]), ("batch",))
    split, whole = PartitionSpec("batch"), PartitionSpec()
    sharded = jax.shard_map(
        lambda x, kernels: function(x[0], kernels)[None],
        mesh=mesh,
        in_specs=(split, whole),
        out_specs=split,
        check_vma=False,
    )
    return jax.jit(sharded)


@pytest.mark.slow
def test_gradients_over_devices_and_under_remat():
    """As in a training step: the gradient of a rematerialised layer, summed over the devices."""
    x, kernels = random_case((4, 2, 3, 4, 2), 3)

    def gradient(convolve, x, kernels):
        loss = jax.checkpoint(lambda kernels: jnp.sum(convolve(x, kernels) ** 2))
        return jax.lax.psum(jax.grad(loss)(kernels)["up"], "batch")

    ours, theirs = (
        np.asarray(mapped(partial(gradient, convolve))(x, kernels))
        for convolve in (interpreted, partial(spatial_convolution, implementation="scan"))
    )
    assert (ours == ours[:1]).all()
    assert golden.relative_error(ours, theirs) <= 1e-5


def test_in_the_whole_network(monkeypatch):
    """Its program has a kernel for each pass."""
    entry = replace(tuning.BY_BACKEND["cpu"], pallas_interpreted=True)
    monkeypatch.setitem(tuning.BY_BACKEND, "cpu", entry)
    image = jax.ShapeDtypeStruct((1, 64, 96, 2), jnp.float32)
    network = SSANet(stage_sizes=(1, 1, 1, 1), kernel_size=3, spatial_conv_implementation="pallas")
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, False), image)
    program = str(jax.make_jaxpr(partial(network.apply, train=False))(shapes, image))
    assert program.count("name=spatial_conv_pass") == len(PASSES)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_other_backends_than_a_tpu_are_refused(monkeypatch, backend):
    x, kernels = random_case((1, 3, 3, 2), 3)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with pytest.raises(
        ValueError, match=rf"'pallas' needs a TPU, and JAX's backend is '{backend}'"
    ):
        spatial_convolution(x, kernels, "pallas")


def test_kernels_too_large_for_vmem_are_refused():
    shape = jax.ShapeDtypeStruct((2, 8, 8, 1024), jnp.float32)
    kernel = jax.ShapeDtypeStruct((15, 1024, 1024), jnp.float32)
    with pytest.raises(ValueError, match=r"63,\d{3},\d{3} bytes in VMEM \(kernel 62,914,560"):
        jax.eval_shape(interpreted, shape, dict.fromkeys(NAMES, kernel))


def test_vmem_by_hand():
    """k = 9, C = 512 in bfloat16, 2x8x8: 16 rows, with 4 x 2 rows of zeros on either side."""
    slices = jax.ShapeDtypeStruct((8, 2, 8, 512), jnp.bfloat16)
    kernel = jax.ShapeDtypeStruct((9, 512, 512), jnp.bfloat16)
    assert vmem_bytes(sizes_of(slices, kernel)) == {
        "kernel": 9 * 512 * 512 * 2,
        "streamed slices": 2 * 2 * 16 * 512 * 2,  # in and out, two buffers each
        "streamed signs": 2 * 32 * 512,  # tiles of int8 have 32 rows
        "padded slice": 32 * 512 * 2,
        "sum and product": 2 * 16 * 512 * 4,
    }


@pytest.mark.parametrize(
    ("batch", "positions", "blocks", "images"),
    [(1, 4, 1, 1), (32, 4, 1, 32), (32, 64, 8, 4), (6, 64, 2, 3), (7, 64, 7, 1), (2, 300, 2, 1)],
)
def test_a_batch_is_cut_into_blocks(batch, positions, blocks, images):
    slices = jax.ShapeDtypeStruct((2, batch, positions, 8), jnp.float32)
    sizes = sizes_of(slices, jax.ShapeDtypeStruct((3, 8, 8), jnp.float32))
    assert (sizes.blocks, sizes.images) == (blocks, images)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu (extra 'tpu')")
@pytest.mark.parametrize("sharded", [[], ["--sharded"]], ids=["alone", "sharded"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mosaic_compiles_forward_and_backward_for_tpus(dtype, sharded):
    """In a process of its own, as libtpu reads its environment when JAX starts."""
    command = [sys.executable, "-m", "tests.tpu_programs", "--forms", "pallas", "--dtype", dtype]
    command += ["--shapes", "1x4x4", "3x5x11", "--channels", "64", "--kernel", "9", *sharded]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["chips"] for line in lines] == ["v5e:2x2"] * 2 + ["v6e:2x2"] * 2
    assert {line["Mosaic kernels"] for line in lines} == {8}  # four passes, forward and backward
