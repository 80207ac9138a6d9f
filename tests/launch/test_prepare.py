"""What `prepare` is told, checks, notes and keeps in the card of a data set."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from input_pipeline.datasets.folder import read_label_map
from tests.input_pipeline.datasets.test_layouts import (
    opened,
    write_json,
)
from tests.input_pipeline.datasets.test_volume_builder import (
    prepared,
    save,
    save_ct_seg,
    save_folder,
    save_medseg,
    volume,
)


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
