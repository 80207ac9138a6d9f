"""Train a network: `ssa-jax train --config covid_semiseg:cpu --workdir W`.

Fields change on the command line: `--config.train.epochs=20`. Interrupted (Ctrl-C, SIGTERM, power),
the same command resumes from the last checkpoint and ends with the same bits. A training that is
over goes on with a larger `--config.train.epochs`, by the learning-rate schedule of that length;
one whose loss was not finite, with a lower `--config.optim.learning_rate`. Started on several
hosts (`srun`, TPU pods, or --distributed HOST:PORT), it trains one network with all of them.
"""

import sys

from launch import cli, configuration
from ssa_jax.experiment.training import train


def main(arguments: list[str]) -> None:
    """Read the flags and train."""
    parser = cli.make_parser("train", __doc__)
    parser.add_argument(
        "--workdir",
        type=cli.local_path,
        required=True,
        help="folder for checkpoints, metrics and curves",
    )
    parser.add_argument(
        "--accept-data-changes",
        action="store_true",
        help="go on with slices that were added, gone or changed since the training began",
    )
    cli.add_process_flags(parser)
    parser.add_argument(
        "--profile",
        type=cli.positive_int,
        default=0,
        metavar="STEPS",
        help="record a profile of so many steps in WORKDIR/profile, for TensorBoard or Perfetto",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options, settings = configuration.parse_with_settings(parser, arguments)
    state = train(
        settings,
        options.workdir,
        accept_data_changes=options.accept_data_changes,
        profile=options.profile,
        quiet=options.quiet,
    )
    print(f"Trained to step {int(state.step)}: {options.workdir}")


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
