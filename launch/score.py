"""Score label maps of any program: `ssa-jax score --pred DIR --truth DIR`.

Both folders hold NIfTI label maps of equal names (0 background, 1 and 2 lesion classes), or both
PNG masks. Every truth needs a prediction on its grid. Prints the `standard` block (DSC, HD95 and
NSD in mm, in 3-D) and, with --out, writes `metrics.json` and `cases.csv` there. `paper_compat`
needs probabilities, which label maps do not have.
"""

import sys
from functools import partial

from launch import cli
from ssa_jax.experiment.batch import RunOptions
from ssa_jax.experiment.label_maps import score_folders
from ssa_jax.experiment.settings import CLASS_NAMES


def main(arguments: list[str]) -> None:
    """Read the flags, score and print the table."""
    parser = cli.make_parser("score", __doc__)
    parser.add_argument("--pred", type=cli.local_path, required=True, help="folder of predictions")
    parser.add_argument(
        "--truth", type=cli.local_path, required=True, help="folder of true label maps"
    )
    parser.add_argument(
        "--task",
        choices=tuple(CLASS_NAMES),
        default="binary",
        help="binary counts every label above 0 as lesion [binary]",
    )
    parser.add_argument("--tolerance", type=float, default=3.0, help="of NSD, mm [3]")
    parser.add_argument("--out", type=cli.local_path, help="folder to write to")
    parser.add_argument(
        "--axes", help="where the axes of NIfTI files without orientation point to, as in LPS"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    cli.add_run_flags(parser)
    options = parser.parse_args(arguments)
    score_folders(
        options.pred,
        options.truth,
        task=options.task,
        tolerance=options.tolerance,
        out=options.out,
        axes=options.axes,
        options=RunOptions(options.overwrite, options.shard),
        quiet=options.quiet,
        echo=partial(print, flush=True),
    )


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
