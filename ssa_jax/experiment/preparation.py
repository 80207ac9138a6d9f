"""Building a data set, and the counts of its slices beside table 1 of the paper."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.datasets import catalog
from input_pipeline.datasets.folder import read_label_map
from input_pipeline.datasets.parts import Part
from input_pipeline.datasets.report import Report, to_standard_error
from input_pipeline.datasets.volumes import Options
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
    name: str,
    *,
    source_dir: Path | None,
    data_dir: Path,
    task: str,
    axes: str | None,
    labels: Path | None,
    show_bars: bool,
    quiet: bool,
    jobs: int = 1,
    part: Part | None = None,
) -> str:
    """Build a data set if it is not built yet, and count its slices and pixels.

    What was noticed while its files were read is printed on standard error, now or when they were.

    Args:
        name: key of `catalog.DATASETS`.
        source_dir: folder with the files as published; None where the data set is built already.
        data_dir: folder of the records.
        task: 'binary' or 'multiclass'; '' takes the last task of the data set.
        axes: directions of the axes of files that state no orientation; None if not stated.
        labels: file with the class of each label; None for the data set's own.
        show_bars: show TFDS's progress bars on standard error.
        quiet: show no other progress.
        jobs: processes that read volumes side by side.
        part: builds that part of the volumes alone, see `catalog.build`.

    Returns:
        A table with a line for each split, and the paper's figures; of a part a line that says that
        it is built.

    Raises:
        ValueError: an unknown task, or the source is incomplete or damaged.
        OSError: the records cannot be written.
    """
    task = task or catalog.DATASETS[name].tasks[-1]
    built = catalog.build(
        name,
        source_dir=source_dir,
        data_dir=data_dir,
        task=task,
        options=_options(axes, labels),
        progress=show_bars,
        jobs=jobs,
        part=part,
    )
    if part is not None:
        number, count = part
        return f"Part {number} of {count} is built; when all are, prepare without --shard."
    if not built:
        for note in catalog.notes(name, data_dir=data_dir, task=task):
            to_standard_error(note)
    rows: list[tuple[str, ...]] = [COLUMNS]
    for split in catalog.split_names(name, data_dir=data_dir, task=task):
        slices = catalog.open_split(name, split, data_dir=data_dir, task=task)
        rows.append((split, *shares(slices, task, quiet=quiet)))
        if (name, split) in PAPER:
            rows.append(PAPER[name, split])
    return "\n".join(format_rows(rows, right=True))


def check(
    name: str,
    *,
    source_dir: Path | None,
    task: str,
    axes: str | None,
    labels: Path | None,
    echo: Callable[[str], Any],
    jobs: int = 1,
) -> int:
    """Read all files of a data set without building it, and print a line for each fault.

    Notes are printed on standard error.

    Args:
        name: key of `catalog.DATASETS`.
        source_dir: folder with the files.
        task: as for `prepare`.
        axes: as for `prepare`.
        labels: as for `prepare`.
        echo: prints a fault, and the summary at the end.
        jobs: as for `prepare`.

    Returns:
        The number of faults.

    Raises:
        ValueError: no folder, an unknown task, or a folder that is no such data set.
        OSError: the folder cannot be read.
    """
    if source_dir is None:
        raise ValueError("--check reads the files of a data set; name their folder as --source")
    report = Report()
    count = catalog.check(
        name,
        source_dir=source_dir,
        task=task or catalog.DATASETS[name].tasks[-1],
        options=_options(axes, labels),
        report=report,
        jobs=jobs,
    )
    for fault in report.faults:
        echo(fault)
    echo(
        f"{source_dir}: {count} volumes or pictures read, {len(report.faults)} faults, "
        f"{len(report.notes)} notes; nothing was built"
    )
    return len(report.faults)


def _options(axes: str | None, labels: Path | None) -> Options:
    """Return what the user states about the files."""
    return Options(axes, None if labels is None else read_label_map(labels))


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
