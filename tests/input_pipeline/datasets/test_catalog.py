"""The phantom through the same door as the real data."""

import itertools
import tempfile

import numpy as np
import pytest

from input_pipeline.datasets import catalog
from input_pipeline.datasets.catalog import TRUTH
from input_pipeline.datasets.ct_phantom import patients
from input_pipeline.files import write_json
from input_pipeline.records import HASHES
from input_pipeline.slices import abouts, known
from input_pipeline.verified import read_signed, signed


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """Four patients in all, built; `temporary` in it is where temporary files go meanwhile."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for split in patients.SPLITS:
        monkeypatch.setitem(patients.SPLITS, split, 1)
    build(tmp_path)
    return tmp_path


def build(data_dir):
    catalog.build("ct_phantom", source_dir=None, data_dir=data_dir, task="binary")


def open_split(split, data_dir, task):
    return catalog.open_split("ct_phantom", split, data_dir=data_dir, task=task)


def test_one_build_serves_both_tasks(data_dir):
    made = {s.id: s for s in patients.make_patient(0)}
    binary, multi = (open_split("train", data_dir, t) for t in ("binary", "multiclass"))
    assert sorted(s.id for s in multi) == sorted(made)
    for one, three in zip(binary, multi, strict=True):
        truth = made[three.id]
        np.testing.assert_array_equal(three.image, truth.image)
        np.testing.assert_array_equal(three.mask, truth.mask)
        np.testing.assert_array_equal(three.lung, truth.lung)
        np.testing.assert_array_equal(one.mask, truth.mask > 0)
        assert three.spacing == pytest.approx(truth.spacing)
        assert three.patient == truth.patient
    assert max(s.mask.max() for s in multi) == 2


def test_what_is_known_of_a_slice_is_what_reading_it_tells(data_dir):
    for task, split in itertools.product(catalog.BOTH_TASKS, [*patients.SPLITS, TRUTH]):
        slices = open_split(split, data_dir, task)
        for place, item in enumerate(slices):
            found = known(slices, place)
            assert found is not None
            assert found[:3] == (item.id, item.patient, item.volume)
            if item.mask is None:
                assert found.pixels is None
            else:
                counts = np.bincount(item.mask.ravel(), minlength=3)
                assert [*found.pixels, 0][:3] == counts.tolist()


def test_records_of_older_versions_know_nothing(data_dir):
    slices = open_split("train", data_dir, "multiclass")
    expected = list(abouts(slices))
    (path,) = data_dir.rglob(HASHES)
    content = read_signed(path, "")
    older = {split: [row[:2] for row in rows] for split, rows in content.items()}
    write_json(path, signed(older))
    again = open_split("train", data_dir, "multiclass")
    assert known(again, 0) is None
    assert list(abouts(again)) == expected


def test_unlabelled_phantoms_show_their_lung_and_their_masks_as_the_truth_alone(data_dir):
    for item in open_split("unlabelled", data_dir, "multiclass"):
        assert item.mask is None
        assert item.lung.any()
    shown = open_split("unlabelled_truth", data_dir, "multiclass")
    made = {item.id: item for item in patients.make_patient(patients.patients_of("unlabelled")[0])}
    assert len(shown) == len(made)
    for item in shown:
        np.testing.assert_array_equal(item.mask, made[item.id].mask)


def test_built_once_and_again_when_the_phantoms_change(data_dir, monkeypatch):
    prepare, calls = catalog.write_records, []
    monkeypatch.setattr(catalog, "write_records", lambda *a: (calls.append(a), prepare(*a)))
    build(data_dir)
    assert not calls
    assert tempfile.gettempdir() == str(data_dir / "temporary")
    assert not list((data_dir / "temporary").iterdir())
    monkeypatch.setitem(patients.SPLITS, "train", 2)
    build(data_dir)
    assert len(calls) == 1
    assert len({s.patient for s in open_split("train", data_dir, "binary")}) == 2
