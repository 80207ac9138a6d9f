"""Speed of the spatial convolution's implementations, beside PyTorch's loop if installed."""

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmark import results
from launch.benchmark.compiling import compiling
from launch.benchmark.timing import (
    Clock,
    Run,
    best_of,
    in_processes,
    machine,
    read_in_turns,
    second_run,
    spread,
    torch_installed,
)
from launch.cli import positive_int
from ssa_jax.ops.spatial_conv import (
    IMPLEMENTATIONS,
    ON_ANY_BACKEND,
    PASSES,
    spatial_convolution,
)

Shape = tuple[int, int, int]  # B, H, W
CASE = ("B x H x W", "C", "k", "dtype", "direction")  # columns of a case
NAME = "spatial_conv"  # of the files
FORWARD, BOTH = "forward", "forward+backward"
SPEED, COMPILE = "Speed", "Compile time over rows"  # titles of the tables
COMPILE_CHANNELS = 64


class Case(NamedTuple):
    """What the implementations are compared in.

    Attributes:
        shape: B, H, W.
        channels: C.
        size: k.
        dtype: of the computation.
        direction: forward, or forward and backward.
    """

    shape: Shape
    channels: int
    size: int
    dtype: str
    direction: str

    @property
    def columns(self) -> dict[str, Any]:
        """The case as columns of a table."""
        return dict(zip(CASE, ("x".join(map(str, self.shape)), *self[1:]), strict=True))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this measurement: shapes, types and unrolling to compare.

    Args:
        parser: to add them to.
    """
    parser.add_argument(
        "--shapes",
        nargs="+",
        type=_shape,
        default=[(4, 4, 4), (2, 8, 8), (1, 16, 16)],
        metavar="BxHxW",
        help="batch, rows, columns [4x4x4 2x8x8 1x16x16]",
    )
    parser.add_argument("--channels", nargs="+", type=positive_int, default=[512], help="C [512]")
    parser.add_argument("--kernels", nargs="+", type=positive_int, default=[9], help="k [9]")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=["float32", "bfloat16"],
        default=["float32"],
        help="[float32]",
    )
    parser.add_argument(
        "--directions",
        nargs="+",
        choices=[FORWARD, BOTH],
        default=[FORWARD, BOTH],
        help=f"[{FORWARD} {BOTH}]",
    )
    parser.add_argument(
        "--forms",
        nargs="+",
        choices=IMPLEMENTATIONS,
        default=ON_ANY_BACKEND,
        help=f"[{' '.join(ON_ANY_BACKEND)}]; 'pallas' needs a TPU, or --topology",
    )
    parser.add_argument(
        "--unrolls", nargs="+", type=positive_int, default=[1, 4], help="of the scans [1 4]"
    )
    parser.add_argument(
        "--compile-rows",
        nargs="*",
        type=positive_int,
        default=[8, 16, 32, 64],
        help="sides of maps to measure the compile time at; none skips it [8 16 32 64]",
    )
    parser.add_argument(
        "--topology",
        nargs="+",
        help="only compile, for one chip of TPUs or GPUs that need not be at hand (v5e:2x2, "
        "v6e:2x2, v5p:2x2x1, h100); needs the extra tpu or cuda",
    )
    results.add_resume_flag(parser)


def _shape(text: str) -> Shape:
    """Parse a flag's shape."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}; expected BxHxW, for instance 2x8x8")
    batch, height, width = map(int, parts)
    return batch, height, width


def measure(options: argparse.Namespace) -> None:
    """Measure, print, and write `spatial_conv.json`, `.md` and `.png`.

    Args:
        options: see `add_options`, with `repeats` and `out`.
    """
    found = results.Results(options.out, NAME, machine, resume=options.resume)
    for case in cases(options):
        if not found.has(SPEED, case.columns):
            compared = _compared(case, options, found.machine)
            found.add(SPEED, [case.columns | row for row in compared])
    for side in options.compile_rows:
        if not found.has(COMPILE, {"rows": side}):
            found.add(COMPILE, _compile_times(side, options))
    if not options.compile_rows:
        return
    compiled = found.rows(COMPILE)
    names = dict.fromkeys(row["form"] for row in compiled)
    results.plot(
        options.out / f"{NAME}.png",
        {
            name: [(row["rows"], row["compile s"]) for row in compiled if row["form"] == name]
            for name in names
        },
        "rows (and columns)",
        "compile time, s",
    )


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield the cases that the flags ask for.

    Args:
        options: see `add_options`.
    """
    yield from itertools.starmap(
        Case,
        itertools.product(
            options.shapes, options.channels, options.kernels, options.dtypes, options.directions
        ),
    )


def _compared(
    case: Case, options: argparse.Namespace, about: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Measure all implementations in one case in turns; return a row for each."""
    x, kernels = random_case(case.shape, case.channels, case.size)
    arguments = jax.tree.map(lambda a: jnp.asarray(a, case.dtype), (x, kernels, x))
    clocks: dict[str, Clock] = {}
    facts = {}
    for name, function in implementations(case.direction, options).items():
        compiled, facts[name] = compile_with_facts(function, arguments)
        clocks[name] = partial(second_run, partial(_run, compiled, arguments))
    maker = partial(torch_runs, case)
    with in_processes({"PyTorch's loop": maker} if torch_installed() else {}) as theirs:
        seconds = read_in_turns(clocks | theirs, options.repeats)
    best = best_of({name: seconds[name] for name in theirs}) if theirs else None
    least, needed = least_seconds(case, about), work(case)
    return [
        {
            "form": name,
            "ms": spread(1e3 * taken),
            "PyTorch's best / this": spread(seconds[best] / taken) if best else None,
            "GFLOP": needed.operations / 1e9,
            "roofline MB": needed.traffic / 1e6,
            "share of roofline": least / float(np.median(taken)),
            **facts.get(name, {}),
        }
        for name, taken in seconds.items()
    ]


def _run(compiled: Any, arguments: Any) -> Any:
    return jax.block_until_ready(compiled(*arguments))


def random_case(shape: Shape, channels: int, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw a map and kernels that preserve its scale.

    Args:
        shape: B, H, W.
        channels: C.
        size: k, width of the kernels.

    Returns:
        The map `[B, H, W, C]` and the kernels `[k, C, C]` by the pass's name, float32.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((*shape, channels), np.float32)
    scale = np.float32(1 / np.sqrt(3 * size * channels))
    kernels = {
        name: scale * rng.standard_normal((size, channels, channels), np.float32)
        for name, _, _ in PASSES
    }
    return x, kernels


def implementations(direction: str, options: argparse.Namespace) -> dict[str, Callable[..., Any]]:
    """List our implementations by name.

    Args:
        direction: forward, or forward and backward.
        options: see `add_options`.

    Returns:
        Functions of the map, the kernels and the cotangent of the result.
    """
    chosen = {
        f"{impl} (unroll={n})" if n > 1 else impl: partial(
            spatial_convolution, implementation=impl, unroll=n
        )
        for impl in options.forms
        for n in ([1] if impl in ("unrolled", "pallas") else options.unrolls)
    }
    return {name: _directed(convolve, direction) for name, convolve in chosen.items()}


def _directed(convolve: Callable[..., Any], direction: str) -> Callable[..., Any]:
    """Return the forward pass, or forward and backward pass, of an implementation."""

    def forward(x: Any, kernels: Any, cotangent: Any) -> Any:
        return convolve(x, kernels)

    def both(x: Any, kernels: Any, cotangent: Any) -> Any:
        y, pullback = jax.vjp(convolve, x, kernels)
        return y, pullback(cotangent)

    return forward if direction == FORWARD else both


def compile_with_facts(
    function: Callable[..., Any], arguments: Any
) -> tuple[Any, dict[str, float]]:
    """Compile a function, and say what the program took and takes.

    Args:
        function: see `implementations`.
        arguments: of it, arrays or shapes.

    Returns:
        The compiled function, and by column: seconds of compilation, memory of arguments, results
        and temporaries, that of temporaries alone, and the size of the program.
    """
    with compiling() as spent:
        compiled = jax.jit(function).lower(*arguments).compile()
    memory: Any = compiled.memory_analysis()
    peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    facts = {
        "compile s": spent["seconds"],
        "memory MB": peak / 1e6,
        "temporary MB": memory.temp_size_in_bytes / 1e6,
        "HLO instructions": _instructions(compiled),
    }
    return compiled, facts


def _instructions(compiled: Any) -> int:
    """Count the instructions of a compiled program, including those of its fusions."""
    return compiled.as_text().count(" = ")


class Work(NamedTuple):
    """What a case needs, by direct convolution with nothing kept between the passes.

    Attributes:
        operations: multiplications and additions.
        traffic: bytes read and written.
    """

    operations: float
    traffic: float


def work(case: Case) -> Work:
    """Count the operations and bytes of a case.

    Operations are those of the taps inside the slice, not of its padding. Each kernel is read
    once; the backward pass reads it again and writes its gradient. A chip whose own memory holds
    the kernels may move less.

    Args:
        case: see `Case`.
    """
    batch, height, width = case.shape
    radius = case.size // 2
    taps = {
        length: sum(max(0, length - abs(n)) for n in range(-radius, radius + 1))
        for length in (height, width)
    }
    steps = 2 * (height - 1) * taps[width] + 2 * (width - 1) * taps[height]
    passes = 1 if case.direction == FORWARD else 3
    width_bytes = jnp.dtype(case.dtype).itemsize
    kernel_bytes = len(PASSES) * case.size * case.channels**2 * width_bytes
    map_bytes = 2 * batch * height * width * case.channels * width_bytes
    return Work(
        operations=passes * 2.0 * batch * case.channels**2 * steps,
        traffic=passes * (kernel_bytes + map_bytes),
    )


def least_seconds(case: Case, about: Mapping[str, Any]) -> float:
    """Compute the roofline: the time of the operations or of the bytes, whichever is longer.

    Args:
        case: see `Case`.
        about: peak speeds, see `timing.machine`.

    Returns:
        Seconds.
    """
    needed = work(case)
    return max(
        needed.operations / (1e9 * about[f"matmul_gflops_{case.dtype}"]),
        needed.traffic / (1e9 * about["copy_gb_per_s"]),
    )


def torch_runs(case: Case) -> dict[str, Run]:
    """Make the runs of PyTorch's loop in both memory layouts.

    Args:
        case: see `Case`.
    """
    from launch.benchmark import torch_twin

    x, kernels = random_case(case.shape, case.channels, case.size)
    return torch_twin.spatial_conv_runs(x, kernels, case.dtype, backward=case.direction == BOTH)


def _compile_times(side: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the compile time of forward and backward pass for a square map."""
    x = jax.ShapeDtypeStruct((1, side, side, COMPILE_CHANNELS), jnp.float32)
    kernel = jax.ShapeDtypeStruct((9, COMPILE_CHANNELS, COMPILE_CHANNELS), jnp.float32)
    kernels = {name: kernel for name, _, _ in PASSES}
    rows = []
    for name, function in implementations(BOTH, options).items():
        _, facts = compile_with_facts(function, (x, kernels, x))
        shown = {column: facts[column] for column in ("compile s", "HLO instructions")}
        rows.append({"form": name, "rows": side, **shown})
    return rows
