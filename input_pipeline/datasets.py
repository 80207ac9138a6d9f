"""The data sets by name: build once into array_record files, then read by index."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from input_pipeline import covid_semiseg, ct_phantom, folder
from input_pipeline.covid19_ct_seg import Covid19CtSeg
from input_pipeline.covid_semiseg import CovidSemiseg
from input_pipeline.ct_phantom import CtPhantom
from input_pipeline.folder import Folder
from input_pipeline.lazy import LazySequence
from input_pipeline.medseg import Medseg
from input_pipeline.preprocess import Slice
from input_pipeline.volumes import VolumeBuilder

UNLABELLED = "unlabelled"
SHARD_SLICES = 512  # records of a file
SOURCE_FILE = "source.json"  # beside the records: what they were built from


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is built.

    Attributes:
        intensity: 'hu' or 'uint8', see `Preprocessing`.
        has_lung: slices come with a lung mask.
        tasks: label sets it offers.
        builder: class that writes its records.
        files: the user's files it is built from, given their folder and the task; None where it
            needs none.
        per_task: each task has records of its own.
    """

    intensity: str
    has_lung: bool
    tasks: tuple[str, ...]
    builder: type[tfds.core.GeneratorBasedBuilder]
    files: Callable[[Path, str], list[Path]] | None
    per_task: bool = False


def _semiseg_files(source_dir: Path, task: str) -> list[Path]:
    splits = covid_semiseg.find_cases(source_dir, task)
    return [p for cases in splits.values() for c in cases for p in (c.image, c.mask) if p]


def _volume_files(builder: type[VolumeBuilder]) -> Callable[[Path, str], list[Path]]:
    def files(source_dir: Path, task: str) -> list[Path]:
        del task
        splits = builder.find_volumes(source_dir)
        listed = [p for s in splits.values() for v in s for p in (v.image, v.mask, v.lung) if p]
        about = (source_dir / name for name in (folder.SETTINGS, folder.PATIENTS))
        return listed + [path for path in about if path.exists()]

    return files


BOTH_TASKS = ("binary", "multiclass")
DATASETS = {
    "covid_semiseg": DatasetInfo(
        "uint8", False, BOTH_TASKS, CovidSemiseg, _semiseg_files, per_task=True
    ),
    "covid19_ct_seg": DatasetInfo(
        "hu", True, ("binary",), Covid19CtSeg, _volume_files(Covid19CtSeg)
    ),
    "medseg": DatasetInfo("hu", True, BOTH_TASKS, Medseg, _volume_files(Medseg)),
    "folder": DatasetInfo("hu", True, BOTH_TASKS, Folder, _volume_files(Folder)),
    "ct_phantom": DatasetInfo("hu", True, BOTH_TASKS, CtPhantom, None),
}


def build(
    name: str, *, source_dir: Path | None, data_dir: Path, task: str, progress: bool = False
) -> None:
    """Build a data set unless the same source is built already; whole or not at all.

    A source whose files have changed in name, size or time is built again and takes the place of
    the old records.

    Args:
        name: key of `DATASETS`.
        source_dir: the user's files; None uses what is built. Ignored by ct_phantom.
        data_dir: where records are kept.
        task: 'binary' or 'multiclass'.
        progress: show TFDS's progress bars on stderr.

    Raises:
        ValueError: no such data set or task, or the source is incomplete or damaged.
        OSError: `data_dir` refuses to be written.
    """
    target = _directory(name, data_dir, task)
    if DATASETS[name].files is not None and source_dir is None:
        if target.is_dir():
            return
        raise ValueError(f"{name} is not built in {data_dir} and no source_dir was given; set it")
    source = _fingerprint(name, source_dir, task)
    if _built_from(target) == source:
        return
    with _scratch(data_dir) as scratch:
        builder = _builder(name, source_dir, scratch, task)
        _prepare(builder, progress)
        built = Path(builder.data_dir)
        (built / SOURCE_FILE).write_text(json.dumps({"sha256": source}), encoding="utf-8")
        _move(built, target, scratch)


def open_split(name: str, split: str, *, data_dir: Path, task: str) -> Sequence[Slice]:
    """Open a built split for reading by index.

    Slices of 'unlabelled' have `mask` None. The binary task reads lesion classes as 1.

    Raises:
        ValueError: no such data set, task or split, or it is not built; says what there is.
    """
    builder = _built(name, data_dir, task)
    if split not in builder.info.splits:
        sizes = ", ".join(f"{k} ({v.num_examples})" for k, v in builder.info.splits.items())
        raise ValueError(f"{name} has no split {split!r} in {builder.data_dir}; it has {sizes}")
    return Records(builder.as_data_source(split), split != UNLABELLED, task == "binary")


def split_names(name: str, *, data_dir: Path, task: str) -> list[str]:
    """Splits of a built data set.

    Raises:
        ValueError: no such data set or task, or it is not built.
    """
    return list(_built(name, data_dir, task).info.splits)


class Records(LazySequence[Slice]):
    """The slices of one built split, decoded at each access."""

    def __init__(self, source: Sequence[dict[str, Any]], labelled: bool, binary: bool) -> None:
        self._source = source
        self._labelled = labelled
        self._binary = binary

    def __len__(self) -> int:
        return len(self._source)

    def _item(self, index: int) -> Slice:
        record = self._source[index]
        mask = record["mask"] if self._labelled else None
        if mask is not None and self._binary:
            mask = (mask > 0).astype(mask.dtype)
        return Slice(
            image=record["image"],
            mask=mask,
            lung=record.get("lung"),
            id=_text(record["id"]),
            patient=_text(record["patient"]),
            spacing=_spacing(record.get("spacing")),
            volume=_text(record.get("volume", "")) or None,
            slice_spacing=float(record.get("slice_spacing", 0)) or None,
        )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _spacing(value: Sequence[float] | None) -> tuple[float, float] | None:
    return None if value is None or not value[0] else (float(value[0]), float(value[1]))


def _built(name: str, data_dir: Path, task: str) -> tfds.core.DatasetBuilder:
    """The builder of a data set that is built."""
    directory = _directory(name, data_dir, task)
    if not directory.is_dir():
        built = data_dir.glob("[!.]*/**/dataset_info.json")
        there = [str(path.parent.relative_to(data_dir)) for path in built]
        raise ValueError(
            f"{directory}: {name} ({task}) is not built; "
            f"{data_dir} holds {', '.join(sorted(there)) or 'nothing'}; build it first"
        )
    return tfds.builder_from_directory(directory)


def _directory(name: str, data_dir: Path, task: str) -> Path:
    """Where the records of a data set lie, built or not."""
    if name not in DATASETS:
        raise ValueError(f"no data set {name!r}, expected one of {tuple(DATASETS)}")
    if task not in DATASETS[name].tasks:
        raise ValueError(f"{name} has no task {task!r}, expected one of {DATASETS[name].tasks}")
    info = DATASETS[name]
    folder = data_dir / name / task if info.per_task else data_dir / name
    return folder / str(info.builder.VERSION)


def _builder(
    name: str, source_dir: Path | None, data_dir: Path, task: str
) -> tfds.core.DatasetBuilder:
    info = DATASETS[name]
    own: dict[str, Any] = {} if info.files is None else {"source_dir": source_dir}
    if info.per_task:
        own["config"] = task
    return info.builder(data_dir=data_dir, file_format="array_record", **own)


def _fingerprint(name: str, source_dir: Path | None, task: str) -> str:
    """Hash of what the records depend on; for files their names, sizes and times."""
    files = DATASETS[name].files
    if files is None:
        facts: list[Any] = [ct_phantom.SEED, ct_phantom.SIZE, ct_phantom.SPLITS]
        facts.append(ct_phantom.SLICES_PER_PATIENT)
    else:
        assert source_dir is not None
        facts = [
            [str(p.relative_to(source_dir)), *_size_and_time(p)] for p in files(source_dir, task)
        ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _size_and_time(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _built_from(directory: Path) -> str | None:
    """Fingerprint of what is built, None when nothing is."""
    try:
        return json.loads((directory / SOURCE_FILE).read_text(encoding="utf-8"))["sha256"]
    except (FileNotFoundError, ValueError, KeyError):
        return None


@contextlib.contextmanager
def _scratch(data_dir: Path) -> Iterator[Path]:
    """A folder inside `data_dir` that is gone afterwards, and `data_dir` too if it is empty."""
    data_dir.mkdir(parents=True, exist_ok=True)
    mine = f".building-{socket.gethostname()}-"
    for left in data_dir.glob(f"{mine}*"):  # a build that was killed
        if not _runs(left.name.removeprefix(mine).partition("-")[0]):
            shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{mine}{os.getpid()}-", dir=data_dir))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):
            data_dir.rmdir()  # only works when nothing is in it


def _runs(process: str) -> bool:
    """Whether a process of that number runs on this machine."""
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # it runs, and is another user's
        return True
    return True


def _prepare(builder: tfds.core.DatasetBuilder, progress: bool) -> None:
    """Write the records without TFDS's chatter."""
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
    """Write records as they come.

    TFDS's own way gathers a split in memory, and beyond 1 GB in files for which it needs
    TensorFlow.
    """
    Path(builder.data_dir).mkdir(parents=True)
    writer = tfds.core.SequentialWriter(
        builder.info, max_examples_per_shard=SHARD_SLICES, file_format="array_record"
    )
    for split, examples in builder.examples().items():
        writer.initialize_splits([split])
        for example in tqdm(examples, split, unit=" slices", leave=False, disable=not progress):
            writer.add_examples({split: [example]})
    writer.close_all()


def _move(built: Path, target: Path, scratch: Path) -> None:
    """Put finished records in their place; older ones go with the scratch folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        os.replace(target, scratch / "old")
    os.replace(built, target)
