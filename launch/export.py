"""Export a trained network for other programs: `ssa-jax export W --format onnx|stablehlo`.

Writes its inference, weights included, as one file (`network.onnx` for ONNX Runtime and others, or
`network.stablehlo`, a program of jax.export for CPU, CUDA and TPU), and beside it how an image is
made from a slice and what the numbers mean (`README.md`, and `preprocessing.json` for programs).
The file takes images [B, S, S, C] float32 and gives probabilities [B, S, S, K] float32, averaged
over mirror images if the workdir's eval.flip says so. It is read back and compared with the network
before anything stays. Needs the extra `export`: onnx and onnxruntime, or flatbuffers.
"""

import argparse
import sys

from launch import cli
from ssa_jax.experiment.export import FORMATS
from ssa_jax.experiment.network import load
from ssa_jax.training.checkpoint import WHICH

DYNAMIC = "dynamic"


def main(arguments: list[str]) -> None:
    """Read the flags, export and say what was written."""
    parser = cli.make_parser("export", __doc__)
    parser.add_argument(
        "workdir", type=cli.local_path, metavar="W", help="folder of a trained network"
    )
    parser.add_argument("--format", choices=tuple(FORMATS), required=True, help="of the file")
    parser.add_argument(
        "--batch",
        type=_batch,
        default=DYNAMIC,
        metavar="dynamic|N",
        help="slices that the file takes at once: any number, or N [dynamic]",
    )
    parser.add_argument("--which", choices=WHICH, default="best", help="which checkpoint [best]")
    parser.add_argument(
        "--out", type=cli.local_path, help="folder to write, new or empty [W/export/FORMAT]"
    )
    options = parser.parse_args(arguments)
    out = options.out or options.workdir / "export" / options.format
    network = load(options.workdir, options.which)
    print(network.export(out, format=options.format, batch=options.batch))


def _batch(text: str) -> int | None:
    """Read the flag --batch; None for any number."""
    if text == DYNAMIC:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected dynamic, or a number of 1 or more")
    return int(text)


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
