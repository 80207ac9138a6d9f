"""Speed of training step and inference, beside the published network in PyTorch."""

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from launch.benchmark import results
from launch.benchmark.timing import (
    Run,
    best_of,
    in_processes,
    in_turns,
    jitted,
    machine,
    read_in_turns,
    spread,
    torch_installed,
)
from launch.cli import positive_int
from ssa_jax.experiment.factory import DTYPES
from ssa_jax.models.decoder import Decoder
from ssa_jax.models.layers import SpatialConv
from ssa_jax.models.operations import PASSES_OF_A_STEP, operations
from ssa_jax.models.resnet import ResNet34
from ssa_jax.models.ssa_net import Prediction, SSANet
from ssa_jax.ops import tuning
from ssa_jax.training.mapping import map_step
from ssa_jax.training.optim import make_optimizer
from ssa_jax.training.state import Variables, drawn_variables, init_state, init_variables
from ssa_jax.training.step import AXIS, LossWeights, make_train_step, total_loss

CHANNELS = 2
FIRST, SPEED, PARTS = (  # titles of the tables
    "First runs, which compile",
    "Images a second",
    "Milliseconds by part, each compiled alone",
)
STEPS_OF_A_RUN = 10  # where computations are dispatched asynchronously
TORCH_VARIANTS = {  # of the network: memory layout, and whether torch.compile is used
    "PyTorch": ("NCHW", False),
    "PyTorch, channels_last": ("channels_last", False),
    "PyTorch, channels_last, compiled": ("channels_last", True),
}
SETTINGS = LossWeights(
    dice=1.0,
    cross_entropy=0.5,
    alpha=0.1,
    start_epoch=0.0,
    ramp_epochs=0.0,
    normalize="none",
    stop_gradient=False,
)
CLASS_WEIGHT = (1.0, 1.0)


def add_options(parser: argparse.ArgumentParser, *, training: bool) -> None:
    """Add the flags of this measurement: sizes, batches and types to compare.

    Args:
        parser: to add them to.
        training: whether to add a flag for the parts of a training step.
    """
    parser.add_argument(
        "--sizes", nargs="+", type=positive_int, default=[256], help="image sides [256]"
    )
    parser.add_argument(
        "--batches", nargs="+", type=positive_int, default=[2, 4], help="batch sizes [2 4]"
    )
    parser.add_argument(
        "--dtypes", nargs="+", choices=list(DTYPES), default=["float32"], help="[float32]"
    )
    results.add_resume_flag(parser)
    if not training:
        return
    parser.add_argument(
        "--parts",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also the parts of a step, each compiled and timed alone [yes]",
    )


def measure(options: argparse.Namespace, *, training: bool) -> None:
    """Measure, print, and write `train_step.json` and `.md`, or `inference.json` and `.md`.

    Args:
        options: see `add_options`, with `repeats` and `out`.
        training: the training step, or inference.
    """
    name = "train_step" if training else "inference"
    found = results.Results(options.out, name, machine, resume=options.resume)
    for size, batch, dtype in itertools.product(options.sizes, options.batches, options.dtypes):
        case = {"px": size, "batch": batch, "dtype": dtype}
        if not found.has(SPEED, case):
            _compare(case, options.repeats, found, training)
        if training and options.parts and not found.has(PARTS, case):
            found.add(PARTS, [case | _parts(size, batch, dtype, options.repeats)])


def _compare(case: dict[str, Any], repeats: int, found: results.Results, training: bool) -> None:
    """Measure ours and each of PyTorch's variants in turns; add a row for each."""
    count = STEPS_OF_A_RUN if tuning.for_backend().asynchronous else 1
    size, batch, dtype = case.values()
    names = list(TORCH_VARIANTS) if torch_installed() else []
    makers = {"ssa_jax": partial(our_run, size, batch, dtype, training, count)}
    for name in names:
        makers[name] = partial(torch_run, name, size, batch, dtype, training, count)
    with in_processes(makers) as clocks:
        for name, clock in clocks.items():  # each kept at once, as the next may take minutes
            row, first = {**case, "what": name}, clock.first()
            if not found.has(FIRST, row):
                found.add(FIRST, [row | first])
        seconds = read_in_turns(clocks, repeats)
    best = best_of({name: seconds[name] for name in names}) if names else None
    passes = PASSES_OF_A_STEP if training else 1
    gflops = count * passes * batch * operations(_shapes(), size) / 1e9
    ceiling = found.machine[f"matmul_gflops_{dtype}"]
    rows = [
        {
            **case,
            "what": name,
            "images/s": spread(count * batch / taken),
            "this / PyTorch's best": spread(seconds[best] / taken) if best else None,
            "share of matmul ceiling": gflops / float(np.median(taken)) / ceiling,
        }
        for name, taken in seconds.items()
    ]
    found.add(SPEED, rows)


def random_batch(size: int, batch: int) -> dict[str, np.ndarray]:
    """Draw a batch of noise with a tenth of lesion; the speed does not depend on the values.

    Args:
        size: height and width in pixels.
        batch: number of slices.

    Returns:
        'image', 'mask' and 'weight', see `step.make_train_step`.
    """
    rng = np.random.default_rng(0)
    return {
        "image": rng.random((batch, size, size, CHANNELS), np.float32),
        "mask": (rng.random((batch, size, size)) > 0.9).astype(np.int32),
        "weight": np.ones((batch, size, size, 1), np.float32),
    }


def placed_variables(model: SSANet) -> Variables:
    """Draw variables, see `state.drawn_variables`, and place them on the device.

    Args:
        model: the network.
    """
    drawn: Variables = jax.device_put(drawn_variables(model, CHANNELS))
    return jax.block_until_ready(drawn)


def _optimizer() -> optax.GradientTransformation:
    """Make the optimiser of `configs/base.py` with a constant learning rate."""
    return make_optimizer(
        optax.constant_schedule(1e-3), weight_decay=1e-8, clip_norm=0.0, accumulate_steps=1
    )


def step_run(model: SSANet, variables: Variables, data: dict[str, np.ndarray], count: int) -> Run:
    """Make a run of training steps as in `ssa-jax train`, with the batch on the device.

    Args:
        model: the network.
        variables: to start from.
        data: see `random_batch`.
        count: steps of the run.
    """
    optimizer = _optimizer()
    step = make_train_step(
        model.clone(axis_name=AXIS), optimizer, SETTINGS, steps_per_epoch=100, average_decay=0.0
    )
    mapped = map_step(step, "pmap", CLASS_WEIGHT)
    placed = mapped.place_batch(data)
    state = mapped.place_state(init_state(variables, optimizer, average=False))

    def run() -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = mapped.step(state, placed)
        jax.block_until_ready((state, metrics))

    return run


def inference_run(
    model: SSANet, variables: Variables, data: dict[str, np.ndarray], count: int
) -> Run:
    """Make a run of inferences, with the batch on the device.

    Args:
        model: the network.
        variables: its own.
        data: see `random_batch`.
        count: inferences of the run.
    """
    forward = jax.jit(lambda v, x: model.apply(v, x, train=False))
    on_device = jax.device_put((variables, data["image"]))
    return lambda: jax.block_until_ready([forward(*on_device) for _ in range(count)])


def our_run(size: int, batch: int, dtype: str, training: bool, count: int) -> dict[str, Run]:
    """Make a run of our training steps or inferences.

    Args:
        size: height and width in pixels.
        batch: number of slices.
        dtype: of the computation.
        training: the training step, or inference.
        count: steps or inferences of the run.
    """
    model, data = SSANet(skip="add", dtype=DTYPES[dtype]), random_batch(size, batch)
    variables = placed_variables(model)
    return {"ssa_jax": (step_run if training else inference_run)(model, variables, data, count)}


def torch_run(
    name: str, size: int, batch: int, dtype: str, training: bool, count: int
) -> dict[str, Run]:
    """Make the same run of one of PyTorch's variants.

    Args:
        name: key of `TORCH_VARIANTS`.
        size: height and width in pixels.
        batch: number of slices.
        dtype: of the computation.
        training: the training step, or inference.
        count: steps or inferences of the run.
    """
    from launch.benchmark import torch_twin

    data = random_batch(size, batch)
    layout, compiled = TORCH_VARIANTS[name]
    run = torch_twin.network_run(
        data["image"],
        data["mask"],
        dtype,
        layout=layout,
        compiled=compiled,
        training=training,
        count=count,
    )
    return {name: run}


def _shapes() -> Any:
    """Return the shapes of the network's parameters."""
    key = jax.random.key(0)
    return jax.eval_shape(lambda: init_variables(SSANet(skip="add"), key, CHANNELS))["params"]


def _parts(size: int, batch: int, dtype: str, repeats: int) -> dict[str, Any]:
    """Measure the milliseconds of each part, forward and backward, compiled and timed alone."""
    data = random_batch(size, batch)
    model = SSANet(skip="add", dtype=DTYPES[dtype])
    variables = placed_variables(model)
    seconds = in_turns(_part_runs(model, variables, data), repeats)
    return {name: spread(1e3 * taken) for name, taken in seconds.items()}


def _part_runs(model: SSANet, variables: Variables, data: dict[str, np.ndarray]) -> dict[str, Run]:
    """Make a run of each part of the step."""
    norm = model.norm(train=True)
    encoder = ResNet34(model.encoder, norm, model.dtype)
    spatial = SpatialConv(model.kernel_size, model.spatial_conv_implementation, model.dtype)
    decoder = Decoder(model.outputs, model.skip, norm, model.dtype)

    def part(module: Any, name: str) -> tuple[Callable[..., Any], Any]:
        def apply(params: Any, x: Any) -> Any:
            given = {"params": params, "batch_stats": variables["batch_stats"].get(name, {})}
            return module.apply(given, x, mutable=["batch_stats"])[0]

        return apply, variables["params"][name]

    image = jnp.asarray(data["image"], model.dtype)
    encode, encoder_params = part(encoder, "encoder")
    stages = jax.jit(encode)(encoder_params, image)
    passes, spatial_params = part(spatial, "spatial_conv")
    decode, decoder_params = part(decoder, "decoder")
    prediction = model.apply(variables, image, train=False)
    assert isinstance(prediction, Prediction)
    optimizer = _optimizer()
    opt_state = optimizer.init(variables["params"])
    weights = jnp.array(CLASS_WEIGHT)

    def update(gradients: Any, opt_state: Any, params: Any) -> Any:
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return {
        "encoder": _both_ways(encode, encoder_params, image),
        "spatial convolution": _both_ways(passes, spatial_params, stages[-1]),
        "decoder": _both_ways(decode, decoder_params, stages),
        "loss": _both_ways(
            lambda p, _: total_loss(p, data, weights, SETTINGS, 0.0)[0], prediction, 0.0
        ),
        "optimiser": jitted(update, variables["params"], opt_state, variables["params"]),
    }


def _both_ways(function: Callable[..., Any], params: Any, x: Any) -> Run:
    """Make a run of forward and backward pass; the cotangent is the output itself."""

    def both(params: Any, x: Any) -> Any:
        y, pullback = jax.vjp(function, params, x)
        return pullback(y)

    return jitted(both, params, x)
