"""Building a data set, and the counts of its slices beside table 1 of the paper."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from input_pipeline.datasets import catalog
from input_pipeline.slices import Slice
from ssa_jax.evaluation.text_table import format_rows
from ssa_jax.experiment.progress import progress

COLUMNS = ("split", "slices", "with lesion", "lung %", "GGO %", "consolidation %", "lesion %")
# Table 1 of the paper: slices with lesion, and the share of their pixels.
PAPER = {
    ("covid19_ct_seg", "train"): ("paper", "", "1848", "15.46", "", "", "1.84"),
    ("medseg", "train"): ("paper", "98", "98", "26.90", "4.66", "2.29", "6.95"),
    ("medseg", "validation"): ("paper", "", "370", "21.46", "1.97", "0.51", "2.48"),
}


def prepare(
    name: str, *, source_dir: Path | None, data_dir: Path, task: str, show_bars: bool, quiet: bool
) -> str:
    """Build a data set if it is not built yet, and count its slices and pixels.

    Args:
        name: key of `catalog.DATASETS`.
        source_dir: folder with the files as published; None where the data set is built already.
        data_dir: folder of the records.
        task: 'binary' or 'multiclass'; '' takes the last task of the data set.
        show_bars: show TFDS's progress bars on standard error.
        quiet: show no other progress.

    Returns:
        A table with a line for each split, and the paper's figures.

    Raises:
        ValueError: an unknown task, or the source is incomplete or damaged.
        OSError: the records cannot be written.
    """
    task = task or catalog.DATASETS[name].tasks[-1]
    catalog.build(name, source_dir=source_dir, data_dir=data_dir, task=task, progress=show_bars)
    rows: list[tuple[str, ...]] = [COLUMNS]
    for split in catalog.split_names(name, data_dir=data_dir, task=task):
        slices = catalog.open_split(name, split, data_dir=data_dir, task=task)
        rows.append((split, *shares(slices, task, quiet=quiet)))
        if (name, split) in PAPER:
            rows.append(PAPER[name, split])
    return "\n".join(format_rows(rows, right=True))


def shares(slices: Sequence[Slice], task: str, *, quiet: bool) -> tuple[str, ...]:
    """Compute table 1's columns of a split.

    Args:
        slices: of the split.
        task: only 'multiclass' distinguishes ground-glass and consolidation.
        quiet: show no progress.

    Returns:
        Slices, slices with lesion, and in % of the pixels of the latter lung, ground-glass,
        consolidation and lesion; '' where unknown.
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
