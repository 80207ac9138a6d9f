"""Score a trained network: `ssa-jax evaluate --workdir W --split test`.

Prints the table of both metric blocks and writes `metrics.json`, `cases.csv` (a row for each slice
and class) and, with `--pictures N`, an overlay for each of the first N slices in `pictures/` and
the first 12 of them in `pictures.png`. They replace an earlier evaluation in the same folder.
Where slices make up volumes, the `standard` block is over whole volumes in 3-D (`volumes.csv`) and
`paper_compat` over slices.

Of several workdirs the mean of the networks' probabilities is scored, on slices that none of them
was trained on.
"""

import sys
from functools import partial

from launch import cli, configuration
from ssa_jax.evaluation.summary import format_table
from ssa_jax.experiment.data import VALIDATION
from ssa_jax.experiment.evaluation import evaluate
from ssa_jax.experiment.workdir import load_settings, with_folds
from ssa_jax.training.checkpoint import WHICH


def main(arguments: list[str]) -> None:
    """Read the flags, evaluate and print the table."""
    parser = cli.make_parser("evaluate", __doc__)
    cli.add_workdirs_flag(parser)
    parser.add_argument(
        "--split",
        default=VALIDATION,
        help="train, validation, test, ... [validation]; where the data set has no validation "
        "split, this is the part of train that the training held out",
    )
    parser.add_argument("--which", choices=WHICH, default="best", help="which checkpoint [best]")
    parser.add_argument(
        "--out",
        type=cli.local_path,
        help="folder to write to, needed with several workdirs [WORKDIR/evaluation/SPLIT]",
    )
    parser.add_argument(
        "--data-dir", type=cli.local_path, help="where the records are, if they moved"
    )
    cli.add_dtype_flag(parser)
    parser.add_argument("--pictures", type=int, default=0, metavar="N", help="slices to draw [0]")
    cli.add_process_flags(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
    cli.start_processes(options)
    if options.pictures < 0:
        parser.error(f"--pictures is {options.pictures}; expected 0 or more")
    workdirs = with_folds(options.workdirs)
    if len(workdirs) > 1 and options.out is None:
        parser.error("--out is needed with several networks")
    read = {
        one: configuration.read_once(partial(load_settings, one)).computed_in(options.dtype)
        for one in workdirs
    }
    if options.data_dir is not None:
        moved = {"data.data_dir": str(options.data_dir.absolute())}
        read = {one: settings.replace(moved) for one, settings in read.items()}
    out = options.out or workdirs[0] / "evaluation" / options.split
    summary = evaluate(
        read,
        options.split,
        which=options.which,
        out=out,
        pictures=options.pictures,
        quiet=options.quiet,
    )
    print(format_table(summary))
    if options.split == VALIDATION and options.which == "best":
        print(
            "\nnote: these slices chose the best checkpoint, so that its scores are too high; add "
            "--which last"
        )
    drawn = f", {out / 'pictures.png'}" if options.pictures else ""
    print(f"\n{out / 'metrics.json'}, {out / 'cases.csv'}{drawn}")


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
