"""Compile the spatial convolution for TPUs that are not there, and print what its programs need.

    python -m tests.tpu_programs [--chips v5e:2x2 ...] [--shapes 2x8x8 ...] [--forms pallas ...]

needs `libtpu` (the extra `tpu`), whose compiler works without a device; nothing is run. Each line
is one program, forward and backward, as JSON: the seconds that compiling it took; its Mosaic
kernels, and the most VMEM that the compiler gave one of them beside arrays that it keeps there
anyway; what XLA's cost analysis says of a run on one chip; temporary memory; and for 'pallas' what
VMEM holds by our own count. The cost analysis counts a loop's body once (`--unroll` of at least a
map's side leaves no loop), copies between memories too, and a Mosaic kernel as its cost estimate
states.
"""

import argparse
import json
import os
import re
import time

# Before JAX starts.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # compile times are printed
os.environ.pop("XLA_FLAGS", None)  # of the CPU; libtpu's XLA ends the process at one it lacks

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssa_jax.experiment.chips import devices_of
from ssa_jax.ops.pallas_spatial_conv import sizes_of, vmem_bytes
from ssa_jax.ops.spatial_conv import IMPLEMENTATIONS, PASSES, spatial_convolution

AXIS = "batch"
MOSAIC = 'custom_call_target="tpu_custom_call"'
VMEM = re.compile(
    r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"\d+","size":"(\d+)"'
)


def value_and_gradients(form, unroll, x, kernels, cotangent):
    """The spatial convolution and its gradients, those of the kernels summed over the chips."""

    def convolve(x, kernels):
        return spatial_convolution(x, kernels, form, unroll=unroll, interpret=False)

    y, pullback = jax.vjp(convolve, x, kernels)
    of_x, of_kernels = pullback(cotangent)
    return y, of_x, jax.lax.psum(of_kernels, AXIS)


def program(chips, shape, options, form):
    """Lower and compile for some chips, each of which has a batch of the shape."""
    mesh = Mesh(np.array(chips), (AXIS,))
    whole, split = PartitionSpec(), PartitionSpec(AXIS)

    def placed(shape, spec):
        return jax.ShapeDtypeStruct(shape, options.dtype, sharding=NamedSharding(mesh, spec))

    x = placed((shape[0] * len(chips), *shape[1:], options.channels), split)
    kernel = placed((options.kernel, options.channels, options.channels), whole)
    mapped = jax.shard_map(
        lambda *given: value_and_gradients(form, options.unroll, *given),
        mesh=mesh,
        in_specs=(split, whole, split),
        out_specs=(split, split, whole),
        check_vma=False,
    )
    start = time.perf_counter()
    compiled = jax.jit(mapped).lower(x, {name: kernel for name, _, _ in PASSES}, x).compile()
    return compiled, time.perf_counter() - start


def vmem(shape, options):
    """Bytes in VMEM of the pass that holds most, by part."""
    batch, *sides = shape
    found = []
    for positions, length in (sides, sides[::-1]):
        taps = min(options.kernel, 2 * positions - 1)
        slices = jax.ShapeDtypeStruct((length, batch, positions, options.channels), options.dtype)
        kernel = jax.ShapeDtypeStruct((taps, options.channels, options.channels), options.dtype)
        found.append(vmem_bytes(sizes_of(slices, kernel)))
    return max(found, key=lambda held: sum(held.values()))


def facts(compiled):
    """What XLA says of a compiled program."""
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    kernels = [line for line in compiled.as_text().splitlines() if MOSAIC in line]
    given = [int(size) for line in kernels for size in VMEM.findall(line)]
    return {
        "Mosaic kernels": len(kernels),
        "VMEM bytes given": max(given, default=0),
        "MB accessed": round(cost["bytes accessed"] / 1e6, 2),
        "GFLOP": round(cost["flops"] / 1e9, 3),
        "MB temporary": round(memory.temp_size_in_bytes / 1e6, 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chips", nargs="+", default=["v5e:2x2", "v6e:2x2"])
    parser.add_argument("--shapes", nargs="+", default=["4x4x4", "2x8x8", "1x16x16", "8x8x8"])
    parser.add_argument("--forms", nargs="+", default=["scan", "custom_vjp", "pallas"])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--kernel", type=int, default=9)
    parser.add_argument("--unroll", type=int, default=1)
    parser.add_argument("--sharded", action="store_true", help="over all chips instead of one")
    options = parser.parse_args()
    if unknown := set(options.forms) - set(IMPLEMENTATIONS):
        parser.error(f"--forms has {sorted(unknown)}; expected some of {IMPLEMENTATIONS}")
    for name in options.chips:
        chips = devices_of(name)
        for given in options.shapes:
            shape = tuple(map(int, given.split("x")))
            for form in options.forms:
                compiled, seconds = program(
                    chips if options.sharded else chips[:1], shape, options, form
                )
                line = {"chips": name, "B x H x W": given, "form": form} | facts(compiled)
                line["compile s"] = round(seconds, 1)
                if form == "pallas":
                    line["VMEM bytes counted"] = vmem(shape, options)
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
