"""Which files stand for scans: names as given, links by their own names, hidden files left out."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from input_pipeline.io.find import find_pictures, find_scans
from input_pipeline.io.scan import name_of


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), path)
    return path


def test_a_link_keeps_its_own_name(tmp_path):
    """As git-annex and DataLad store files: the target's name is a hash, or the same for all."""
    target = save(tmp_path / "annex/MD5E-s1--abc.nii.gz")
    link = tmp_path / "bids/sub-01_ct.nii.gz"
    link.parent.mkdir()
    link.symlink_to(target)
    assert name_of(link) == "sub-01_ct"
    assert find_scans([link]) == {"sub-01_ct.nii.gz": link}


def test_links_to_files_of_one_name_are_several_scans(tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    for patient in ("p1", "p2"):
        target = save(tmp_path / "raw" / patient / "ct.nii.gz")
        (links / f"{patient}.nii.gz").symlink_to(target)
    found = {f"{patient}.nii.gz": links / f"{patient}.nii.gz" for patient in ("p1", "p2")}
    assert find_scans([links]) == found


def test_a_linked_folder_keeps_its_name_too(tmp_path):
    (tmp_path / "series-9").mkdir()
    (tmp_path / "patient").symlink_to(tmp_path / "series-9")
    assert name_of(tmp_path / "patient") == "patient"


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    folder = tmp_path / "patient"
    (folder / "inner").mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert name_of(Path(".")) == "patient"
    assert name_of(Path("inner/..")) == "patient"


def test_files_of_a_mac_are_left_out(tmp_path):
    scan = save(tmp_path / "scan.nii.gz")
    (tmp_path / "._scan.nii.gz").write_bytes(bytes([0, 5, 22, 7]) + bytes(120))
    (tmp_path / "._slice.png").write_bytes(bytes([0, 5, 22, 7]))
    (tmp_path / "slice.png").write_bytes(b"")
    assert find_scans([tmp_path]) == {"scan.nii.gz": scan}
    assert find_pictures([tmp_path]) == [tmp_path / "slice.png"]


def test_two_scans_of_one_name_are_refused(tmp_path):
    paths = [save(tmp_path / folder / "ct.nii.gz") for folder in "ab"]
    with pytest.raises(ValueError, match=r"both become ct\.nii\.gz"):
        find_scans(paths)
