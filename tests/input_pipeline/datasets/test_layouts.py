"""Folders as people have them: nnU-Net, MSD, pictures, splits and labels that the user states."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from input_pipeline.datasets import catalog
from input_pipeline.datasets.folder import Folder, read_label_map
from input_pipeline.datasets.report import Report
from input_pipeline.datasets.volumes import Options
from input_pipeline.preprocess import unwindowed, windowed
from tests.input_pipeline.datasets.test_volume_builder import (
    prepared,
    save,
    save_ct_seg,
    save_folder,
    save_medseg,
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


def stated(folder: Path, *splits: str, patients: str = "abc") -> None:
    rows = ["file,patient,split"]
    rows += [f"{n}.nii.gz,{p},{s}" for n, (p, s) in enumerate(zip(patients, splits, strict=True))]
    (folder / "patients.csv").write_text("\n".join(rows) + "\n")


def test_the_column_split_is_honoured(tmp_path):
    save_folder(tmp_path)
    stated(tmp_path, "Validation", "train", "unlabelled")
    assert {s: set(v) for s, v in listed(tmp_path).items()} == {
        "train": {"1"},
        "validation": {"0"},
        "unlabelled": {"2"},
    }
    assert {s.patient for s in opened(tmp_path, "validation")} == {"a"}
    found = {"data_dir": tmp_path / "records", "task": "multiclass"}
    assert catalog.validation_split("folder", **found) == "validation"
    stated(tmp_path, "unlabelled", "train", "unlabelled")
    assert {s.patient for s in opened(tmp_path, "unlabelled")} == {"a", "c"}
    assert all(item.mask is None for item in opened(tmp_path, "unlabelled"))
    assert catalog.validation_split("folder", **found) == ""


@pytest.mark.parametrize(
    ("splits", "patients", "words"),
    [
        (("train", "test", "unlabelled"), "aab", "patient 'a' is in train and test"),
        (("train", "validation", "unlabelled"), "aab", "patient 'a' is in train and validation"),
        (("train", "test", "unlabelled"), "aba", None),
        (("train", "test", "unlabelled"), "abb", "patient 'b' is in test and unlabelled"),
        (("train", "train", "test"), "abc", "2.nii.gz is in test but has no label"),
        (("train", "", "unlabelled"), "abc", "split of 1.nii.gz is '', expected train, validation"),
        (("train", "val", "unlabelled"), "abc", "split of 1.nii.gz is 'val'"),
    ],
)
def test_splits_that_cannot_be(tmp_path, splits, patients, words):
    """A patient's unlabelled scans may stand beside labelled ones in training, nowhere else."""
    save_folder(tmp_path)
    stated(tmp_path, *splits, patients=patients)
    found = faults(tmp_path)
    assert len(found) == (words is not None)
    assert words is None or (words in found[0] and "patients.csv" in found[0])


@pytest.mark.parametrize("wrap", [True, False])
def test_a_label_map(tmp_path, capsys, wrap):
    made = save_folder(tmp_path)
    masks = [np.where(parts["mask"] == 2, 7, parts["mask"] * 3).astype(np.uint8) for parts in made]
    for number in range(2):
        save(tmp_path / f"labels/{number}.nii.gz", masks[number])
    given = ("folder", "--source", tmp_path, "--data-dir", tmp_path / "records")
    status, _, errors = prepared(capsys, *given, "--quiet")
    assert status == 2 and errors.count("holds the values 3, 7") == 2 and "--labels FILE" in errors
    assert not (tmp_path / "records").exists()
    labels = {"3": 2, "7": 0}
    write_json(tmp_path / "map.json", {"labels": labels} if wrap else labels)
    given = (*given, "--labels", tmp_path / "map.json")
    assert prepared(capsys, *given, "--quiet")[0] == 0
    # A training that names the source keeps to what was stated when it was built.
    train = opened(tmp_path, "train")
    expected = np.concatenate([np.where(mask == 3, 2, 0) for mask in masks[:2]])
    np.testing.assert_array_equal([item.mask for item in train], expected)
    write_json(tmp_path / "map.json", {"3": 2})
    status, _, errors = prepared(capsys, *given, "--quiet")
    assert status == 2 and "holds the values 7, expected only the labels 0, 3" in errors


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"labels": {}}', '{"3": 3}', '{"x": 1}', '{"-1": 1}', '{"256": 1}',
     '{"3": "2"}', '{"3": true}', '{"3": 1.5}', '{"3": [1]}'],
)  # fmt: skip
def test_a_label_map_that_is_none(tmp_path, text):
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(ValueError, match=r"map\.json: .*expected for instance"):
        read_label_map(tmp_path / "map.json")


def bare(folder: Path) -> None:
    """Take the orientation out of all headers."""
    for path in folder.glob("*/*.nii.gz"):
        image: Any = nib.load(path)
        made = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
        made.set_sform(None, 0)
        made.set_qform(None, 0)
        nib.save(made, path)


@pytest.mark.parametrize("axes", ["LPS", "RAI"])
def test_axes_are_stated_for_images_labels_and_lungs(tmp_path, capsys, axes):
    made = volume(0, (1, 2))
    for kind, part in (("images", "image"), ("labels", "mask"), ("lungs", "lung")):
        save(tmp_path / kind / "0.nii.gz", made[part])
    write_json(tmp_path / "dataset.json", {"intensity": "hu"})
    bare(tmp_path)
    given = ("folder", "--source", tmp_path, "--data-dir", tmp_path / "records", "--quiet")
    status, _, errors = prepared(capsys, *given)
    assert status == 2 and errors.count("--axes LPS") == 3
    assert prepared(capsys, *given, "--axes", axes)[0] == 0
    turn = (slice(None, None, -1 if axes == "RAI" else 1),) * 3
    train = opened(tmp_path, "train")  # without --axes: what the records were built with
    for name in ("image", "mask"):
        np.testing.assert_array_equal([getattr(s, name) for s in train], made[name][turn])
    np.testing.assert_array_equal([s.lung for s in train], made["lung"][turn] > 0)
    status, _, errors = prepared(capsys, *given, "--axes", "LPX")
    assert status == 2 and "expected one each" in errors


def test_check_lists_every_fault_and_builds_nothing(tmp_path, capsys):
    save_folder(tmp_path)
    given = ("folder", "--source", tmp_path, "--check")
    status, said, errors = prepared(capsys, *given)
    assert (status, errors) == (0, "") and "3 volumes or pictures read, 0 faults" in said
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "images/0.nii.gz").write_bytes(b"")
    (tmp_path / "images/2.nii.gz").write_bytes(b"hello" * 200)
    save(tmp_path / "labels/0.nii.gz", volume(0, (1, 2))["mask"] * 4)
    save(tmp_path / "lungs/1.nii.gz", volume(0, (1,))["lung"][1:])
    status, said, errors = prepared(capsys, *given)
    lines = said.splitlines()
    assert (status, errors, len(lines)) == (3, "", 5)
    for name, word in (
        ("images/0.nii.gz", "is empty"),
        ("images/2.nii.gz", "single-file NIfTI"),
        ("labels/0.nii.gz", "holds the values 4, 8"),
        ("lungs/1.nii.gz", "not on the grid of"),
    ):
        assert sum(line.startswith(f"{tmp_path / name}: ") and word in line for line in lines) == 1
    assert "4 faults" in lines[-1] and sorted(tmp_path.rglob("*")) == before
    # Without --check the same faults stop the build, and are all named.
    status, said, errors = prepared(capsys, *given[:-1], "--data-dir", tmp_path / "records")
    assert (status, said) == (2, "")
    assert errors.count("\n") == 4 and all(line in errors for line in lines[:-1])
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "dataset.json").unlink()
    assert prepared(capsys, *given)[0] == 2  # what stops everything
    assert prepared(capsys, "folder", "--check")[0] == 2


def test_check_of_the_other_data_sets(tmp_path, capsys):
    training = tmp_path / "TrainingSet/LungInfection-Train"
    for folder in ("Imgs", "GT"):
        for name in ("1", "2"):
            path = (
                tmp_path / "TrainingSet/LungInfection-Train/Doctor-label" / folder / f"{name}.png"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(path)
    pseudo = training / "Pseudo-label/Imgs/a_1.png"
    pseudo.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(pseudo)
    path.write_bytes(b"")
    given = ("covid_semiseg", "--source", tmp_path, "--task", "binary")
    status, said, _ = prepared(capsys, *given, "--check")
    assert status == 3 and "2.png: the file is empty" in said and "all black" in said
    status, _, errors = prepared(capsys, *given, "--data-dir", tmp_path / "records")
    assert status == 2 and errors.count("\n") == 2 and not (tmp_path / "records").exists()
    status, _, errors = prepared(capsys, *given, "--check", "--axes", "LPS")
    assert status == 2 and "no such axes" in errors
    assert prepared(capsys, "ct_phantom", "--source", tmp_path, "--check")[0] == 2


def test_notes_are_kept_in_the_card_and_said_again(tmp_path, capsys):
    made = save_folder(tmp_path)
    save(tmp_path / "images/1.nii.gz", made[1]["image"] + 1250)
    given = ("folder", "--source", tmp_path, "--data-dir", tmp_path / "records", "--quiet")
    status, _, errors = prepared(capsys, *given)
    (line,) = errors.splitlines()
    assert status == 0 and line.startswith(f"{tmp_path}/images/1.nii.gz: ") and "offset" in line
    (card,) = (tmp_path / "records/folder").glob("*/source.json")
    assert json.loads(card.read_text())["notes"] == [line]
    assert prepared(capsys, *given) == (0, *(prepared(capsys, *given)[1:]))
    assert prepared(capsys, *given)[2].splitlines() == [line]


def test_published_data_sets_say_their_notes_too(tmp_path, capsys):
    """Of each image, label map and lung mask; grey volumes that are read as such raise none."""
    made = save_ct_seg(tmp_path / "ct_seg")
    images = tmp_path / "ct_seg/COVID-19-CT-Seg_20cases"
    given = ("--data-dir", tmp_path / "records", "--quiet")
    assert prepared(capsys, "covid19_ct_seg", "--source", tmp_path / "ct_seg", *given)[2] == ""
    save(images / "coronacases_001.nii.gz", made[0]["image"] - 1024)
    _, _, errors = prepared(capsys, "covid19_ct_seg", "--source", tmp_path / "ct_seg", *given)
    assert errors.startswith(f"{images}/coronacases_001.nii.gz: ") and "minus an offset" in errors
    lone, _ = save_medseg(tmp_path / "medseg")
    save(tmp_path / "medseg/tr_im.nii.gz", lone["image"], affine=np.diag([-1, -1, 1, 1]))
    for name in ("tr_mask", "tr_lungmasks_updated"):
        part = {"tr_mask": "mask"}.get(name, "lung")
        save(tmp_path / f"medseg/{name}.nii.gz", lone[part], affine=np.diag([-1, -1, 1, 1]))
    status, _, errors = prepared(capsys, "medseg", "--source", tmp_path / "medseg", *given)
    assert status == 0 and errors.count("\n") == 1  # said of the image, not again of its maps
    assert "medseg/tr_im.nii.gz: the affine is 1 mm along every axis" in errors


def test_records_built_before_there_was_a_card_are_not_built_again(tmp_path, capsys):
    save_folder(tmp_path)
    opened(tmp_path, "train")
    (card,) = (tmp_path / "records/folder").glob("*/source.json")
    card.write_text(json.dumps({"sha256": json.loads(card.read_text())["sha256"]}))
    before = {p: p.stat().st_mtime_ns for p in card.parent.iterdir()}
    opened(tmp_path, "train")
    assert {p: p.stat().st_mtime_ns for p in card.parent.iterdir()} == before


def test_names_in_other_bytes_than_utf8(tmp_path):
    made = volume(0, (1,))
    name = "M\udcfcller"
    save(tmp_path / f"images/{name}.nii.gz", made["image"])
    save(tmp_path / f"labels/{name}.nii.gz", made["mask"])
    write_json(tmp_path / "dataset.json", {"intensity": "hu"})
    train = opened(tmp_path, "train")
    assert {item.volume for item in train} == {"M\\udcfcller"}
    np.testing.assert_array_equal([item.mask for item in train], made["mask"])
