"""Every choice that depends on the backend, and every measured threshold, as data.

No other module asks for the backend. Functions take the choice as an argument
(`implementation=None` uses this table's); method and figures are in docs/performance.md.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Tuning:
    """The choices for one backend.

    Attributes:
        convolution: implementation of `ops.conv`: 'matmul' or 'xla'.
        spatial_conv: implementation of `ops.spatial_conv`.
        head_in_blocks: whether the head's full-size maps are kept in blocks, see `ops.blocks`.
        unroll: slices computed in one iteration of the spatial convolution's scan.
        once_level: level of XLA's optimisations of a program that runs once, such as the drawing of
            weights, so that compiling it takes longer than running it; None: as of any program.
        asynchronous: whether computations are dispatched before the previous ones are done.
        matmul_side: side of the square matmul that measures the device's peak speed.
        bfloat16: whether computing in bfloat16 pays; where not, float32 is taken instead.
        pallas_interpreted: whether Pallas's interpreter runs our kernels for TPUs, which is slow
            and for tests; False: they are compiled; None: they are refused.
        measured: the measurements behind these choices.
    """

    convolution: str
    spatial_conv: str
    head_in_blocks: bool
    unroll: int
    once_level: int | None
    asynchronous: bool
    matmul_side: int
    bfloat16: bool
    pallas_interpreted: bool | None
    measured: str


BY_BACKEND = {
    "cpu": Tuning(
        convolution="matmul",
        spatial_conv="filtered",
        head_in_blocks=False,
        unroll=1,
        once_level=1,
        asynchronous=False,
        matmul_side=2048,
        bfloat16=False,
        pallas_interpreted=None,
        measured=(
            "Two cores of an AMD EPYC, float32. Convolutions: XLA's own leave a core idle where "
            "rows are short or channels few, its matmuls do not (last layer, 256 px, batch 4, "
            "forward: 7.8 ms by XLA, 1.5 by taps). Spatial convolution, forward and backward, "
            "2x8x8, C = 512: filtered 41 ms, custom_vjp 44, scan 65, unrolled 68; four slices "
            "per iteration are slower (1x16x16: 121 to 128 ms, not 71 to 83). XLA has no fast "
            "bfloat16: a step of 2 slices at 256 px runs at 2.43 images a second, 3.94 in float32. "
            "Drawing the weights compiles in 6.8 s at level 1, in 13.4 at the usual one, with the "
            "same bits."
        ),
    ),
    "gpu": Tuning(
        convolution="xla",
        spatial_conv="custom_vjp",
        head_in_blocks=False,
        unroll=8,
        once_level=None,
        asynchronous=True,
        matmul_side=8192,
        bfloat16=True,
        pallas_interpreted=None,
        measured=(
            "One H200. Convolutions: cuDNN's; the matmul implementations crashed XLA's compiler "
            "in bfloat16 inference at batch 32, and one gradient took 4 ms of a bfloat16 step. "
            "Spatial convolution, 2x8x8, C = 512, float32: custom_vjp with eight slices per "
            "iteration 0.67 ms, four 0.72, one 0.93, unrolled 0.77."
        ),
    ),
    "tpu": Tuning(
        convolution="xla",
        spatial_conv="scan",
        head_in_blocks=True,
        unroll=1,
        once_level=None,
        asynchronous=True,
        matmul_side=8192,
        bfloat16=True,
        pallas_interpreted=False,
        measured=(
            "Nothing on a TPU. Compiled for a v5e (`ssa-jax compile`, a step at 256 px, 8 slices a "
            "chip, bfloat16), the head in blocks takes 0.27 GB of memory traffic instead of 1.75. "
            "'pallas' has been compiled for TPUs but not run on one, so the scan stays."
        ),
    ),
}
OTHERWISE = Tuning(
    convolution="xla",
    spatial_conv="scan",
    head_in_blocks=False,
    unroll=1,
    once_level=None,
    asynchronous=True,
    matmul_side=8192,
    bfloat16=True,
    pallas_interpreted=None,
    measured="Nothing: no other backend was available, so XLA's and JAX's defaults are used.",
)

# Smallest map, in positions (pixels times batch), for which a matmul convolution uses
# `winograd.filtered`. 512 channels, forward and backward, gathered windows against minimal
# filtering: 1.7 against 3.8 ms at 32 positions, 5.2 against 5.5 at 128, 9.6 against 7.6 at 256.
CONV_FILTERED_POSITIONS = 129
# Fewest multiplications of one kernel tap for it: with less work the longer compilation is not
# worth it (the point of equal speed was not measured).
CONV_FILTERED_WORK = 2**22
# Channels below which a map counts as narrow. It separates the network's input and output (1 to 3
# channels, measured) from the layers between. XLA's convolutions leave most of the CPU idle where
# the output is narrow; where the input is narrow, gathering windows is mostly copying.
CONV_NARROW = 16
# Fewest positions of a slice, times batch, for which 'filtered' uses minimal filtering: with fewer,
# reading the larger matrices costs more time than the saved multiplications.
SLICE_FILTERED_POSITIONS = 16


_target: ContextVar[str | None] = ContextVar("target", default=None)


def for_backend(backend: str | None = None) -> Tuning:
    """Return the choices for a backend.

    Args:
        backend: JAX's name of it; None for that of `compiling_for`, else for the default backend,
            which is started if need be.
    """
    return BY_BACKEND.get(backend or _target.get() or jax.default_backend(), OTHERWISE)


@contextmanager
def compiling_for(backend: str) -> Iterator[None]:
    """Have what is traced in the block take the choices for a backend that is not at hand.

    Args:
        backend: JAX's name of it.
    """
    before = _target.set(backend)
    try:
        yield
    finally:
        _target.reset(before)


def pallas_interpreted() -> bool:
    """Return whether our Pallas kernels are interpreted, not compiled, on the default backend.

    Raises:
        ValueError: they run on TPUs alone.
    """
    interpreted = for_backend().pallas_interpreted
    if interpreted is None:
        raise ValueError(
            f"the spatial convolution implementation 'pallas' needs a TPU, and JAX's backend is "
            f"{jax.default_backend()!r}; take another (model.spatial_conv_impl=auto), or "
            "interpret=True to try it slowly"
        )
    return interpreted


def block_on_cpu(tree: Any) -> Any:
    """Return the arrays unchanged; on a synchronous backend wait for their transfer first.

    A computation on arrays that are still in transfer runs in a thread whose heap does not keep
    freed memory, see `launch.cli.tune_cpu_allocator`.

    Args:
        tree: arrays on the device.
    """
    return tree if for_backend().asynchronous else jax.block_until_ready(tree)
