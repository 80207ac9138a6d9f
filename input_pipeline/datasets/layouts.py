"""The layouts in which people keep labelled volumes: our own, nnU-Net's and MSD's.

| Layout | Images | Labels |
|---|---|---|
| own | `images/NAME.nii.gz` | `labels/NAME.nii.gz` |
| nnU-Net | `imagesTr/NAME_0000.nii.gz`, `imagesTs/` | `labelsTr/NAME.nii.gz`, `labelsTs/` |
| MSD | the list `training` of `dataset.json`, and its list `test` | named in `training` |

In each, lung masks may be in `lungs/`, and pictures (PNG, JPEG) may stand for NIfTI files.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.datasets.report import Report
from input_pipeline.datasets.volumes import partner, volume_files
from input_pipeline.io.nifti import SUFFIXES
from input_pipeline.io.read import SUFFIXES as PICTURES
from input_pipeline.io.scan import name_of

SETTINGS = "dataset.json"
STATED = ("hu", "windowed")
WANTED = 'expected {"intensity": "hu"} or {"intensity": "windowed"}'
CHANNELS = ("channel_names", "modality")  # of nnU-Net 2, and of nnU-Net 1 and MSD
CHANNEL = re.compile(r"_(\d{4})$")  # at the end of nnU-Net's image names
CLASS_WORDS = (  # in the names of labels, and the class that each means
    (("background",), 0),
    (("ground", "ggo"), 1),
    (("consolidation",), 2),
    (("lesion", "infection", "covid", "opacity", "opacities", "pneumonia"), 1),
)


class Case(NamedTuple):
    """Files of one volume.

    Attributes:
        name: of the volume.
        image: its image.
        label: its label map; None if it is unlabelled.
        lung: its lung mask; None where the data set has none.
        split: 'train', 'test' or 'unlabelled', as the layout says.
    """

    name: str
    image: Path
    label: Path | None
    lung: Path | None
    split: str


def read_settings(source_dir: Path) -> dict[str, Any]:
    """Read `dataset.json`.

    Args:
        source_dir: the user's folder.

    Raises:
        ValueError: there is none, or it is no JSON object.
    """
    path = source_dir / SETTINGS
    try:
        stated = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"{path}: not found, {WANTED}; write this file") from None
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error}), {WANTED}") from None
    if not isinstance(stated, dict):
        raise ValueError(f"{path}: holds {stated!r}, {WANTED}")
    return stated


def stated_intensity(source_dir: Path) -> str:
    """Return the intensity of the images: as stated, or 'hu' where the only channel is named CT.

    Args:
        source_dir: the user's folder.

    Raises:
        ValueError: `dataset.json` states neither.
    """
    path, stated = source_dir / SETTINGS, read_settings(source_dir)
    if "intensity" in stated:
        if stated["intensity"] not in STATED:
            raise ValueError(f"{path}: holds {stated!r:.200}, {WANTED}")
        return stated["intensity"]
    channels = next((stated[key] for key in CHANNELS if isinstance(stated.get(key), dict)), None)
    if channels is None:
        raise ValueError(f"{path}: holds {stated!r:.200}, {WANTED}")
    if [str(name).upper() for name in channels.values()] != ["CT"]:
        raise ValueError(
            f"{path}: has the channels {list(channels.values())}, expected CT alone; if it is CT, "
            f'add "intensity": "hu" or "windowed"'
        )
    return "hu"


def stated_labels(source_dir: Path) -> dict[int, int] | None:
    """Return the class index of each label that `dataset.json` names; None if it names none.

    Args:
        source_dir: the user's folder.

    Raises:
        ValueError: a name is not that of one of our classes.
    """
    path, labels = source_dir / SETTINGS, read_settings(source_dir).get("labels")
    if labels is None:
        return None
    if not isinstance(labels, dict):
        raise ValueError(f"{path}: labels are {labels!r:.100}, expected names and numbers")
    found = {}
    for key, other in labels.items():
        # nnU-Net 2 states {name: number}; nnU-Net 1 and MSD state {number: name}.
        name, number = (other, key) if str(key).isdecimal() else (key, other)
        index = next(
            (index for words, index in CLASS_WORDS if any(w in str(name).lower() for w in words)),
            None,
        )
        if index is None or not str(number).isdecimal():
            raise ValueError(
                f"{path}: label {number} is named {name!r}, expected background, ground-glass, "
                f"consolidation or lesion; say the class of each label by --labels FILE, which "
                f'holds for instance {{"labels": {{"1": 1, "2": 0}}}}'
            )
        found[int(number)] = index
    return {0: 0} | found


def find_cases(source_dir: Path, report: Report) -> list[Case]:
    """List the cases of a folder in any of the layouts.

    Args:
        source_dir: the user's folder.
        report: gets a fault for each file without its partner.

    Raises:
        ValueError: a folder is missing, or has no volume.
    """
    stated = read_settings(source_dir)
    listed, ending = stated.get("training"), stated.get("file_ending", SUFFIXES[0])
    if not str(ending).lower().endswith((*SUFFIXES, *PICTURES)):
        raise ValueError(
            f"{source_dir / SETTINGS}: file_ending is {ending!r}, expected NIfTI (.nii.gz, .nii) "
            f"or pictures (.png, .jpg); convert the files"
        )
    if isinstance(listed, list):
        cases = list(_listed(source_dir, report))
    elif (source_dir / "imagesTr").is_dir():
        cases = [
            *_paired(source_dir, "imagesTr", "labelsTr", "train", report),
            *_paired(source_dir, "imagesTs", "labelsTs", "test", report),
        ]
    else:
        cases = list(_paired(source_dir, "images", "labels", "train", report))
    first: dict[str, Path] = {}
    for case in cases:
        if first.setdefault(case.name, case.image) != case.image:
            report.fault(f"{case.image}: {first[case.name]} has the same name; rename one of them")
    return list(_with_lungs(cases, source_dir / "lungs", report))


def _paired(
    source_dir: Path, images: str, labels: str, split: str, report: Report
) -> Iterator[Case]:
    """List the images of a folder with the labels of another; the test images need not exist."""
    optional = split == "test"
    if optional and not (source_dir / images).is_dir():
        return
    found = volume_files(source_dir / images, report)
    known: Mapping[str, Path] = {}
    if not optional or (source_dir / labels).is_dir():
        known = volume_files(source_dir / labels, report)
    named = _without_channel(found, known, report)
    for name, path in known.items():
        report.attempt(partial(partner, name, path, named, source_dir / images))
    for name, path in named.items():
        yield Case(name, path, known.get(name), None, split if name in known else "unlabelled")


def _without_channel(
    images: Mapping[str, Path], labels: Mapping[str, Path], report: Report
) -> dict[str, Path]:
    """Return images by the names of their cases: nnU-Net adds the channel, CT is _0000."""
    if not all(CHANNEL.search(name) for name in images) or any(name in labels for name in images):
        return dict(images)
    if labels and not any(CHANNEL.sub("", name) in labels for name in images):
        return dict(images)
    if not any(name.endswith("_0000") for name in images):
        return dict(images)
    for name, path in images.items():
        if not name.endswith("_0000"):
            report.fault(f"{path}: is another channel than the first, expected CT alone; remove it")
    return {CHANNEL.sub("", n): path for n, path in images.items() if n.endswith("_0000")}


def _listed(source_dir: Path, report: Report) -> Iterator[Case]:
    """List the cases that `dataset.json` names."""
    stated = read_settings(source_dir)
    tests = stated.get("test")
    for entry in [*stated["training"], *(tests if isinstance(tests, list) else [])]:
        files = entry if isinstance(entry, dict) else {"image": entry}
        image = report.attempt(partial(_listed_file, source_dir, files.get("image")))
        label = None
        if "label" in files:
            label = report.attempt(partial(_listed_file, source_dir, files["label"]))
        if image is not None:
            name = name_of(Path(files["label"] if label is not None else files["image"]))
            yield Case(name, image, label, None, "unlabelled" if label is None else "train")


def _listed_file(source_dir: Path, entry: object) -> Path:
    """Return a file that `dataset.json` names, as MSD or, with the channel, as nnU-Net."""
    if not isinstance(entry, str) or Path(entry).is_absolute() or ".." in Path(entry).parts:
        raise ValueError(
            f"{source_dir / SETTINGS}: names {entry!r}, expected a file of this folder"
        )
    path = source_dir / entry
    suffix = path.name[len(name_of(path)) :]
    for file in (path, path.with_name(f"{name_of(path)}_0000{suffix}")):
        if file.exists():
            return file
    raise ValueError(f"{path}: not found, but {SETTINGS} names it; add it or remove it there")


def _with_lungs(cases: list[Case], folder: Path, report: Report) -> Iterator[Case]:
    """Add the lung masks, where there is a folder of them."""
    if not folder.exists():
        yield from cases
        return
    lungs = volume_files(folder, report)
    known = {name: case.image for case in cases for name in (name_of(case.image), case.name)}
    for name, path in lungs.items():
        report.attempt(partial(partner, name, path, known, cases[0].image.parent))
    for case in cases:
        own = lungs.get(name_of(case.image)) or report.attempt(
            partial(partner, case.name, case.image, lungs, folder)
        )
        yield case._replace(lung=own)
