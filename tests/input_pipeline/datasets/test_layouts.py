"""Folders as people have them: nnU-Net, MSD, pictures, pairs of files."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from input_pipeline.datasets import catalog
from input_pipeline.datasets.folder import Folder
from input_pipeline.datasets.report import Report
from input_pipeline.datasets.volumes import Options
from input_pipeline.preprocess import unwindowed, windowed
from tests.input_pipeline.datasets.test_volume_builder import (
    save,
    save_folder,
    volume,
)

NNUNET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lesion": 1},
          "numTraining": 2, "file_ending": ".nii.gz"}  # fmt: skip
MSD = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "GGO", "2": "consolidation"}}


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def save_nnunet(folder: Path, *, suffix: str = "_0000", labels: tuple[int, ...] = (1,)) -> list:
    """Two labelled volumes and one to segment."""
    made = [volume(seed, labels) for seed in range(3)]
    for number, parts in enumerate(made):
        part = "Tr" if number < 2 else "Ts"
        save(folder / f"images{part}/p{number}{suffix}.nii.gz", parts["image"])
        if number < 2:
            save(folder / f"labelsTr/p{number}.nii.gz", parts["mask"], turned=True)
    write_json(folder / "dataset.json", NNUNET)
    return made


def opened(folder: Path, split: str, options: Options | None = None):
    data_dir = folder / "records"
    catalog.build("folder", source_dir=folder, data_dir=data_dir, task="multiclass",
                  options=options)  # fmt: skip
    return catalog.open_split("folder", split, data_dir=data_dir, task="multiclass")


def listed(folder: Path) -> dict[str, dict[str, tuple[str, str | None]]]:
    """Names of image and label by case and split."""
    return {
        split: {v.id: (v.image.name, v.mask.name if v.mask else None) for v in volumes}
        for split, volumes in Folder.find_volumes(folder).items()
    }


def faults(folder: Path) -> list[str]:
    report = Report(echo=lambda _: None)
    Folder.check(folder, Options(), report)
    return report.faults


def test_nnunet_raw_data(tmp_path):
    made = save_nnunet(tmp_path)
    assert listed(tmp_path) == {
        "train": {f"p{n}": (f"p{n}_0000.nii.gz", f"p{n}.nii.gz") for n in (0, 1)},
        "unlabelled": {"p2": ("p2_0000.nii.gz", None)},
    }
    train = opened(tmp_path, "train")
    np.testing.assert_array_equal(
        [s.mask for s in train], np.concatenate([p["mask"] for p in made[:2]])
    )
    np.testing.assert_array_equal([s.image for s in train][6:], made[1]["image"])
    unlabelled = opened(tmp_path, "unlabelled")
    np.testing.assert_array_equal([s.image for s in unlabelled], made[2]["image"])
    assert {s.volume for s in unlabelled} == {"p2"} and unlabelled[0].mask is None


def test_labels_of_nnunet_s_test_images_make_a_test_split(tmp_path):
    made = save_nnunet(tmp_path)
    save(tmp_path / "labelsTs/p2.nii.gz", made[2]["mask"])
    assert listed(tmp_path)["test"] == {"p2": ("p2_0000.nii.gz", "p2.nii.gz")}
    np.testing.assert_array_equal([s.mask for s in opened(tmp_path, "test")], made[2]["mask"])


def pairs(*names: str) -> list[dict[str, str]]:
    return [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]


@pytest.mark.parametrize("suffix", ["", "_0000"])
def test_msd_s_lists(tmp_path, suffix):
    """As MSD and, with the channel in the files' names alone, nnU-Net 1 write them."""
    made = save_nnunet(tmp_path, suffix=suffix, labels=(1, 2))
    save(tmp_path / f"imagesTr/extra{suffix}.nii.gz", made[0]["image"])  # in no list
    pairs = [
        {"image": f"./imagesTr/p{n}.nii.gz", "label": f"./labelsTr/p{n}.nii.gz"} for n in (0, 1)
    ]
    write_json(
        tmp_path / "dataset.json", MSD | {"training": pairs, "test": ["./imagesTs/p2.nii.gz"]}
    )
    assert listed(tmp_path) == {
        "train": {f"p{n}": (f"p{n}{suffix}.nii.gz", f"p{n}.nii.gz") for n in (0, 1)},
        "unlabelled": {"p2": (f"p2{suffix}.nii.gz", None)},
    }
    masks = np.concatenate([parts["mask"] for parts in made[:2]])
    np.testing.assert_array_equal([s.mask for s in opened(tmp_path, "train")], masks)


def test_msd_s_lists_that_name_no_file(tmp_path):
    save_nnunet(tmp_path, suffix="")
    pairs = [
        {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("p0", "p7")
    ]
    write_json(tmp_path / "dataset.json", MSD | {"training": pairs, "test": ["../p2.nii.gz", 3]})
    found = faults(tmp_path)
    assert len(found) == 4
    assert sum("p7.nii.gz: not found, but dataset.json names it" in line for line in found) == 2
    assert sum("expected a file of this folder" in line for line in found) == 2


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "GGO": 1, "consolidation": 2}, {0: 0, 1: 1, 2: 2}),
        ({"background": 0, "consolidation": 1, "ground-glass opacity": 2}, {0: 0, 1: 2, 2: 1}),
        ({"0": "background", "1": "COVID infection"}, {0: 0, 1: 1}),
        ({"0": "background", "7": "lung lesion"}, {0: 0, 7: 1}),
    ],
)
def test_names_of_labels_say_their_class(tmp_path, labels, expected):
    save_nnunet(tmp_path)
    write_json(tmp_path / "dataset.json", NNUNET | {"labels": labels})
    assert Folder.labels_of(tmp_path, Options()) == expected
    assert Folder.labels_of(tmp_path, Options(labels={1: 2})) == {1: 2}


def test_labels_stored_the_other_way_round_are_read_by_their_names(tmp_path):
    made = save_nnunet(tmp_path, labels=(1, 2))
    names = {"background": 0, "consolidation": 1, "GGO": 2}
    write_json(tmp_path / "dataset.json", NNUNET | {"labels": names})
    masks = np.concatenate([parts["mask"] for parts in made[:2]])
    swapped = np.array([0, 2, 1])[masks]
    np.testing.assert_array_equal([s.mask for s in opened(tmp_path, "train")], swapped)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": {"background": 0, "vessel": 1}}, "label 1 is named 'vessel'.*--labels FILE"),
        ({"labels": {"background": 0, "lesion": [1, 2]}}, "--labels FILE"),
        ({"channel_names": {"0": "T1", "1": "CT"}}, r"channels \['T1', 'CT'\], expected CT alone"),
        ({"file_ending": ".nrrd"}, "file_ending is '.nrrd', expected NIfTI"),
        ({"channel_names": None}, 'expected {"intensity": "hu"}'),
    ],
)
def test_what_nnunet_s_dataset_json_says_otherwise_is_refused(tmp_path, change, words):
    save_nnunet(tmp_path)
    write_json(tmp_path / "dataset.json", NNUNET | change)
    with pytest.raises(ValueError, match=rf"dataset\.json: .*{words}"):
        opened(tmp_path, "train")


def test_another_channel_is_refused(tmp_path):
    made = save_nnunet(tmp_path)
    save(tmp_path / "imagesTr/p0_0001.nii.gz", made[0]["image"])
    (fault,) = faults(tmp_path)
    assert "p0_0001.nii.gz: is another channel than the first" in fault


def test_nnunet_s_names_in_our_own_layout(tmp_path):
    save_folder(tmp_path)
    (tmp_path / "patients.csv").unlink()
    for path in (tmp_path / "images").iterdir():
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    assert listed(tmp_path) == {
        "train": {n: (f"{n}_0000.nii.gz", f"{n}.nii.gz") for n in "01"},
        "unlabelled": {"2": ("2_0000.nii.gz", None)},
    }
    assert all(v.lung for part in Folder.find_volumes(tmp_path).values() for v in part)


def test_numbers_at_the_end_of_names_are_no_channels(tmp_path):
    made = volume(0, (1,))
    for number in range(2):
        save(tmp_path / f"images/scan_{number:04d}.nii.gz", made["image"])
        save(tmp_path / f"labels/scan_{number:04d}.nii.gz", made["mask"])
    write_json(tmp_path / "dataset.json", {"intensity": "hu"})
    assert set(listed(tmp_path)["train"]) == {"scan_0000", "scan_0001"}


def test_two_files_of_one_name_are_refused(tmp_path):
    made = save_folder(tmp_path)
    save(tmp_path / "images/0.nii", made[0]["image"])
    (fault,) = faults(tmp_path)
    assert "0.nii.gz: 0.nii has the same name" in fault


def test_pairs_of_header_and_image(tmp_path):
    made = save_folder(tmp_path)
    for kind in ("images", "labels"):
        for path in sorted((tmp_path / kind).iterdir()):
            image: Any = nib.load(path)
            pair = nib.Nifti1Pair(np.asarray(image.dataobj), image.affine)
            nib.save(pair, path.with_name(path.name.replace(".nii.gz", ".img")))
            path.unlink()
    (tmp_path / "patients.csv").unlink()
    assert listed(tmp_path)["train"]["0"] == ("0.hdr", "0.hdr")
    masks = np.concatenate([parts["mask"] for parts in made[:2]])
    np.testing.assert_array_equal([s.mask for s in opened(tmp_path, "train")], masks)
    voxels = tmp_path / "labels/1.img"  # whose change is noticed too, though .hdr is as it was
    voxels.write_bytes(bytes(voxels.stat().st_size))
    np.testing.assert_array_equal([s.mask for s in opened(tmp_path, "train")][6:], masks[6:] * 0)


def save_pictures(folder: Path, high: int = 2) -> list[tuple[np.ndarray, np.ndarray]]:
    made = []
    for number in range(3):
        parts = volume(number, (1, 2))
        image, mask = windowed(parts["image"][2]), parts["mask"][2 + number % 2]
        mask = np.where(mask > 0, 255, 0).astype(np.uint8) if high == 255 else mask
        for kind, array in (("images", image), ("labels", mask), ("lungs", parts["lung"][2])):
            if kind != "labels" or number < 2:
                (folder / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / kind / f"s{number}.png")
        made.append((image, mask))
    write_json(folder / "dataset.json", {"intensity": "windowed"})
    return made


@pytest.mark.parametrize("high", [2, 255])
def test_pictures_with_masks(tmp_path, high):
    made = save_pictures(tmp_path, high)
    train = opened(tmp_path, "train")
    assert [(s.id, s.patient, s.volume, s.spacing) for s in train] == [
        (f"s{n}_0000", f"s{n}", None, None) for n in (0, 1)
    ]
    for item, (image, mask) in zip(train, made, strict=False):
        np.testing.assert_array_equal(item.image, unwindowed(image))
        np.testing.assert_array_equal(item.mask, mask > 0 if high == 255 else mask)
        assert item.lung.any()
    assert [s.id for s in opened(tmp_path, "unlabelled")] == ["s2_0000"]


def test_pictures_hold_no_hounsfield_units(tmp_path):
    save_pictures(tmp_path)
    write_json(tmp_path / "dataset.json", {"intensity": "hu"})
    found = faults(tmp_path)
    assert len(found) == 3 and all("cannot hold Hounsfield units" in line for line in found)
