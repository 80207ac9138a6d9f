"""Build each data set once into array_record files, and read its slices by index."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from input_pipeline.datasets import covid_semiseg, parts
from input_pipeline.datasets.covid19_ct_seg import Covid19CtSeg
from input_pipeline.datasets.covid_semiseg import CovidSemiseg
from input_pipeline.datasets.covid_semiseg_synthetic import CovidSemisegSynthetic
from input_pipeline.datasets.ct_phantom import patients
from input_pipeline.datasets.ct_phantom.builder import CtPhantom
from input_pipeline.datasets.ct_phantom_domains import patients as domain_patients
from input_pipeline.datasets.ct_phantom_domains.builder import (
    CtPhantomDomains,
    CtPhantomPretraining,
)
from input_pipeline.datasets.folder import Folder
from input_pipeline.datasets.layouts import SETTINGS
from input_pipeline.datasets.medseg import Medseg
from input_pipeline.datasets.patients_table import PATIENTS
from input_pipeline.datasets.record_slices import RecordSlices, facts_of
from input_pipeline.datasets.report import Report
from input_pipeline.datasets.volume_builder import VolumeBuilder
from input_pipeline.datasets.volumes import Options
from input_pipeline.datasets.writing import move_into_place, scratch_folder, write_records
from input_pipeline.files import remove, write_json
from input_pipeline.io.nifti_header import files_of
from input_pipeline.io.scan import axes_affine
from input_pipeline.lungs.origin import RECORD, LungOrigin, origin_of
from input_pipeline.records import Records, open_folder, write_hashes
from input_pipeline.slices import Slice

UNLABELLED = "unlabelled"
TRUTH = "unlabelled_truth"  # the same slices with their masks, of data sets that know them
MEND = "remove its folder and build the data set again"  # if records are damaged
# Beside the records, the card of the data set: a hash of the files that they were built from, what
# the user stated, what was noticed while the files were read, and where lung masks come from.
SOURCE_FILE = "source.json"
VALIDATION = "validation"


@dataclass(frozen=True)
class DatasetInfo:
    """Properties of a data set that do not depend on its files.

    Attributes:
        intensity: 'hu' or 'uint8', see `Preprocessing`.
        has_lung: whether its slices have a lung mask.
        tasks: its tasks, 'binary' and 'multiclass' or one of them.
        builder: class that writes its records.
        files: function that lists the user's files, given their folder, the task and a report;
            None if the data set needs no files.
        per_task: whether each task has its own records.
        states_splits: whether the user may state the splits; a split 'validation' then validates.
        made_from: function that returns what a data set without files is made from; its records
            also hold the masks of its unlabelled slices, as the split 'unlabelled_truth'.
    """

    intensity: str
    has_lung: bool
    tasks: tuple[str, ...]
    builder: type[tfds.core.GeneratorBasedBuilder]
    files: Callable[[Path, str, Report], list[Path]] | None
    per_task: bool = False
    states_splits: bool = False
    made_from: Callable[[], list[Any]] | None = None


def _semiseg_files(source_dir: Path, task: str, report: Report) -> list[Path]:
    """Return the files of COVID-SemiSeg."""
    del report
    splits = covid_semiseg.find_cases(source_dir, task)
    return [p for cases in splits.values() for c in cases for p in (c.image, c.mask) if p]


def _unlabelled_files(source_dir: Path, task: str, report: Report) -> list[Path]:
    """Return the unlabelled files of COVID-SemiSeg."""
    del task, report
    return [case.image for case in covid_semiseg.find_cases(source_dir, "binary")[UNLABELLED]]


def _volume_files(builder: type[VolumeBuilder]) -> Callable[[Path, str, Report], list[Path]]:
    """Return a function that lists the files of a data set of volumes."""

    def files(source_dir: Path, task: str, report: Report) -> list[Path]:
        del task
        splits = builder.list_volumes(source_dir, report)
        volumes = [volume for split in splits.values() for volume in split]
        lungs = [volume.lung for volume in volumes]
        named = (p for v in volumes for p in (v.image, v.mask, v.lung) if p)
        listed = [file for path in named for file in files_of(path)]
        about = {source_dir / name: None for name in (SETTINGS, PATIENTS)}
        about |= {path.with_name(RECORD): None for path in lungs if path}
        return listed + [path for path in about if path.exists()]

    return files


BOTH_TASKS = ("binary", "multiclass")
DATASETS = {
    "covid_semiseg": DatasetInfo(
        "uint8", False, BOTH_TASKS, CovidSemiseg, _semiseg_files, per_task=True
    ),
    "covid_semiseg_synthetic": DatasetInfo(
        "uint8", False, BOTH_TASKS, CovidSemisegSynthetic, _unlabelled_files
    ),
    "covid19_ct_seg": DatasetInfo(
        "hu", True, ("binary",), Covid19CtSeg, _volume_files(Covid19CtSeg)
    ),
    "medseg": DatasetInfo("hu", True, BOTH_TASKS, Medseg, _volume_files(Medseg)),
    "folder": DatasetInfo(
        "hu", True, BOTH_TASKS, Folder, _volume_files(Folder), states_splits=True
    ),
    "ct_phantom": DatasetInfo(
        "hu", True, BOTH_TASKS, CtPhantom, None, made_from=patients.made_from
    ),
    "ct_phantom_domains": DatasetInfo(
        "uint8",
        True,
        BOTH_TASKS,
        CtPhantomDomains,
        None,
        made_from=domain_patients.made_from,
    ),
    "ct_phantom_pretraining": DatasetInfo(
        "uint8",
        True,
        BOTH_TASKS,
        CtPhantomPretraining,
        None,
        made_from=domain_patients.pretraining_made_from,
    ),
}


def build(
    name: str,
    *,
    source_dir: Path | None,
    data_dir: Path,
    task: str,
    options: Options | None = None,
    progress: bool = False,
    jobs: int = 1,
    part: parts.Part | None = None,
    begin: Callable[[Path], Any] = lambda folder: None,
    accept: Callable[[Path], Any] = lambda data_dir: None,
) -> bool:
    """Build a data set, completely or not at all, unless the same source is already built.

    If the names, sizes or times of the source's files, or what is stated about them, have changed,
    the data set is built again and the new records replace the old ones. What is noticed while the
    files are read is printed on standard error and kept in the data set's card, see `notes`.

    Args:
        name: key of `DATASETS`.
        source_dir: folder with the user's files; None to use the existing records. The phantoms
            ignore it.
        data_dir: folder for the records of all data sets.
        task: 'binary' or 'multiclass'.
        options: what the user states about the files; None for what the existing records were
            built with.
        progress: whether to show progress bars on stderr.
        jobs: processes that read volumes side by side; the records are the same.
        part: builds that part alone, of a data set of volumes; without it parts that are all there
            are put together and removed.
        begin: called with the records' folder before they are built, which may take long.
        accept: called before new records replace old ones, with a folder `data_dir` that holds the
            new ones alone; if it raises, the old ones stay.

    Returns:
        Whether it was built now.

    Raises:
        ValueError: there is no such data set or task, the source is incomplete or damaged (of
            several faults each is printed on a line of standard error), or parts are missing.
        OSError: `data_dir` cannot be written.
    """
    whole = _directory(name, data_dir, task)
    target = whole if part is None else _part_directory(name, whole, part)
    if DATASETS[name].files is not None and source_dir is None:
        if target.is_dir():
            return False
        raise ValueError(
            f"{data_dir}: {name} is not built and no source_dir was given; set source_dir"
        )
    report, before = Report(), _card(target)
    options = _checked(name, options or _options(before))
    source = _fingerprint(name, source_dir, task, report)
    if not report.faults and (before.get("sha256"), _options(before)) == (source, options):
        return False
    if source_dir is not None and DATASETS[name].builder is CovidSemiseg:
        _check_pictures(source_dir, task, report)
        report.raise_faults(source_dir)
    made_of = _parts(whole, source, options, report) if part is None else []
    given = {"options": options, "report": report, "jobs": jobs, "part": part, "made_of": made_of}
    begin(target)
    with scratch_folder(data_dir) as scratch:
        builder = _builder(name, source_dir, scratch, task, given)
        write_records(builder, progress)
        report.raise_faults(source_dir or data_dir)
        built = Path(builder.data_dir)
        write_hashes(built, builder.info.splits, MEND, facts_of)
        lungs = builder.lungs if isinstance(builder, VolumeBuilder) else None
        card = {"sha256": source, "notes": report.notes, "lungs": lungs and lungs._asdict()}
        write_json(built / SOURCE_FILE, card | {"axes": options.axes, "labels": options.labels})
        if target.exists():
            accept(scratch)
        move_into_place(built, target, scratch)
        for folder in made_of:
            remove(folder)
        if made_of:
            with suppress(OSError):  # parts of another version are left
                made_of[0].parent.rmdir()
    return True


def _part_directory(name: str, whole: Path, part: parts.Part) -> Path:
    """Return the folder of a part's records."""
    if not issubclass(DATASETS[name].builder, VolumeBuilder):
        raise ValueError(f"{name}: --shard divides volumes, and it has none; build it whole")
    return parts.folder_of(whole, part)


def _parts(whole: Path, source: str, options: Options, report: Report) -> list[Path]:
    """Return the folders of parts to be put together, and take their notes over."""
    folders = parts.built(whole)
    for folder in folders:
        card = _card(folder)
        if (card.get("sha256"), _options(card)) != (source, options):
            raise ValueError(
                f"{folder}: built from other files or options than these; build the part again, or "
                f"remove {folder.parent} to read all files here"
            )
        for note in card.get("notes", []):
            report.keep(note)
    return folders


def check(
    name: str, *, source_dir: Path, task: str, options: Options, report: Report, jobs: int = 1
) -> int:
    """Read all files of a data set without building it.

    Args:
        name: key of `DATASETS`.
        source_dir: folder with the user's files.
        task: 'binary' or 'multiclass'.
        options: what the user states about the files.
        report: gets the notes and the faults.
        jobs: processes that read volumes side by side.

    Returns:
        The number of volumes, or of pictures, read.

    Raises:
        ValueError: there is no such data set or task, or the folder is not such a data set.
    """
    _directory(name, Path(), task)
    builder = DATASETS[name].builder
    options = _checked(name, options)
    if issubclass(builder, VolumeBuilder):
        return builder.check(source_dir, options, report, jobs)
    if DATASETS[name].files is None:
        raise ValueError(f"{name} is made by this program; it has no files to check")
    return _check_pictures(source_dir, task, report)


def notes(name: str, *, data_dir: Path, task: str) -> list[str]:
    """Return what was noticed while the files of a built data set were read.

    Args:
        name: key of `DATASETS`.
        data_dir: folder with the records of all data sets.
        task: 'binary' or 'multiclass'.

    Raises:
        ValueError: there is no such data set or task.
    """
    return list(_card(_directory(name, data_dir, task)).get("notes", []))


def lung_origin(name: str, *, data_dir: Path, task: str) -> LungOrigin | None:
    """Return where the lung masks of a built data set come from; None if it has none, or unknown.

    Args:
        name: key of `DATASETS`.
        data_dir: folder with the records of all data sets.
        task: 'binary' or 'multiclass'.

    Raises:
        ValueError: there is no such data set or task, or its card is damaged.
    """
    directory = _directory(name, data_dir, task)
    record = _card(directory).get("lungs")
    return None if record is None else origin_of(record, directory / SOURCE_FILE, MEND)


def validation_split(name: str, *, data_dir: Path, task: str) -> str:
    """Return the name of the split that the user stated to validate on; '' if there is none.

    Args:
        name: key of `DATASETS`.
        data_dir: folder with the records of all data sets.
        task: 'binary' or 'multiclass'.

    Raises:
        ValueError: there is no such data set or task, or it is not built.
    """
    stated = DATASETS[name].states_splits
    there = stated and VALIDATION in split_names(name, data_dir=data_dir, task=task)
    return VALIDATION if there else ""


def open_split(name: str, split: str, *, data_dir: Path, task: str) -> Sequence[Slice]:
    """Open a split of a built data set.

    Args:
        name: key of `DATASETS`.
        split: name of the split.
        data_dir: folder with the records of all data sets.
        task: 'binary' or 'multiclass'.

    Returns:
        Its slices. In the split 'unlabelled' their `mask` is None; phantoms show it in the split
        'unlabelled_truth'. For the binary task both lesion classes are 1.

    Raises:
        ValueError: there is no such data set, task or split (the message says which there are), or
            it is not built, or damaged; on access too.
    """
    records = _records(name, split, data_dir, task)
    return RecordSlices(records, split != UNLABELLED, task == "binary")


def slice_hashes(name: str, split: str, *, data_dir: Path, task: str) -> dict[str, str]:
    """Return a hash of what the records hold of each slice, by its id.

    Args:
        name: key of `DATASETS`.
        split: name of the split.
        data_dir: folder with the records of all data sets.
        task: 'binary' or 'multiclass'.

    Raises:
        ValueError: as `open_split`.
    """
    return dict(_records(name, split, data_dir, task).hashes())


def split_names(name: str, *, data_dir: Path, task: str) -> list[str]:
    """List the splits of a built data set.

    Args:
        name: key of `DATASETS`.
        data_dir: folder with the records of all data sets.
        task: 'binary' or 'multiclass'.

    Raises:
        ValueError: there is no such data set or task, or it is not built.
    """
    return list(_splits(_built(name, data_dir, task)))


def _records(name: str, split: str, data_dir: Path, task: str) -> Records:
    """Open the records of a split."""
    directory = _built(name, data_dir, task)
    sizes = _splits(directory)
    if split == TRUTH and DATASETS[name].made_from is not None:
        split = UNLABELLED
    if split not in sizes:
        listed = ", ".join(f"{there} ({count})" for there, count in sizes.items())
        raise ValueError(f"{directory}: {name} has no split {split!r}, expected one of {listed}")
    return Records(directory, split, MEND)


def _splits(directory: Path) -> dict[str, int]:
    """Return the number of records of each split."""
    return {k: v.num_examples for k, v in open_folder(directory, MEND).info.splits.items()}


def _built(name: str, data_dir: Path, task: str) -> Path:
    """Return the folder of the records of a built data set."""
    directory = _directory(name, data_dir, task)
    if not directory.is_dir():
        built = data_dir.glob("[!.]*/**/dataset_info.json")
        there = [str(path.parent.relative_to(data_dir)) for path in built]
        raise ValueError(
            f"{directory}: {name} ({task}) is not built, "
            f"{data_dir} holds {', '.join(sorted(there)) or 'nothing'}; build it first"
        )
    return directory


def _directory(name: str, data_dir: Path, task: str) -> Path:
    """Return the folder of a data set's records, whether or not they are built."""
    if name not in DATASETS:
        raise ValueError(f"no data set {name!r}, expected one of {tuple(DATASETS)}")
    if task not in DATASETS[name].tasks:
        raise ValueError(f"{name} has no task {task!r}, expected one of {DATASETS[name].tasks}")
    info = DATASETS[name]
    folder = data_dir / name / task if info.per_task else data_dir / name
    return folder / str(info.builder.VERSION)


def _builder(
    name: str, source_dir: Path | None, data_dir: Path, task: str, given: dict[str, Any]
) -> tfds.core.DatasetBuilder:
    """Return the builder that writes the records of a data set; `given` is for volumes."""
    info = DATASETS[name]
    own: dict[str, Any] = {} if info.files is None else {"source_dir": source_dir}
    if info.per_task:
        own["config"] = task
    if issubclass(info.builder, VolumeBuilder):
        own |= given
    return info.builder(data_dir=data_dir, file_format="array_record", **own)


def _check_pictures(source_dir: Path, task: str, report: Report) -> int:
    """Read every slice of COVID-SemiSeg, and return their number."""
    cases = [c for part in covid_semiseg.find_cases(source_dir, task).values() for c in part]
    for case in cases:
        report.attempt(partial(covid_semiseg.read_case, case, task))
    return len(cases)


def _checked(name: str, options: Options) -> Options:
    """Check that a data set takes what is stated about it."""
    builder = DATASETS[name].builder
    if options.axes is not None:
        if not issubclass(builder, VolumeBuilder):
            raise ValueError(f"{name}: --axes is {options.axes!r}, but its files have no such axes")
        axes_affine(options.axes, (1.0, 1.0, 1.0))
    if options.labels is not None and builder is not Folder:
        raise ValueError(f"{name}: its labels are known; --labels is for the data set folder")
    return options


def _fingerprint(name: str, source_dir: Path | None, task: str, report: Report) -> str:
    """Return a hash of what the records depend on; for files, their names, sizes and times."""
    files, made_from = DATASETS[name].files, DATASETS[name].made_from
    if files is None:
        assert made_from is not None
        facts = made_from()
    else:
        assert source_dir is not None
        listed = files(source_dir, task, report)
        facts = [[str(p.relative_to(source_dir)), *_size_and_time(p)] for p in listed]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return the size in bytes and the time of modification in nanoseconds."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _card(directory: Path) -> dict[str, Any]:
    """Return the card of built records; empty if there are none."""
    try:
        card = json.loads((directory / SOURCE_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def _options(card: dict[str, Any]) -> Options:
    """Return what was stated about the files of built records."""
    labels = card.get("labels")
    return Options(
        card.get("axes"),
        None if labels is None else {int(label): index for label, index in labels.items()},
    )
