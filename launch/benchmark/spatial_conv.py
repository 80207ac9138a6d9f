"""Speed of the spatial convolution's implementations, beside PyTorch's loop if installed."""

import argparse
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

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
FORWARD, BOTH = "forward", "forward+backward"
SPEED, COMPILE = "Speed", "Compile time over rows"  # titles of the tables
COMPILE_CHANNELS = 64


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
        help=f"[{' '.join(ON_ANY_BACKEND)}]; 'pallas' needs a TPU",
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
    found = results.Results(options.out, "spatial_conv", machine, resume=options.resume)
    for shape, channels, size, dtype, direction in itertools.product(
        options.shapes, options.channels, options.kernels, options.dtypes, options.directions
    ):
        case = {
            "B x H x W": "x".join(map(str, shape)),
            "C": channels,
            "k": size,
            "dtype": dtype,
            "direction": direction,
        }
        if not found.has(SPEED, case):
            compared = _compared(shape, channels, size, dtype, direction, options, found.machine)
            found.add(SPEED, [case | row for row in compared])
    for side in options.compile_rows:
        if not found.has(COMPILE, {"rows": side}):
            found.add(COMPILE, _compile_times(side, options))
    if not options.compile_rows:
        return
    compiled = found.rows(COMPILE)
    names = dict.fromkeys(row["form"] for row in compiled)
    results.plot(
        options.out / "spatial_conv.png",
        {
            name: [(row["rows"], row["compile s"]) for row in compiled if row["form"] == name]
            for name in names
        },
        "rows (and columns)",
        "compile time, s",
    )


def _compared(
    shape: Shape,
    channels: int,
    size: int,
    dtype: str,
    direction: str,
    options: argparse.Namespace,
    about: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Measure all implementations in one case in turns; return a row for each."""
    x, kernels = random_case(shape, channels, size)
    arguments = jax.tree.map(lambda a: jnp.asarray(a, dtype), (x, kernels, x))
    clocks: dict[str, Clock] = {}
    facts = {}
    for name, function in _implementations(direction, options).items():
        run, facts[name] = _compiled(function, arguments)
        clocks[name] = partial(second_run, run)
    maker = partial(torch_runs, shape, channels, size, dtype, direction)
    with in_processes({"PyTorch's loop": maker} if torch_installed() else {}) as theirs:
        seconds = read_in_turns(clocks | theirs, options.repeats)
    best = best_of({name: seconds[name] for name in theirs}) if theirs else None
    least = least_seconds(shape, channels, size, dtype, direction, about)
    return [
        {
            "form": name,
            "ms": spread(1e3 * taken),
            "PyTorch's best / this": spread(seconds[best] / taken) if best else None,
            "share of roofline": least / float(np.median(taken)),
            **facts.get(name, {}),
        }
        for name, taken in seconds.items()
    ]


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


def _implementations(direction: str, options: argparse.Namespace) -> dict[str, Callable[..., Any]]:
    """List our implementations by name; every function takes (x, kernels, cotangent)."""
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


def _compiled(function: Callable[..., Any], arguments: Any) -> tuple[Run, dict[str, Any]]:
    """Compile a function; return a run of it, and the time, memory and size of the program."""
    with compiling() as spent:
        compiled = jax.jit(function).lower(*arguments).compile()
    memory: Any = compiled.memory_analysis()
    peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    facts = {
        "compile s": spent["seconds"],
        "memory MB": peak / 1e6,
        "HLO instructions": _instructions(compiled),
    }
    return lambda: jax.block_until_ready(compiled(*arguments)), facts


def _instructions(compiled: Any) -> int:
    """Count the instructions of a compiled program, including those of its fusions."""
    return compiled.as_text().count(" = ")


def least_seconds(
    shape: Shape,
    channels: int,
    size: int,
    dtype: str,
    direction: str,
    about: Mapping[str, Any],
) -> float:
    """Compute the roofline: the time of the operations or of the fewest bytes, whichever is longer.

    Operations are those of the taps inside the slice, not of its padding. Each kernel is read once;
    the backward pass reads it again and writes its gradient.

    Args:
        shape: B, H, W.
        channels: C.
        size: k.
        dtype: of the computation.
        direction: forward, or forward and backward.
        about: peak speeds, see `timing.machine`.

    Returns:
        Seconds.
    """
    batch, height, width = shape
    taps = {
        length: sum(max(0, length - abs(n)) for n in range(-(size // 2), size // 2 + 1))
        for length in (height, width)
    }
    steps = 2 * (height - 1) * taps[width] + 2 * (width - 1) * taps[height]
    passes = 1 if direction == FORWARD else 3
    operations = passes * 2.0 * batch * channels**2 * steps
    width_bytes = jnp.dtype(dtype).itemsize
    kernel_bytes = len(PASSES) * size * channels**2 * width_bytes
    map_bytes = 2 * batch * height * width * channels * width_bytes
    traffic = passes * (kernel_bytes + map_bytes)
    return max(
        operations / (1e9 * about[f"matmul_gflops_{dtype}"]),
        traffic / (1e9 * about["copy_gb_per_s"]),
    )


def torch_runs(
    shape: Shape, channels: int, size: int, dtype: str, direction: str
) -> dict[str, Run]:
    """Make the runs of PyTorch's loop in both memory layouts.

    Args:
        shape: B, H, W.
        channels: C.
        size: k.
        dtype: of the computation.
        direction: forward, or forward and backward.
    """
    from launch.benchmark import torch_twin

    x, kernels = random_case(shape, channels, size)
    return torch_twin.spatial_conv_runs(x, kernels, dtype, backward=direction == BOTH)


def _compile_times(side: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the compile time of forward and backward pass for a square map."""
    x = jax.ShapeDtypeStruct((1, side, side, COMPILE_CHANNELS), jnp.float32)
    kernel = jax.ShapeDtypeStruct((9, COMPILE_CHANNELS, COMPILE_CHANNELS), jnp.float32)
    kernels = {name: kernel for name, _, _ in PASSES}
    rows = []
    for name, function in _implementations(BOTH, options).items():
        with compiling() as spent:
            compiled = jax.jit(function).lower(x, kernels, x).compile()
        rows.append(
            {
                "form": name,
                "rows": side,
                "compile s": spent["seconds"],
                "HLO instructions": _instructions(compiled),
            }
        )
    return rows
