"""Build a data set: `ssa-jax prepare covid19_ct_seg --source DIR --data-dir DIR`.

Reads the files as their authors publish them (or your own, see docs/your_data.md), writes records
and prints table 1 of the paper beside what was found. What is built is built once; a build that was
interrupted starts anew. What the files leave in doubt is printed on standard error and kept in
source.json beside the records. If files cannot be used, all of them are named and nothing is built.

--check reads every file, prints a line for each that cannot be used, and builds nothing; exit
status 3 if there is any.
"""

import sys

from input_pipeline.datasets.catalog import DATASETS
from launch import cli
from ssa_jax.experiment.preparation import check, prepare


def main(arguments: list[str]) -> None:
    """Read the flags, build and print the table."""
    parser = cli.make_parser("prepare", __doc__)
    parser.add_argument("name", choices=tuple(DATASETS), help="which data set")
    parser.add_argument("--source", type=cli.local_path, help="folder with the files as published")
    parser.add_argument("--data-dir", type=cli.local_path, help="folder for the records")
    parser.add_argument("--task", default="", help="binary or multiclass [the data set's last]")
    parser.add_argument(
        "--axes", help="where the axes of NIfTI files without orientation point to, as in LPS"
    )
    parser.add_argument(
        "--labels",
        type=cli.local_path,
        help='of folder: JSON file with the class of each label, as {"labels": {"3": 2, "4": 0}}',
    )
    parser.add_argument("--check", action="store_true", help="only read the files, build nothing")
    parser.add_argument(
        "--jobs",
        type=cli.positive_int,
        default=1,
        help="processes that read scans side by side [1]",
    )
    parser.add_argument(
        "--shard",
        type=cli.shard,
        metavar="I/N",
        help="build the I-th of N parts of the volumes, for N jobs side by side; the same command "
        "without it then puts them together",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
    stated = {
        "source_dir": options.source,
        "task": options.task,
        "axes": options.axes,
        "labels": options.labels,
        "jobs": options.jobs,
    }
    if options.check and options.shard is not None:
        parser.error("--check reads all files; it takes no --shard")
    if options.check:
        if check(options.name, echo=print, **stated):
            sys.exit(cli.SOME_FAILED)
        return
    if options.data_dir is None:
        parser.error("--data-dir is missing, the folder for the records")
    table = prepare(
        options.name,
        data_dir=options.data_dir,
        **stated,
        show_bars=sys.stderr.isatty() and not options.quiet,
        quiet=options.quiet,
        part=options.shard,
    )
    print(table)
    if options.shard is not None:
        return
    print(
        f"Shares are of the pixels of slices with lesion. {options.name} is in {options.data_dir}"
    )


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
