"""Programs compiled for TPUs and GPUs that are not at hand, and how fast they can be at best.

What is computed from the programs are bounds and a prediction by stated assumptions, not
measurements.
"""

import dataclasses
import hashlib
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ssa_jax.evaluation.inference import MIRRORED, forward
from ssa_jax.experiment import factory
from ssa_jax.experiment.chips import CHIPS, devices_of, least_ms, network_seconds, shape_of
from ssa_jax.experiment.hlo import Program
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.traffic import by_layer, bytes_of, least_traffic
from ssa_jax.experiment.training import make_step
from ssa_jax.models.operations import PASSES_OF_A_STEP, operations
from ssa_jax.models.ssa_net import STRIDE, SSANet
from ssa_jax.ops import tuning
from ssa_jax.training.mapping import SHARED, WHOLE, over_mesh
from ssa_jax.training.speed import GB, TERA
from ssa_jax.training.state import init_state, init_variables
from ssa_jax.training.step import AXIS

STEP, PREDICTION = "step", "prediction"
PROGRAMS = (STEP, PREDICTION)


@dataclasses.dataclass(frozen=True)
class Report:
    """What a program for one chip of a topology needs.

    Attributes:
        sha256: of the topology and the program before its compilation.
        topology: such as 'v5e:4x4' or 'h100'.
        program: 'step' (of training) or 'prediction'.
        size: height and width of the slices in pixels.
        batch: slices a chip.
        dtype: of the computation.
        chips: number of chips.
        kind: JAX's name of them.
        state_gb: what a program moves whatever the batch: the state, read, and by a step written.
        seconds: that the compilation took.
        memory_gb: arguments, results and temporaries together; None if it does not fit.
        doubt: why it does not fit, empty if it does.
        teraflops: 10^12 multiplications and additions by `models.operations`.
        traffic_gb: read from and written to main memory by `hlo.Program.traffic`.
        xla_gb: the same as XLA counts it ('bytes accessed'), with vector memory, loops once; None
            on GPUs, for which it does not tell.
        layers: bytes of `traffic_gb` by layer and direction, see `traffic.layer_of`.
        least: the least possible of it, see `traffic.least_traffic`.
        started: number of operations that the device starts: kernels, library calls, copies.
        collectives: number and bytes of the collective operations by kind.
        arithmetic_ms: `teraflops` at the chip's bfloat16 peak.
        memory_ms: `traffic_gb` at the memory's bandwidth.
        network_ms: the collectives, see `chips.network_seconds`.
    """

    sha256: str
    topology: str
    program: str
    size: int
    batch: int
    dtype: str
    chips: int
    kind: str
    state_gb: float
    least: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    memory_gb: float | None = None
    doubt: str = ""
    teraflops: float = 0.0
    traffic_gb: float = 0.0
    xla_gb: float | None = None
    layers: dict[str, int] = dataclasses.field(default_factory=dict)
    started: int = 0
    collectives: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    arithmetic_ms: float = 0.0
    memory_ms: float = 0.0
    network_ms: float = 0.0

    @property
    def least_gb(self) -> float:
        """The least possible `traffic_gb`."""
        return sum(self.least.values()) / GB

    @property
    def predicted_ms(self) -> float:
        """Predicted time: the longer of arithmetic and memory, which overlap, then the network."""
        return max(self.arithmetic_ms, self.memory_ms) + self.network_ms

    @property
    def images_per_second(self) -> float:
        """Slices a second of all chips by `predicted_ms`."""
        return 1000 * self.batch * self.chips / self.predicted_ms

    @property
    def balanced_batch(self) -> float | None:
        """Slices a chip from which arithmetic takes longer than memory; None for never.

        It takes the traffic but for the state's to grow with the batch.
        """
        arithmetic = self.arithmetic_ms / self.batch
        state = self.memory_ms * self.state_gb / self.traffic_gb
        a_slice = (self.memory_ms - state) / self.batch
        return None if arithmetic <= a_slice else max(1.0, state / (arithmetic - a_slice))


class Traced(NamedTuple):
    """A program for a topology before its compilation.

    Attributes:
        report: what is known of it.
        lowered: JAX's stage of it.
        operations: multiplications and additions of a chip.
    """

    report: Report
    lowered: Any
    operations: float

    def compile(self) -> Report:
        """Compile it, which takes minutes, and take it apart."""
        start = time.perf_counter()
        try:
            compiled = self.lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return dataclasses.replace(self.report, doubt=str(error).strip().splitlines()[0])
        seconds = time.perf_counter() - start
        report = dataclasses.replace(self.report, seconds=seconds)
        return _taken_apart(report, compiled, self.operations)


def trace_for(settings: Settings, topology: str, program: str, batch: int) -> Traced:
    """Trace a program for a topology.

    Args:
        settings: of the network and its training; `train.batch_size` is not read.
        topology: see `chips.devices_of`.
        program: 'step' or 'prediction', which with `eval.flip` takes the mirror images too.
        batch: slices a chip.

    Raises:
        ValueError: the compiler is missing, an unknown topology or program, or a size that is not
            a multiple of 32.
    """
    if program not in PROGRAMS:
        raise ValueError(f"program is {program!r}; expected one of {PROGRAMS}")
    size = settings.data.image_size
    if size % STRIDE:
        raise ValueError(f"data.image_size is {size}; expected a multiple of {STRIDE}")
    devices = devices_of(topology)
    train = dataclasses.replace(settings.train, batch_size=batch * len(devices))
    settings = dataclasses.replace(settings, train=train)
    with tuning.compiling_for(devices[0].platform):
        axis = AXIS if program == STEP else None
        model = factory.build_model(settings, axis, devices=len(devices))
        lowered, state = _lowered(settings, model, Mesh(np.array(devices), (AXIS,)), program)
        passes = len(MIRRORED) if program == PREDICTION and settings.eval.flip else 1
        shape = (passes * batch, size, size, factory.preprocessing(settings).channels)
        image = jax.ShapeDtypeStruct(shape, jnp.float32)
        least = least_traffic(model, state, image, step=program == STEP)
    report = Report(
        sha256=hashlib.sha256(f"{topology}\n{lowered.as_text()}".encode()).hexdigest(),
        topology=topology,
        program=program,
        size=size,
        batch=batch,
        dtype=settings.model.dtype,
        chips=len(devices),
        kind=devices[0].device_kind,
        state_gb=(2 * bytes_of(state) if program == STEP else bytes_of(state.variables)) / GB,
        least=dict(least),
    )
    passes = PASSES_OF_A_STEP if program == STEP else passes
    return Traced(report, lowered, passes * operations(state.params, size) * batch)


def _lowered(settings: Settings, model: SSANet, mesh: Mesh, program: str) -> tuple[Any, Any]:
    """Trace a program over a mesh; returns it and the shapes of the state."""
    whole, split = NamedSharding(mesh, WHOLE), NamedSharding(mesh, SHARED)
    _, optimizer = factory.optimizer(settings, steps_per_epoch=100)

    def fresh() -> Any:
        variables = init_variables(model.clone(axis_name=None), jax.random.key(0), channels)
        return init_state(variables, optimizer, average=settings.optim.average_decay > 0)

    channels = factory.preprocessing(settings).channels
    shapes = jax.eval_shape(fresh)
    state = jax.tree.map(partial(_placed, whole), shapes)
    size = settings.data.image_size
    pixels = (settings.train.batch_size, size, size)
    image = jax.ShapeDtypeStruct((*pixels, channels), jnp.float32, sharding=split)
    if program == PREDICTION:
        applied = jax.jit(partial(forward, model, settings.eval.flip))
        return applied.lower(state.variables, image), shapes
    batch = {
        "image": image,
        "mask": jax.ShapeDtypeStruct(pixels, jnp.int32, sharding=split),
        "weight": jax.ShapeDtypeStruct((*pixels, 1), jnp.float32, sharding=split),
    }
    weight = jax.ShapeDtypeStruct((max(model.outputs, 2),), jnp.float32, sharding=whole)
    step = make_step(settings, optimizer, 100, model)
    return over_mesh(step, mesh).lower(state, batch, weight), shapes


def _placed(sharding: NamedSharding, shape: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _taken_apart(report: Report, compiled: Any, of_chip: float) -> Report:
    """Fill in what the compiled program tells."""
    chip, memory = CHIPS[report.kind], compiled.memory_analysis()
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    if needed > chip.memory * GB:
        doubt = f"It needs {needed / GB:.1f} GB of {chip.memory}."
        return dataclasses.replace(report, doubt=doubt)
    program = Program(compiled.as_text())
    traffic = program.traffic()
    collectives = program.collectives()
    arithmetic, moving = least_ms(report.kind, of_chip, sum(traffic.values()))
    cost = compiled.cost_analysis()
    return dataclasses.replace(
        report,
        memory_gb=needed / GB,
        teraflops=of_chip / TERA,
        traffic_gb=sum(traffic.values()) / GB,
        xla_gb=cost["bytes accessed"] / GB if cost else None,
        layers=dict(by_layer(traffic).most_common()),
        started=program.started(),
        collectives={
            kind: (len(sizes), sum(sizes))
            for kind in sorted({x.kind for x in collectives})
            if (sizes := [x.size for x in collectives if x.kind == kind])
        },
        arithmetic_ms=arithmetic,
        memory_ms=moving,
        network_ms=1000 * network_seconds(collectives, shape_of(report.topology), chip),
    )
