"""Programs compiled for TPUs that are not at hand, and how fast they can be at best.

libtpu compiles without a TPU (https://docs.jax.dev/en/latest/aot.html). What is computed from its
programs are bounds and a prediction by stated assumptions, not measurements.
"""

import dataclasses
import hashlib
import importlib.util
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from ssa_jax.evaluation.inference import MIRRORED, forward
from ssa_jax.experiment import factory
from ssa_jax.experiment.hlo import Collective, Program
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.training import make_step
from ssa_jax.models.operations import PASSES_OF_A_STEP, operations
from ssa_jax.models.ssa_net import STRIDE, SSANet
from ssa_jax.ops import tuning
from ssa_jax.training.mapping import SHARED, WHOLE, over_mesh
from ssa_jax.training.speed import GB, PEAKS, TERA
from ssa_jax.training.state import init_state, init_variables
from ssa_jax.training.step import AXIS

BACKEND = "tpu"
STEP, PREDICTION = "step", "prediction"
PROGRAMS = (STEP, PREDICTION)
HOP_SECONDS = 1e-6  # from a chip to its neighbour, https://jax-ml.github.io/scaling-book/
# libtpu asks the cloud's metadata service and the environment which TPU there is: none.
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Chip(NamedTuple):
    """A kind of TPU, by Google's documentation (docs.cloud.google.com/tpu/docs/v5e and so on).

    Attributes:
        memory: GB of main memory.
        bandwidth: GB a second of it.
        network: GB a second between chips, over all links, both directions added.
    """

    memory: float
    bandwidth: float
    network: float


CHIPS = {  # by JAX's name
    "TPU v5 lite": Chip(16, 819, 400),
    "TPU v5": Chip(95, 2765, 1200),
    "TPU v6 lite": Chip(32, 1638, 800),
}


@dataclasses.dataclass(frozen=True)
class Report:
    """What a program for one chip of a topology needs.

    Attributes:
        sha256: of the program before its compilation.
        topology: such as 'v5e:4x4'.
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
        xla_gb: the same as XLA counts it ('bytes accessed'), with vector memory, loops once.
        layers: bytes of `traffic_gb` by layer and direction, see `layer_of`.
        collectives: number and bytes of the collective operations by kind.
        arithmetic_ms: `teraflops` at the chip's bfloat16 peak.
        memory_ms: `traffic_gb` at the memory's bandwidth.
        network_ms: the collectives, see `network_seconds`.
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
    seconds: float = 0.0
    memory_gb: float | None = None
    doubt: str = ""
    teraflops: float = 0.0
    traffic_gb: float = 0.0
    xla_gb: float = 0.0
    layers: dict[str, int] = dataclasses.field(default_factory=dict)
    collectives: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    arithmetic_ms: float = 0.0
    memory_ms: float = 0.0
    network_ms: float = 0.0

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
        topology: such as 'v5e:4x4', 'v6e:2x2' or 'v5p:2x2x1'.
        program: 'step' or 'prediction', which with `eval.flip` takes the mirror images too.
        batch: slices a chip.

    Raises:
        ValueError: libtpu is missing, an unknown topology or program, or a size that is not a
            multiple of 32.
    """
    if program not in PROGRAMS:
        raise ValueError(f"program is {program!r}; expected one of {PROGRAMS}")
    size = settings.data.image_size
    if size % STRIDE:
        raise ValueError(f"data.image_size is {size}; expected a multiple of {STRIDE}")
    devices = devices_of(topology)
    train = dataclasses.replace(settings.train, batch_size=batch * len(devices))
    settings = dataclasses.replace(settings, train=train)
    with tuning.compiling_for(BACKEND):
        model = factory.build_model(settings, AXIS, devices=len(devices))
        lowered, state = _lowered(settings, model, Mesh(np.array(devices), (AXIS,)), program)
    passes = PASSES_OF_A_STEP if program == STEP else (len(MIRRORED) if settings.eval.flip else 1)
    report = Report(
        sha256=hashlib.sha256(lowered.as_text().encode()).hexdigest(),
        topology=topology,
        program=program,
        size=size,
        batch=batch,
        dtype=settings.model.dtype,
        chips=len(devices),
        kind=devices[0].device_kind,
        state_gb=_bytes_of(program, state) / GB,
    )
    return Traced(report, lowered, passes * operations(state.params, size) * batch)


def devices_of(topology: str) -> list[Any]:
    """Return the devices of a topology, as libtpu describes them.

    To be called before JAX is used, of which the CPU then is the backend.

    Args:
        topology: see `trace_for`.

    Raises:
        ValueError: libtpu is missing, or an unknown topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("the package libtpu compiles for TPUs: pip install 'ssa_jax[tpu]'")
    for name, value in WITHOUT_TPU.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    try:
        described = topologies.get_topology_desc(platform=BACKEND, topology_name=topology)
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        raise ValueError(
            f"--topology {topology}: libtpu has none such ({error}); expected v5e:4x4, v6e:2x2, "
            "v5p:2x2x1 or the like"
        ) from None
    found: list[Any] = list(described.devices)
    if found[0].device_kind not in CHIPS:
        raise ValueError(
            f"--topology {topology}: no figures of {found[0].device_kind!r}; expected a topology "
            f"of {', '.join(CHIPS)}"
        )
    return found


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


def _bytes_of(program: str, state: Any) -> int:
    """Return the bytes of the state that a program reads, and a step writes as well."""
    read = state if program == STEP else state.variables
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(read))
    return size * (2 if program == STEP else 1)


def _taken_apart(report: Report, compiled: Any, of_chip: float) -> Report:
    """Fill in what the compiled program tells."""
    memory = compiled.memory_analysis()
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    program = Program(compiled.as_text())
    traffic = program.traffic()
    collectives = program.collectives()
    arithmetic, moving = least_ms(report.kind, of_chip, sum(traffic.values()))
    shape = [int(side) for side in report.topology.split(":")[1].split("x")]
    return dataclasses.replace(
        report,
        memory_gb=needed / GB,
        teraflops=of_chip / TERA,
        traffic_gb=sum(traffic.values()) / GB,
        xla_gb=compiled.cost_analysis()["bytes accessed"] / GB,
        layers=dict(_by_layer(traffic).most_common()),
        collectives={
            kind: (len(sizes), sum(sizes))
            for kind in sorted({x.kind for x in collectives})
            if (sizes := [x.size for x in collectives if x.kind == kind])
        },
        arithmetic_ms=arithmetic,
        memory_ms=moving,
        network_ms=1000 * network_seconds(collectives, shape, CHIPS[report.kind]),
    )


def least_ms(kind: str, operations: float, traffic: float) -> tuple[float, float]:
    """Return how long a chip takes by its data sheet for arithmetic, and for its main memory.

    Args:
        kind: JAX's name of the chip, one of `CHIPS`.
        operations: multiplications and additions, at the peak of bfloat16.
        traffic: bytes read from and written to main memory.

    Returns:
        Milliseconds of each.
    """
    peak = next(peak for name, peak in PEAKS.items() if kind.startswith(name))
    return 1000 * operations / TERA / peak, 1000 * traffic / GB / CHIPS[kind].bandwidth


def _by_layer(traffic: Counter[str]) -> Counter[str]:
    """Add up the bytes of scopes by layer."""
    found: Counter[str] = Counter()
    for scope, size in traffic.items():
        found[layer_of(scope)] += size
    return found


def layer_of(scope: str) -> str:
    """Return the layer that a scope of a program belongs to, and 'backward' where it is that.

    Args:
        scope: see `hlo.Instruction`.

    Example:
        >>> layer_of("jit(step)/transpose(jvp(SSANet))/encoder/stage1_block2/conv1/add")
        'stage1 backward'
        >>> layer_of("jit(step)/mul")
        'outside the network'
    """
    inside = scope.partition(SSANet.__name__)[2].split("/")[1:]
    if not inside:
        return "outside the network"
    part, *rest = inside
    if part == "encoder":
        named = [name for name in rest if name.startswith("stage")]
        part = named[0].partition("_")[0] if named else "stem"
    elif part == "decoder" and len(rest) > 1:
        part = "head" if rest[0] == "decoder._head" else f"decoder {rest[0]}"
    elif part not in ("decoder", "spatial_conv"):
        part = "attention"
    return f"{part} backward" if "transpose(" in scope else part


def network_seconds(collectives: Iterable[Collective], shape: Sequence[int], chip: Chip) -> float:
    """Estimate the time of collective operations one after the other, none of them hidden.

    An array is reduced over rings along every axis of the torus, at the bandwidth of all links: its
    bytes leave and enter each chip twice. A ring of d chips takes d hops. The model is that of
    https://jax-ml.github.io/scaling-book/sharding/; small topologies lack the links that close
    the rings and may take twice as long. A group of chips counts as the smallest such torus.

    Args:
        collectives: of the program.
        shape: chips along each axis.
        chip: see `Chip`.

    Returns:
        Seconds; 0 for a single chip.
    """
    chips, axes = math.prod(shape), sum(side > 1 for side in shape)
    if not axes:
        return 0.0
    one_way = chip.network / 2 * GB
    seconds = 0.0
    for item in collectives:
        side = (item.group or chips) ** (1 / axes)
        hops = axes * side if item.group else sum(side for side in shape if side > 1)
        seconds += 2 * item.size / one_way + hops * HOP_SECONDS
    return seconds
