"""Scans in zip archives, and archives that are not to be trusted."""

import stat
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.io import archive
from input_pipeline.io.archive import unpacked
from input_pipeline.io.find import find_scans
from input_pipeline.io.read import read_scan
from tests.input_pipeline.io.test_dicom import series
from tests.input_pipeline.io.test_find import save, slices
from tests.input_pipeline.io.test_scan import VOXELS


def pack(path, folder):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, file.relative_to(folder))
    return path


@pytest.fixture(autouse=True)
def _temporary_folders(tmp_path, monkeypatch):
    """Temporary folders lie in one of the test's, which must be empty at the end."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    assert list(place.iterdir()) == []


def test_a_zipped_series(tmp_path):
    path = pack(tmp_path / "study.zip", series(tmp_path / "case"))
    assert find_scans([path]) == {"study.nii.gz": path}
    scan, plain = read_scan(path), read_scan(tmp_path / "case")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_array_equal(scan.affine, plain.affine)
    assert scan.id == "study"


def test_several_scans_of_an_archive(tmp_path):
    slices(tmp_path / "all/p1/CT", SeriesInstanceUID="1.1")
    slices(tmp_path / "all/p2/CT", SeriesInstanceUID="1.2")
    (tmp_path / "all/__MACOSX").mkdir()
    (tmp_path / "all/__MACOSX/._IM0").write_bytes(b"")
    path = pack(tmp_path / "study.zip", tmp_path / "all")
    found = find_scans([path])
    assert found == {"p1_CT.nii.gz": path / "p1/CT", "p2_CT.nii.gz": path / "p2/CT"}
    for place in found.values():
        scan = read_scan(place)
        np.testing.assert_array_equal(scan.voxels, VOXELS[:3])
        assert (scan.id, scan.notes) == ("CT", ())


def test_a_folder_of_nothing_but_archives(tmp_path):
    """Each is an input; single scans have the archives' names, equal ones those of the folders."""
    for patient in ("p1", "p2"):
        folder = series(tmp_path / f"case_{patient}", SeriesInstanceUID=f"1.{patient[1]}")
        (tmp_path / "all" / patient).mkdir(parents=True)
        pack(tmp_path / f"all/{patient}/ct.zip", folder)
    pack(tmp_path / "all/other.ZIP", tmp_path / "case_p1")
    (tmp_path / "all/._other.zip").write_bytes(b"")
    (tmp_path / "all/readme.txt").write_text("exported")
    found = find_scans([tmp_path / "all"])
    assert found == {
        "other.nii.gz": tmp_path / "all/other.ZIP",
        "p1_ct.nii.gz": tmp_path / "all/p1/ct.zip",
        "p2_ct.nii.gz": tmp_path / "all/p2/ct.zip",
    }
    for path in found.values():
        np.testing.assert_array_equal(read_scan(path).voxels, VOXELS)


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_bad_archive_among_others_costs_itself_alone(tmp_path, as_folder):
    good = pack(tmp_path / "all.zip", series(tmp_path / "case"))
    (tmp_path / "in").mkdir()
    good = good.rename(tmp_path / "in/good.zip")
    (bad := tmp_path / "in/bad.zip").write_bytes(good.read_bytes()[:400])
    inputs = [tmp_path / "in"] if as_folder else [bad, good]
    assert find_scans(inputs) == {"bad.nii.gz": bad, "good.nii.gz": good}
    with pytest.raises(ValueError, match=r"in/bad\.zip: cannot be unpacked"):
        read_scan(bad)
    good.unlink()
    with pytest.raises(ValueError, match=r"in/bad\.zip: cannot be unpacked"):
        find_scans(inputs[:1])


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_archives_beside_scans_are_left_out(tmp_path, capsys, kind):
    folder = tmp_path / "all"
    folder.mkdir()
    path = save(folder / "ct.nii.gz") if kind == "nifti" else series(folder / "case")
    pack(folder / "study.zip", series(tmp_path / "zipped"))
    found = find_scans([folder])
    assert found == {"ct.nii.gz": path} if kind == "nifti" else {"all.nii.gz": folder}
    said = capsys.readouterr().err
    if kind == "nifti":
        assert said.startswith(f"{folder}: 1 archive left out beside the scans (study.zip); name")
    else:
        assert "1 not DICOM (study.zip)" in read_scan(folder).notes[0]


def test_zipped_nifti(tmp_path):
    save(tmp_path / "all/ct.nii.gz")
    path = pack(tmp_path / "study.zip", tmp_path / "all")
    assert find_scans([path]) == {"ct.nii.gz": path / "ct.nii.gz"}
    assert read_scan(path / "ct.nii.gz", intensity="hu").voxels.shape == (4, 4, 4)


def test_errors_name_the_place_in_the_archive(tmp_path):
    folder = series(tmp_path / "case")
    (folder / "IM2").write_bytes((folder / "IM2").read_bytes()[:-9])
    path = pack(tmp_path / "study.zip", folder)
    with pytest.raises(ValueError, match=r"study\.zip/IM2: holds \d+ bytes of pixels") as caught:
        read_scan(path)
    assert "temporary" not in str(caught.value)
    path = pack(tmp_path / "text.zip", save(tmp_path / "n/ct.nii").parent)
    with pytest.raises(ValueError, match=r"text\.zip: holds no CT slice"):
        read_scan(path)


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/evil", "C:/evil", "..\\evil", "a\\..\\..\\evil"]
)
def test_files_outside_the_archive_are_refused(tmp_path, name):
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(name, "evil")
    with pytest.raises(ValueError, match=r"study\.zip: names the file .*expected one inside"):
        find_scans([path])
    assert not list(tmp_path.rglob("evil"))


def test_links_are_left_out(tmp_path):
    path = pack(tmp_path / "study.zip", series(tmp_path / "case"))
    with zipfile.ZipFile(path, "a") as packed:
        link = zipfile.ZipInfo("secret")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc/passwd")
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.notes == ()


def test_large_archives_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(2**20))
    monkeypatch.setattr(archive, "MOST_BYTES", 2**19)
    with pytest.raises(ValueError, match=r"bomb\.zip: holds 1 files of 0\.0 GiB, expected"):
        find_scans([path])
    monkeypatch.setattr(archive, "MOST_BYTES", 2**30)
    monkeypatch.setattr(archive, "MOST_FILES", 0)
    with pytest.raises(ValueError, match=r"bomb\.zip: holds 1 files"):
        find_scans([path])


def test_an_archive_that_understates_its_sizes_is_refused(tmp_path):
    path = tmp_path / "liar.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(2**20))
    data = path.read_bytes()
    size = (2**20).to_bytes(4, "little")
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, (9).to_bytes(4, "little")))
    with (
        pytest.raises(ValueError, match=r"liar\.zip: cannot be unpacked"),
        unpacked(path) as folder,
    ):
        assert sum(file.stat().st_size for file in Path(folder).iterdir()) < 100


def test_damaged_and_encrypted_archives_are_refused(tmp_path):
    path = pack(tmp_path / "study.zip", series(tmp_path / "case"))
    whole = path.read_bytes()
    for data in (b"", b"hello", whole[: len(whole) // 2], whole[:60] + b"\xff" * 9 + whole[69:]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"study\.zip: cannot be unpacked \(.*\), expected"):
            read_scan(path)
    at = whole.find(b"PK\x01\x02") + 8  # flags of the first file
    path.write_bytes(whole[:at] + b"\x01" + whole[at + 1 :])
    with pytest.raises(ValueError, match=r"study\.zip: is encrypted"):
        read_scan(path)
