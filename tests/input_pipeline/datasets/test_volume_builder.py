"""Builders of NIfTI data sets, on trees in the published layouts made here."""

import json
import os
import re
import socket
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from input_pipeline.datasets import catalog, writing
from input_pipeline.datasets.folder import Folder
from input_pipeline.datasets.volume_builder import crop_window
from input_pipeline.preprocess import unwindowed, windowed
from launch import cli, prepare

AFFINE = np.diag([-0.8, -0.7, 2.0, 1.0])  # columns to the left, rows to the back: as displayed
SHAPE = (6, 40, 48)  # slices, rows, columns


def volume(seed: int, labels: tuple[int, ...]) -> dict[str, np.ndarray]:
    """HU, a label map with a block of each label, and lungs, [slices, rows, columns]."""
    rng = np.random.default_rng(seed)
    image = rng.integers(-1000, 200, SHAPE).astype(np.int16)
    mask, lung = np.zeros((2, *SHAPE), np.uint8)
    lung[:, 8:30, 6:20] = 1
    lung[:, 8:30, 26:42] = 2
    for place, label in enumerate(labels):
        mask[2 + place, 10:14, 8 : 12 + place] = label
    return {"image": image, "mask": mask, "lung": lung}


def save(path: Path, voxels: np.ndarray, *, turned: bool = False, affine=AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels.transpose(2, 1, 0), affine)
    nib.save(image.as_reoriented([[1, -1], [2, 1], [0, -1]]) if turned else image, path)


def save_ct_seg(folder: Path) -> list[dict[str, np.ndarray]]:
    """COVID-19-CT-Seg with a volume in HU and one in 8 bits, stored on other axes."""
    made = [volume(0, (1, 1)), volume(1, (1,))]
    for name, parts, grey in zip(("coronacases_001", "radiopaedia_2"), made, (0, 1), strict=True):
        image = windowed(parts["image"]) if grey else parts["image"]
        file = f"{name}.nii.gz"
        save(folder / "COVID-19-CT-Seg_20cases" / file, image, turned=bool(grey))
        save(folder / "Lung_Mask" / file, parts["lung"])
        save(folder / "Infection_Mask" / file, parts["mask"], turned=not grey)
    return made


def save_medseg(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    lone, whole = volume(2, (1, 2, 3)), volume(3, (3, 2))
    for name, part in zip(
        ("tr_im", "tr_mask", "tr_lungmasks_updated"), ("image", "mask", "lung"), strict=True
    ):
        save(folder / f"{name}.nii.gz", lone[part])
    for name, part in zip(
        ("rp_im", "rp_msk", "rp_lung_msk"), ("image", "mask", "lung"), strict=True
    ):
        save(folder / name / "1.nii.gz", whole[part])
    return lone, whole


def build(name: str, folder: Path, task: str = "binary", **options) -> Path:
    data_dir = folder / f"records{options.get('jobs', '')}"
    catalog.build(name, source_dir=folder, data_dir=data_dir, task=task, **options)
    return data_dir


def test_covid19_ct_seg_keeps_every_slice_in_hu(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SHARD_SLICES", 5)  # several files, read in their order
    made = save_ct_seg(tmp_path)
    data_dir = build("covid19_ct_seg", tmp_path)
    slices = catalog.open_split("covid19_ct_seg", "train", data_dir=data_dir, task="binary")
    assert len(slices) == 12
    assert slices[7].id == "radiopaedia_2_0001"
    assert slices[7].patient == slices[7].volume == "radiopaedia_2"
    for number, item in enumerate(slices):
        parts, place = made[number // 6], number % 6
        expected = parts["image"][place]
        if number >= 6:
            expected = unwindowed(windowed(expected))
        np.testing.assert_array_equal(item.image, expected)
        np.testing.assert_array_equal(item.mask, parts["mask"][place])
        np.testing.assert_array_equal(item.lung, parts["lung"][place] > 0)
        assert item.spacing == pytest.approx((0.7, 0.8))
        assert item.slice_spacing == pytest.approx(2.0)


def test_volumes_read_side_by_side_give_the_same_records_notes_and_faults(tmp_path, capsys):
    save_ct_seg(tmp_path)
    alone, several = build("covid19_ct_seg", tmp_path), build("covid19_ct_seg", tmp_path, jobs=2)
    built = [contents(folder) for folder in (alone, several)]
    assert any(name.endswith("hashes.json") for name in built[0]) and built[0] == built[1]
    for name in ("coronacases_001", "radiopaedia_2"):
        path = tmp_path / "Infection_Mask" / f"{name}.nii.gz"
        path.write_bytes(path.read_bytes()[:100])
    said = []
    for jobs in (1, 2):
        with pytest.raises(ValueError, match=r"coronacases_001.*1 of 2 faults"):
            build("covid19_ct_seg", tmp_path, jobs=jobs)
        said.append(capsys.readouterr().err)
    assert "radiopaedia_2" in said[0] and said[0] == said[1]


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the records, of which `hashes.json` has hashes; their bytes may differ."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "array_record" not in path.name
    }


def test_parts_put_together_are_the_whole(tmp_path, capsys):
    save_medseg(tmp_path)
    whole = contents(build("medseg", tmp_path, "multiclass"))
    said = capsys.readouterr().err

    def make(part):
        catalog.build(
            "medseg", source_dir=tmp_path, data_dir=tmp_path / "P", task="multiclass", part=part
        )

    make((1, 2))
    with pytest.raises(ValueError, match=r"parts 2/2 are missing"):
        make(None)
    make((2, 2))
    make(None)
    assert contents(tmp_path / "P") == whole
    assert not list((tmp_path / "P").rglob(".parts"))
    assert sorted(set(capsys.readouterr().err.splitlines())) == sorted(set(said.splitlines()))
    with pytest.raises(ValueError, match="--shard 3/3: there are 2 volumes"):
        make((3, 3))


def test_parts_of_other_files_are_not_put_together(tmp_path):
    save_ct_seg(tmp_path)
    given = {"source_dir": tmp_path, "data_dir": tmp_path / "P", "task": "binary"}
    for number in (1, 2):
        catalog.build("covid19_ct_seg", **given, part=(number, 2))
    os.utime(tmp_path / "Lung_Mask" / "radiopaedia_2.nii.gz", (0, 0))
    with pytest.raises(ValueError, match="1-of-2: built from other files"):
        catalog.build("covid19_ct_seg", **given)
    with pytest.raises(ValueError, match="--shard divides volumes"):
        catalog.build("ct_phantom", **given, part=(1, 2))


def test_medseg_has_lone_slices_and_volumes_and_no_effusion(tmp_path):
    lone, whole = save_medseg(tmp_path)
    data_dir = build("medseg", tmp_path, "multiclass")
    for split, parts in (("train", lone), ("validation", whole)):
        slices = catalog.open_split("medseg", split, data_dir=data_dir, task="multiclass")
        mask = np.where(parts["mask"] == 3, 0, parts["mask"])
        np.testing.assert_array_equal([item.mask for item in slices], mask)
        np.testing.assert_array_equal([item.image for item in slices], parts["image"])
        volumes = {item.volume for item in slices}
        assert volumes == ({None} if split == "train" else {"rp_1"})
        assert len({item.patient for item in slices}) == (6 if split == "train" else 1)
        assert (slices[0].spacing is None) == (split == "train")


def test_the_window_is_undone_within_three_hu():
    hu = np.arange(-1250, 251)
    assert np.abs(unwindowed(windowed(hu)).astype(int) - hu).max() <= 3
    np.testing.assert_array_equal(windowed(np.array([-3000, -1250, 250, 3000])), [0, 0, 255, 255])
    np.testing.assert_array_equal(unwindowed(np.array([0, 255], np.uint8)), [-1250, 250])


def test_large_slices_are_cropped_around_the_lungs():
    lung, classes = np.zeros((2, 1, 630, 600), np.uint8)
    lung[0, 300:400, 100:200] = 1  # centre 349.5, 149.5
    assert crop_window(lung, classes) == (slice(94, 606), slice(0, 512))
    classes[0, 90, 590] = 1
    assert crop_window(lung, classes) == (slice(90, 602), slice(79, 591))
    assert crop_window(lung[:, :100, :200], classes[:, :100, :200])[0] == slice(0, 100)


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (lambda f: (f / "Lung_Mask/radiopaedia_2.nii.gz").unlink(), "has no file of that name"),
        (lambda f: (f / "Infection_Mask/radiopaedia_2.nii.gz").write_bytes(b""), "is empty"),
        (
            lambda f: save(f / "Infection_Mask/radiopaedia_2.nii.gz", volume(1, (2,))["mask"]),
            "holds the values 2, expected only the labels 0, 1",
        ),
        (
            lambda f: save(f / "Lung_Mask/radiopaedia_2.nii.gz", volume(1, (1,))["lung"][1:]),
            "5 x 40 x 48",
        ),
        (
            lambda f: save(
                f / "Lung_Mask/radiopaedia_2.nii.gz",
                volume(1, (1,))["lung"],
                affine=AFFINE * [1, 1, 1.05, 1],
            ),
            "mm apart",
        ),
    ],
)
def test_bad_sources_are_named_and_leave_nothing(tmp_path, break_it, text):
    save_ct_seg(tmp_path)
    break_it(tmp_path)
    with pytest.raises(ValueError, match="radiopaedia_2") as raised:
        build("covid19_ct_seg", tmp_path)
    assert text in str(raised.value)
    assert not (tmp_path / "records").exists()


def test_headers_that_round_are_one_grid(tmp_path):
    save_ct_seg(tmp_path)
    lung = volume(1, (1,))["lung"]
    save(tmp_path / "Lung_Mask/radiopaedia_2.nii.gz", lung, affine=AFFINE * 1.0001)
    assert build("covid19_ct_seg", tmp_path).is_dir()


def prepared(capsys, *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.run(prepare.main, [str(argument) for argument in arguments])
    return int(ended.value.code or 0), *capsys.readouterr()


def test_prepare_prints_table_1_and_clears_a_killed_build(tmp_path, capsys):
    save_medseg(tmp_path)
    left = tmp_path / "records" / f".building.{socket.gethostname()}-99999999-x.unfinished"
    left.mkdir(parents=True)
    options = ("medseg", "--source", tmp_path, "--data-dir", tmp_path / "records")
    status, printed, _ = prepared(capsys, *options)
    assert status == 0 and not left.exists()
    rows = [line.split() for line in printed.splitlines()]
    # Two of six lone slices keep a lesion: blocks of 16 and 20 pixels in 2 x 1920, lungs of 660.
    assert rows[1] == ["train", "6", "2", "34.38", "0.42", "0.52", "0.94"]
    assert rows[2] == ["paper", "98", "98", "26.90", "4.66", "2.29", "6.95"]
    assert rows[3] == ["validation", "6", "1", "34.38", "0.00", "1.04", "1.04"]
    status, again, _ = prepared(capsys, *options)
    assert (status, again) == (0, printed)


def test_prepare_names_what_is_missing(tmp_path, capsys):
    (tmp_path / "tr_im.nii.gz").write_bytes(b"x")
    options = ("medseg", "--source", tmp_path, "--data-dir", tmp_path / "records")
    status, _, errors = prepared(capsys, *options)
    assert status == 2 and "no tr_mask.nii.gz in it" in errors and errors.count("\n") == 1


def save_folder(folder: Path) -> list[dict[str, np.ndarray]]:
    """Three volumes of two patients, the last one without a label."""
    made = [volume(seed, (1, 2)) for seed in range(3)]
    for number, parts in enumerate(made):
        save(folder / "images" / f"{number}.nii.gz", parts["image"])
        save(folder / "lungs" / f"{number}.nii.gz", parts["lung"])
    for number in range(2):
        save(folder / "labels" / f"{number}.nii.gz", made[number]["mask"], turned=True)
    (folder / "dataset.json").write_text('{"intensity": "hu"}')
    (folder / "patients.csv").write_text("file,patient\n0.nii.gz,a\n1.nii.gz,a\n2.nii.gz,b\n")
    return made


def test_a_folder_of_ones_own_volumes(tmp_path):
    made = save_folder(tmp_path)
    data_dir = build("folder", tmp_path, "multiclass")
    train, rest = (
        catalog.open_split("folder", split, data_dir=data_dir, task="multiclass")
        for split in ("train", "unlabelled")
    )
    masks = [mask for parts in made[:2] for mask in parts["mask"]]
    np.testing.assert_array_equal([item.mask for item in train], masks)
    assert {(item.volume, item.patient) for item in train} == {("0", "a"), ("1", "a")}
    np.testing.assert_array_equal([item.image for item in rest], made[2]["image"])
    assert all(item.mask is None and item.patient == "b" for item in rest)


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (lambda f: (f / "dataset.json").unlink(), "dataset.json: not found"),
        (lambda f: (f / "dataset.json").write_text("{"), "not a JSON file"),
        (lambda f: (f / "dataset.json").write_text('{"intensity": "ct"}'), "'intensity': 'ct'"),
        (
            lambda f: (f / "dataset.json").write_text('{"intensity": "windowed"}'),
            "state 'hu' there",
        ),
        (lambda f: (f / "patients.csv").write_text("file,patient\n0.nii.gz,a\n"), "no patient for"),
        (lambda f: (f / "images/0.nii.gz").unlink(), "has no file of that name"),
        (lambda f: (f / "lungs/2.nii.gz").unlink(), "has no file of that name"),
    ],
)
def test_a_folder_that_is_not_as_described(tmp_path, break_it, text):
    save_folder(tmp_path)
    break_it(tmp_path)
    with pytest.raises(ValueError, match=re.escape(text)):
        build("folder", tmp_path)
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    ("separator", "encoding"),
    [(",", "utf-8"), (",", "utf-8-sig"), (";", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")],
)
def test_patients_as_spreadsheets_write_them(tmp_path, separator, encoding):
    save_folder(tmp_path)
    images = sorted(path.name for path in (tmp_path / "images").iterdir())
    rows = [("File", "patient "), *((name, f"Bär {k}") for k, name in enumerate(images))]
    text = "\r\n".join(separator.join(row) for row in rows)
    (tmp_path / "patients.csv").write_bytes(text.encode(encoding))
    splits = Folder.find_volumes(tmp_path)
    found = {volume.image.name: volume.patient for part in splits.values() for volume in part}
    assert found == {name: f"Bär {k}" for k, name in enumerate(images)}


def test_patients_in_another_encoding_are_refused_by_name(tmp_path):
    save_folder(tmp_path)
    (tmp_path / "patients.csv").write_bytes("file,patient\na.nii.gz,Bär\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"patients\.csv: byte 23 is not UTF-8.*save it as"):
        Folder.find_volumes(tmp_path)


def test_links_to_files_of_one_name_are_volumes_of_their_own(tmp_path):
    save_folder(tmp_path / "plain")
    source = tmp_path / "source"
    for kind in ("images", "labels", "lungs"):
        for path in sorted((tmp_path / "plain" / kind).glob("*")):
            target = tmp_path / "raw" / kind / path.name.partition(".")[0] / "volume.nii.gz"
            target.parent.mkdir(parents=True)
            path.rename(target)
            (source / kind).mkdir(parents=True, exist_ok=True)
            (source / kind / path.name).symlink_to(target)
    (tmp_path / "plain/dataset.json").rename(source / "dataset.json")
    splits = Folder.find_volumes(source)
    volumes = [volume for part in splits.values() for volume in part]
    names = sorted(path.name for path in (source / "images").iterdir())
    assert sorted(f"{volume.id}.nii.gz" for volume in volumes) == names
    for volume in splits["train"]:
        assert volume.mask == source / "labels" / f"{volume.id}.nii.gz"


@pytest.mark.parametrize(
    ("change", "stated", "note"),
    [
        (lambda hu: hu, "hu", None),
        (lambda hu: hu + 1250, "hu", "be Hounsfield units plus an offset of about 1"),
        (lambda hu: windowed(hu).astype(np.int16), "hu", "state its intensity as 'windowed'"),
        (lambda hu: windowed(hu).astype(np.int16), "windowed", None),
    ],
)
def test_prepare_prints_what_the_reader_notes(tmp_path, capsys, change, stated, note):
    made = save_folder(tmp_path / "source")
    for number, parts in enumerate(made):
        save(tmp_path / "source/images" / f"{number}.nii.gz", change(parts["image"]))
    (tmp_path / "source/dataset.json").write_text(json.dumps({"intensity": stated}))
    given = ("folder", "--source", tmp_path / "source", "--data-dir", tmp_path / "records")
    status, _, errors = prepared(capsys, *given)
    assert status == 0
    if note is None:
        assert errors == ""
    else:
        lines = errors.splitlines()
        assert len(lines) == 3 and all(note in line for line in lines)
        assert all(f"images/{k}.nii.gz: " in line for k, line in enumerate(lines))
