"""Build a data set: `python -m launch.prepare covid19_ct_seg --source DIR --data-dir DIR`.

Reads the files as their authors publish them, writes records and prints table 1 of the paper beside
what was found. What is built is built once; a build that was interrupted starts anew.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from input_pipeline import datasets
from input_pipeline.preprocess import Slice
from launch import command
from launch.writer import progress

COLUMNS = ("split", "slices", "with lesion", "lung %", "GGO %", "consolidation %", "lesion %")
# Table 1 of the paper: slices with lesion, and the share of their pixels.
PAPER = {
    ("covid19_ct_seg", "train"): ("paper", "", "1848", "15.46", "", "", "1.84"),
    ("medseg", "train"): ("paper", "98", "98", "26.90", "4.66", "2.29", "6.95"),
    ("medseg", "validation"): ("paper", "", "370", "21.46", "1.97", "0.51", "2.48"),
}


def main(arguments: list[str]) -> None:
    """Read the options, build and print the table."""
    parser = argparse.ArgumentParser(prog="launch.prepare", description=__doc__)
    parser.add_argument("name", choices=tuple(datasets.DATASETS), help="which data set")
    parser.add_argument("--source", type=Path, help="folder with the files as published")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder for the records")
    parser.add_argument("--task", default="", help="binary or multiclass [the data set's last]")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
    task = options.task or datasets.DATASETS[options.name].tasks[-1]
    datasets.build(
        options.name,
        source_dir=options.source,
        data_dir=options.data_dir,
        task=task,
        progress=sys.stderr.isatty() and not options.quiet,
    )
    rows: list[tuple[str, ...]] = [COLUMNS]
    for split in datasets.split_names(options.name, data_dir=options.data_dir, task=task):
        slices = datasets.open_split(options.name, split, data_dir=options.data_dir, task=task)
        rows.append((split, *shares(slices, task, quiet=options.quiet)))
        if (options.name, split) in PAPER:
            rows.append(PAPER[options.name, split])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print(
        f"Shares are of the pixels of slices with lesion. {options.name} is in {options.data_dir}"
    )


def shares(slices: Sequence[Slice], task: str, *, quiet: bool) -> tuple[str, ...]:
    """Table 1's columns of a split: slices, those with lesion, and percentages of their pixels.

    Args:
      slices: of the split.
      task: ground-glass and consolidation are told apart in 'multiclass' alone.
      quiet: show no progress.
    """
    pixels = np.zeros(3)
    lung, with_lesion, has_lung = 0, 0, True
    with progress(len(slices), quiet=quiet) as bar:
        for item in slices:
            bar.update()
            if item.mask is None or not item.mask.any():
                continue
            with_lesion += 1
            pixels += np.bincount(item.mask.ravel(), minlength=3)
            has_lung = has_lung and item.lung is not None
            lung += 0 if item.lung is None else int(np.count_nonzero(item.lung))
    if not with_lesion:
        return str(len(slices)), "0", "", "", "", ""
    percent = [f"{100 * value / pixels.sum():.2f}" for value in (lung, *pixels[1:])]
    both = f"{100 * pixels[1:].sum() / pixels.sum():.2f}"
    classes = percent[1:] if task == "multiclass" else ["", ""]
    return str(len(slices)), str(with_lesion), percent[0] if has_lung else "", *classes, both


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
