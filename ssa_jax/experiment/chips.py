"""Kinds of TPU and GPU by their data sheets, and devices of them that are not at hand.

libtpu and XLA's CUDA compiler work without a device (https://docs.jax.dev/en/latest/aot.html).
"""

import importlib.util
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from ssa_jax.experiment.hlo import Collective
from ssa_jax.training.speed import GB, PEAKS, TERA

HOP_SECONDS = 1e-6  # from a chip to its neighbour, https://jax-ml.github.io/scaling-book/
# libtpu asks the cloud's metadata service and the environment which TPU there is: none.
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Chip(NamedTuple):
    """A kind of TPU or GPU by its data sheet.

    Those of Google are at docs.cloud.google.com/tpu/docs/v5e and so on, those of NVIDIA at
    www.nvidia.com/en-us/data-center/h100 and so on (the SXM variants).

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
    "NVIDIA A100-SXM4-80GB": Chip(80, 2039, 600),
    "NVIDIA H100 80GB HBM3": Chip(80, 3350, 900),
    "NVIDIA H200": Chip(141, 4800, 900),
}


class Gpu(NamedTuple):
    """What XLA's CUDA compiler asks a GPU for, as in its `backends/gpu/target_config/specs`.

    Attributes:
        kind: JAX's name of it.
        capability: text of XLA's message `CudaComputeCapability`.
        cores: number of streaming multiprocessors.
        units: float32 units of each.
        shared: bytes of shared memory of each.
        shared_block: bytes of it that a block may have.
        l2: bytes of level-2 cache.
        clock: GHz.
    """

    kind: str
    capability: str
    cores: int
    units: int
    shared: int
    shared_block: int
    l2: int
    clock: float


_HOPPER = ("major: 9 feature_extension: ACCELERATED_FEATURES", 132, 128, 233472, 232448, 52428800)
GPUS = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", "major: 8", 108, 64, 167936, 166912, 41943040, 1.41),
    "h100": Gpu("NVIDIA H100 80GB HBM3", *_HOPPER, 1.98),
    "h200": Gpu("NVIDIA H200", *_HOPPER, 1.98),
}
EXPECTED = f"v5e:4x4, v6e:2x2, v5p:2x2x1, {', '.join(GPUS)}, h100:8 or the like"
# The message `GpuTargetConfigProto`; cuDNN's version is the oldest that jax[cuda13] takes.
_TARGET = """
gpu_device_info {{
  cuda_compute_capability {{ {gpu.capability} }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.units}
  shared_memory_per_core: {gpu.shared}
  shared_memory_per_block_optin: {gpu.shared_block}
  shared_memory_per_block: 49152
  l2_cache_size: {gpu.l2}
  clock_rate_ghz: {gpu.clock}
  memory_bandwidth: {bandwidth}
  device_memory_size: {memory}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
device_description_str: "{gpu.kind}"
"""


def devices_of(topology: str) -> list[Any]:
    """Return the devices of a topology, as the compiler for them describes them.

    To be called before JAX is used, of which the CPU then is the backend.

    Args:
        topology: TPUs such as 'v5e:4x4', a GPU such as 'h100', or several of one host, 'h100:8'.

    Raises:
        ValueError: the compiler is not installed, or an unknown topology.
    """
    jax.config.update("jax_platforms", "cpu")
    name, _, number = topology.partition(":")
    if name not in GPUS and not (name[:1] == "v" and name[1:2].isdigit()):
        raise ValueError(f"--topology {topology}: there is none such; expected {EXPECTED}")
    if name not in GPUS and importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"--topology {topology}: the package libtpu, which compiles for TPUs, is missing: in "
            "an environment of its own, pip install 'jax[tpu]'"
        )
    try:
        described = _gpus(name, int(number or 1)) if name in GPUS else _tpus(topology)
    except NotImplementedError:
        raise ValueError(
            f"--topology {topology}: the package jax-cuda13-plugin, which compiles for GPUs, is "
            "missing: pip install 'jax[cuda13]'"
        ) from None
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        raise ValueError(
            f"--topology {topology}: there is none such ({error}); expected {EXPECTED}"
        ) from None
    found: list[Any] = list(described.devices)
    if found[0].device_kind not in CHIPS:
        raise ValueError(
            f"--topology {topology}: no figures of {found[0].device_kind!r}; expected a topology "
            f"of {', '.join(CHIPS)}"
        )
    return found


def _tpus(topology: str) -> topologies.TopologyDescription:
    """Describe TPUs by libtpu's name of the topology."""
    for name, value in WITHOUT_TPU.items():
        os.environ.setdefault(name, value)
    return topologies.get_topology_desc(platform="tpu", topology_name=topology)


def _gpus(name: str, number: int) -> topologies.TopologyDescription:
    """Describe GPUs of one host."""
    gpu, chip = GPUS[name], CHIPS[GPUS[name].kind]
    target = _TARGET.format(
        gpu=gpu, bandwidth=round(chip.bandwidth * GB), memory=round(chip.memory * GB)
    )
    return topologies.get_topology_desc(
        platform="cuda", topology_name=name, topology=f"1x1x{number}", target_config=target
    )


def shape_of(topology: str) -> tuple[int, ...]:
    """Return the chips of a topology along each axis of its network.

    Args:
        topology: see `devices_of`.
    """
    return tuple(int(side) for side in topology.partition(":")[2].split("x") if side) or (1,)


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


def network_seconds(collectives: Iterable[Collective], shape: Sequence[int], chip: Chip) -> float:
    """Estimate the time of collective operations one after the other, none of them hidden.

    An array is reduced over rings along every axis of the torus, at the bandwidth of all links: its
    bytes leave and enter each chip twice. A ring of d chips takes d hops. The model is that of
    https://jax-ml.github.io/scaling-book/sharding/; small topologies lack the links that close
    the rings and may take twice as long. A group of chips counts as the smallest such torus, GPUs
    of a host as one ring.

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
