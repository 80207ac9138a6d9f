"""From nothing to a result: `ssa-jax demo --out demo_output`, or `make demo`.

Builds the phantoms, trains a small SSA-Net, evaluates it on the test patients beside an intensity
threshold, draws what it predicted and prints what came out. Interrupted, it resumes where it was.
"""

import sys
from functools import partial
from pathlib import Path

from launch import cli, configuration
from ssa_jax.experiment.demo import run_demo


def main(arguments: list[str]) -> None:
    """Read the flags and run every step of the demo."""
    parser = cli.make_parser("demo", __doc__)
    parser.add_argument(
        "--out", type=cli.local_path, default=Path("demo_output"), help="folder to write to"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
    data_dir = (options.out / "data").absolute()
    settings = configuration.read_settings("ct_phantom", [f"--config.data.data_dir={data_dir}"])
    say = (lambda text: None) if options.quiet else partial(print, flush=True)
    print(run_demo(settings, options.out, quiet=options.quiet, say=say))


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
