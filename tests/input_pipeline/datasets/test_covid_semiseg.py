"""A small tree in the published layout: built, read back to the pixel, and spoilt in every way."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline.datasets import catalog, covid_semiseg
from input_pipeline.datasets.covid_semiseg import find_cases, patient_of
from tests.support import SHARED

NAME = "covid_semiseg"
BINARY = Path("TrainingSet/LungInfection-Train/Doctor-label")
MULTI = Path("TrainingSet/MultiClassInfection-Train")
PSEUDO = Path("TrainingSet/LungInfection-Train/Pseudo-label")
REAL = SHARED / "data" / NAME


def picture(number):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (20 + number, 30)).astype(np.uint8)


def labels(number):
    return (picture(number) // 90).clip(0, 2).astype(np.uint8)


def save(path, array, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    result = Image.fromarray(array)
    if palette:
        result.putpalette([0, 0, 0, 0, 255, 0, 255, 0, 0] + [0] * 759)
    result.save(path)


def add_labelled(source, binary, multi, numbers):
    for number in numbers:
        for folder in (binary, multi):
            save(source / folder / f"Imgs/{number}.png", picture(number))
        save(source / binary / f"GT/{number}.png", (labels(number) > 0).astype(np.uint8) * 255)
        save(source / multi / f"GT/{number}.png", labels(number), palette=True)


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "published"
    add_labelled(source, BINARY, MULTI, (2, 10, 9))
    for slice_number in (3, 12):
        name = f"Data-1_coronacases_org_001_{slice_number}.jpg"
        save(source / PSEUDO / "Imgs" / name, picture(slice_number))
    return source


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "records"


def build(source, data_dir, task="binary"):
    catalog.build(NAME, source_dir=source, data_dir=data_dir, task=task)


def open_split(split, data_dir, task="binary"):
    return catalog.open_split(NAME, split, data_dir=data_dir, task=task)


def refused(source, data_dir, task, *words):
    """Building fails with one line that holds the words, and leaves nothing behind."""
    with pytest.raises(ValueError, match=r".") as caught:
        build(source, data_dir, task)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not data_dir.exists()


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_built_and_read_back_to_the_pixel(source, data_dir, task):
    build(source, data_dir, task)
    train = open_split("train", data_dir, task)
    assert [s.id for s in train] == ["2", "9", "10"]
    assert len({s.patient for s in train}) == 3
    for item, number in zip(train, (2, 9, 10), strict=True):
        truth = labels(number)
        np.testing.assert_array_equal(item.image, picture(number))
        np.testing.assert_array_equal(item.mask, truth > 0 if task == "binary" else truth)
        assert (item.image.dtype, item.mask.dtype) == (np.uint8, np.uint8)
        assert (item.lung, item.spacing) == (None, None)


def test_unlabelled_slices_know_their_patient(source, data_dir):
    build(source, data_dir)
    unlabelled = open_split("unlabelled", data_dir)
    assert [s.id[-3:] for s in unlabelled] == ["1_3", "_12"]
    assert {s.patient for s in unlabelled} == {"Data-1_coronacases_org_001"}
    assert all(s.mask is None for s in unlabelled)
    assert unlabelled[1].image.shape == (32, 30)


def test_patient_of_a_name():
    name = "Data-1_radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm_12"
    assert patient_of(name) == "Data-1_radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm"


def test_testing_set_gives_a_third_split(source, data_dir):
    add_labelled(
        source,
        Path("TestingSet/LungInfection-Test"),
        Path("TestingSet/MultiClassInfection-Test"),
        (2, 5),
    )
    save(source / "TestingSet/MultiClassInfection-Test/GT-1/2.png", labels(2) * 100)
    for task in ("binary", "multiclass"):
        build(source, data_dir, task)
        test = open_split("test", data_dir, task)
        assert [s.id for s in test] == ["2", "5"]
        assert test[1].mask.max() == (1 if task == "binary" else 2)
        assert not {s.patient for s in test} & {
            s.patient for s in open_split("train", data_dir, task)
        }


def test_without_testing_set_there_is_no_test_split(source, data_dir):
    build(source, data_dir)
    with pytest.raises(ValueError, match=r"no split 'test'.*train \(3\), unlabelled \(2\)"):
        open_split("test", data_dir)


def test_built_once(source, data_dir, monkeypatch):
    build(source, data_dir)
    monkeypatch.setattr(catalog, "write_records", None)  # building again would fail
    build(source, data_dir)
    catalog.build(NAME, source_dir=None, data_dir=data_dir, task="binary")


def test_a_changed_source_is_built_again(source, data_dir):
    build(source, data_dir)
    add_labelled(source, BINARY, MULTI, (11,))
    build(source, data_dir)
    assert [s.id for s in open_split("train", data_dir)] == ["2", "9", "10", "11"]
    assert sorted(os.listdir(data_dir)) == [NAME]


def test_index_from_both_ends(source, data_dir):
    build(source, data_dir)
    train = open_split("train", data_dir)
    assert train[-1].id == train[np.int64(2)].id == "10"
    assert [s.id for s in train[1:]] == ["9", "10"]
    with pytest.raises(IndexError):
        train[3]


def test_files_of_the_system_are_passed_over(source):
    (source / BINARY / "Imgs/.DS_Store").write_bytes(b"x")
    (source / BINARY / "Imgs/Thumbs.db").write_bytes(b"x")
    assert len(find_cases(source, "binary")["train"]) == 3


def test_missing_folders(source, data_dir, tmp_path):
    refused(tmp_path / "nowhere", data_dir, "binary", "nowhere", "TrainingSet", "source_dir")
    shutil.rmtree(source / PSEUDO / "Imgs")
    refused(source, data_dir, "binary", "Pseudo-label/Imgs", "no such folder")
    (source / PSEUDO / "Imgs").mkdir()
    refused(source, data_dir, "binary", "Pseudo-label/Imgs", "no PNG or JPEG")
    save(source / PSEUDO / "Imgs/a_1.png", picture(1))
    shutil.rmtree(source / MULTI)
    refused(source, data_dir, "multiclass", "MultiClassInfection-Train/Imgs", "no such folder")


def test_half_a_testing_set(source, data_dir):
    (source / "TestingSet").mkdir()
    refused(source, data_dir, "binary", "LungInfection-Test/Imgs", "no such folder")


def test_image_without_mask_and_mask_without_image(source, data_dir):
    (source / BINARY / "GT/9.png").unlink()
    refused(source, data_dir, "binary", "Imgs/9.png", "image without a mask")
    save(source / BINARY / "GT/9.png", labels(9))
    (source / BINARY / "Imgs/2.png").unlink()
    refused(source, data_dir, "binary", "GT/2.png", "mask without an image")


def test_two_files_of_one_name_and_foreign_files(source, data_dir):
    save(source / BINARY / "Imgs/9.jpg", picture(9))
    refused(source, data_dir, "binary", "Imgs/9.", "keep one")
    (source / BINARY / "Imgs/9.jpg").unlink()
    (source / BINARY / "Imgs/9.tif").write_bytes(b"x")
    refused(source, data_dir, "binary", "9.tif", "only PNG and JPEG")


def test_sizes_that_differ(source, data_dir):
    save(source / BINARY / "GT/9.png", np.zeros((7, 8), np.uint8))
    refused(source, data_dir, "binary", "GT/9.png", "7 x 8", "29 x 30")


def test_stray_labels(source, data_dir):
    save(source / MULTI / "GT/9.png", np.full((29, 30), 3, np.uint8))
    refused(source, data_dir, "multiclass", "GT/9.png", "labels 3,", "0, 1, 2")


@pytest.mark.parametrize("name", ["Imgs/10.png", "GT/10.png"])
def test_damaged_files(source, data_dir, name):
    path = source / BINARY / name
    path.write_bytes(path.read_bytes()[:70])
    refused(source, data_dir, "binary", name, "truncated")
    path.write_bytes(b"")
    refused(source, data_dir, "binary", name, "empty")


def test_all_black(source, data_dir):
    save(source / PSEUDO / "Imgs/Data-1_a_9.png", np.zeros((20, 20), np.uint8))
    refused(source, data_dir, "binary", "Data-1_a_9.png", "all black")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interrupted_build_leaves_nothing(source, data_dir, monkeypatch, error):
    """The interruption comes while records are being written."""
    original = covid_semiseg.read_case

    def interrupted(case, task):
        if case.mask is None:
            raise error
        return original(case, task)

    monkeypatch.setattr(covid_semiseg, "read_case", interrupted)
    with pytest.raises(error):
        build(source, data_dir)
    assert not data_dir.exists()


def test_a_failed_rebuild_keeps_what_was_built(source, data_dir):
    build(source, data_dir)
    save(source / BINARY / "Imgs/9.png", np.zeros((29, 30), np.uint8))
    with pytest.raises(ValueError, match="all black"):
        build(source, data_dir)
    assert sorted(os.listdir(data_dir)) == [NAME]
    assert open_split("train", data_dir)[1].image.any()


def test_nothing_is_printed(source, data_dir, capfd):
    build(source, data_dir)
    assert capfd.readouterr() == ("", "")


def test_what_is_not_there_is_named(source, data_dir):
    with pytest.raises(ValueError, match=r"no data set 'x'.*covid_semiseg.*ct_phantom"):
        catalog.build("x", source_dir=None, data_dir=data_dir, task="binary")
    with pytest.raises(ValueError, match=r"no task 'three'.*multiclass"):
        build(source, data_dir, "three")
    with pytest.raises(ValueError, match=r"no source_dir was given"):
        catalog.build(NAME, source_dir=None, data_dir=data_dir, task="binary")
    with pytest.raises(ValueError, match=r"multiclass\) is not built.*holds nothing"):
        open_split("train", data_dir, "multiclass")
    build(source, data_dir)
    with pytest.raises(ValueError, match=r"holds covid_semiseg/binary/1\.0\.0"):
        open_split("train", data_dir, "multiclass")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real slices are not here")
def test_the_published_tree():
    for task in ("binary", "multiclass"):
        cases = find_cases(REAL, task)
        assert len(cases["train"]) == 50
        assert len(cases["unlabelled"]) == 1600
        read = [covid_semiseg.read_case(case, task) for case in cases["train"][:5]]
        assert all(image.shape == mask.shape for image, mask in read)
    binary, multi = (
        covid_semiseg.read_case(find_cases(REAL, task)["train"][7], task)[1]
        for task in ("binary", "multiclass")
    )
    np.testing.assert_array_equal(binary, multi > 0)
