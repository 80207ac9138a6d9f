"""Write the records of a data set into a temporary folder, and move them into place when done."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from tqdm import tqdm

from input_pipeline.datasets.volume_builder import VolumeBuilder
from input_pipeline.files import remove, remove_killed, temporary_name

SHARD_SLICES = 512  # records in each file
BUILDING = "building"  # stem of the temporary folder in which records are built


@contextlib.contextmanager
def scratch_folder(data_dir: Path) -> Iterator[Path]:
    """Provide a temporary folder inside `data_dir`; remove it, and an empty `data_dir`, at the end.

    Args:
        data_dir: folder for the records of all data sets; made if it does not exist.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    remove_killed(data_dir, BUILDING)
    scratch = temporary_name(data_dir / BUILDING)
    scratch.mkdir()
    before, tempfile.tempdir = tempfile.tempdir, str(scratch)  # TFDS leaves an empty folder there
    try:
        yield scratch
    finally:
        tempfile.tempdir = before
        remove(scratch)
        with contextlib.suppress(OSError):
            data_dir.rmdir()  # only an empty folder is removed


def write_records(builder: tfds.core.DatasetBuilder, progress: bool) -> None:
    """Write the records of a data set without the messages that TFDS prints.

    Args:
        builder: of the data set.
        progress: whether to show progress bars on stderr.
    """
    if isinstance(builder, VolumeBuilder):
        _write_in_order(builder, progress)
        return
    if progress:
        tfds.enable_progress_bar()
    else:
        tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=config)


def _write_in_order(builder: VolumeBuilder, progress: bool) -> None:
    """Write each record as soon as it is made.

    TFDS itself would collect a whole split in memory, and use TensorFlow for more than 1 GB.
    """
    Path(builder.data_dir).mkdir(parents=True)
    writer = tfds.core.SequentialWriter(
        builder.info, max_examples_per_shard=SHARD_SLICES, file_format="array_record"
    )
    for split, examples in builder.examples().items():
        if not builder.report.faults:
            writer.initialize_splits([split])
        for example in tqdm(examples, split, unit=" slices", leave=False, disable=not progress):
            writer.add_examples({split: [example]})
    if not builder.report.faults:
        writer.close_all()


def move_into_place(built: Path, target: Path, scratch: Path) -> None:
    """Move finished records to their place, and those that they replace to the temporary folder.

    Args:
        built: folder of the finished records.
        target: where they are to be.
        scratch: the temporary folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        os.replace(target, scratch / "old")
    os.replace(built, target)
