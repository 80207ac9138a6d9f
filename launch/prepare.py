"""Build a data set: `ssa-jax prepare covid19_ct_seg --source DIR --data-dir DIR`.

Reads the files as their authors publish them, writes records and prints table 1 of the paper beside
what was found. What is built is built once; a build that was interrupted starts anew.
"""

import sys
from pathlib import Path

from input_pipeline.datasets.catalog import DATASETS
from launch import cli
from ssa_jax.experiment.preparation import prepare


def main(arguments: list[str]) -> None:
    """Read the flags, build and print the table."""
    parser = cli.make_parser("prepare", __doc__)
    parser.add_argument("name", choices=tuple(DATASETS), help="which data set")
    parser.add_argument("--source", type=Path, help="folder with the files as published")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder for the records")
    parser.add_argument("--task", default="", help="binary or multiclass [the data set's last]")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
    table = prepare(
        options.name,
        source_dir=options.source,
        data_dir=options.data_dir,
        task=options.task,
        show_bars=sys.stderr.isatty() and not options.quiet,
        quiet=options.quiet,
    )
    print(table)
    print(
        f"Shares are of the pixels of slices with lesion. {options.name} is in {options.data_dir}"
    )


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
