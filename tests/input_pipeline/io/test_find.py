"""Which files stand for scans: names as given, links by their own names, hidden files left out."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from input_pipeline.io.find import find_pictures, find_scans, holds_pictures
from input_pipeline.io.read import read_scan
from input_pipeline.io.scan import name_of
from tests.input_pipeline.io.test_dicom import OTHER, SAGITTAL, above, dataset, write
from tests.input_pipeline.io.test_scan import VOXELS


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


@pytest.mark.parametrize("ends", [(".hdr", ".img"), (".hdr.gz", ".img.gz"), (".HDR", ".IMG")])
def test_both_files_of_a_pair_are_one_scan(tmp_path, ends):
    head, voxels = (tmp_path / f"a{end}" for end in ends)
    nib.save(nib.Nifti1Pair(np.ones((4, 4, 4), np.int16), np.eye(4)), tmp_path / "b.hdr")
    for end, path in zip((".hdr", ".img"), (head, voxels), strict=True):
        content = (tmp_path / f"b{end}").read_bytes()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        (tmp_path / f"b{end}").unlink()
    for inputs in ([tmp_path], [head, voxels], [voxels, head]):  # the last two as by a pattern *
        assert find_scans(inputs) == {"a.nii.gz": head}
    assert find_scans([voxels]) == {"a.nii.gz": voxels}
    assert (read_scan(voxels, intensity="hu").voxels == 1).all()
    other = save(tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"both become a\.nii\.gz"):
        find_scans([head, voxels, other])


def test_two_scans_of_one_name_are_refused(tmp_path):
    paths = [save(tmp_path / folder / "ct.nii.gz") for folder in "ab"]
    with pytest.raises(ValueError, match=r"both become ct\.nii\.gz"):
        find_scans(paths)


def slices(folder: Path, count: int = 3, **tags) -> Path:
    """A folder with a small DICOM series."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write(dataset(VOXELS[number], above(number), **tags), folder / f"IM{number}")
    return folder


def names(inputs, **options):
    """The scans as text: mask name without suffix to path, relative to the first input's folder."""
    top = inputs[0].parent
    found = find_scans(inputs, **options)
    return {name[:-7]: str(path.relative_to(top)) for name, path in found.items()}


def test_a_disc_with_one_series_has_the_name_of_its_folder(tmp_path):
    disc = tmp_path / "disc"
    slices(disc / "DICOM/PAT1/ST1/SE1")
    (disc / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (disc / "viewer.exe").write_bytes(b"MZ")
    (disc / "HELP").mkdir()
    (disc / "HELP/help.html").write_text("...")
    assert names([disc]) == {"disc": "disc"}
    assert find_scans([disc / "DICOMDIR"]) == {"disc.nii.gz": disc}
    for path in (disc, disc / "DICOMDIR"):
        np.testing.assert_array_equal(read_scan(path).voxels, VOXELS[:3])


def test_several_series_have_the_names_of_their_folders(tmp_path):
    disc = tmp_path / "disc"
    slices(disc / "PAT1/ST1/SE1", SeriesInstanceUID="1.1", SeriesNumber=1)
    slices(disc / "PAT1/ST1/SE2", SeriesInstanceUID="1.2", SeriesNumber=2)
    slices(disc / "PAT2/ST1/SE1", SeriesInstanceUID="2.1", SeriesNumber=1)
    scout = slices(disc / "PAT1/ST1/SE0", 1, SeriesInstanceUID="1.0", SeriesNumber=3)
    write(dataset(VOXELS[0], above(0), ImageOrientationPatient=SAGITTAL, SeriesNumber=4),
          scout / "IM0")  # fmt: skip
    report = slices(disc / "PAT1/ST1/SE9", 1, Modality="SR", SeriesInstanceUID="1.9")
    assert report.exists()
    assert names([disc]) == {
        "PAT1_ST1_SE1": "disc/PAT1/ST1/SE1",
        "SE2": "disc/PAT1/ST1/SE2",
        "PAT2_ST1_SE1": "disc/PAT2/ST1/SE1",
    }
    assert names([disc], series="1") == {
        "PAT1_ST1_SE1": "disc/PAT1/ST1/SE1",
        "PAT2_ST1_SE1": "disc/PAT2/ST1/SE1",
    }
    assert names([disc], series="2") == names([disc], series="1.2") == {"disc": "disc"}
    np.testing.assert_array_equal(read_scan(disc, series="2").voxels, VOXELS[:3])
    assert names([disc], series="77") == {"disc": "disc"}  # which is refused, with a list


def test_a_series_in_several_folders_is_one_scan(tmp_path):
    disc = tmp_path / "disc"
    for series in (1, 2):
        for part, heights in enumerate(((0, 2), (1, 3))):
            folder = disc / f"SE{series}/{part:03d}"
            folder.mkdir(parents=True)
            for k in heights:
                made = dataset(VOXELS[k] + series, above(k), SeriesInstanceUID=f"1.{series}")
                write(made, folder / f"IM{k}")
    found = find_scans([disc])
    assert found == {"SE1.nii.gz": disc / "SE1", "SE2.nii.gz": disc / "SE2"}
    for number, path in enumerate(found.values(), start=1):
        np.testing.assert_array_equal(read_scan(path).voxels, VOXELS + number)
    mixed = tmp_path / "mixed"  # each folder holds parts of both: the user must choose
    for part in (0, 1):
        for series in (1, 2):
            made = dataset(VOXELS[part], above(part), SeriesInstanceUID=f"1.{series}",
                           SeriesNumber=series)  # fmt: skip
            (mixed / str(part)).mkdir(parents=True, exist_ok=True)
            write(made, mixed / f"{part}/{series}")
    assert names([mixed]) == {"mixed": "mixed"}
    with pytest.raises(ValueError, match=r"holds 2 series.*--series 1 .*--series 2"):
        read_scan(mixed)


def test_series_at_one_place_are_one_scan_to_choose_from(tmp_path):
    folder = slices(tmp_path / "case")
    slices(folder / "more", SeriesInstanceUID=OTHER, SeriesNumber=5)
    assert names([folder]) == {"case": "case"}
    with pytest.raises(ValueError, match="holds 2 series"):
        read_scan(folder)


def test_nifti_in_subfolders(tmp_path):
    """As the TotalSegmentator data set: one scan in each folder, masks below it."""
    for patient in ("s0001", "s0002"):
        save(tmp_path / "ts" / patient / "ct.nii.gz")
        save(tmp_path / "ts" / patient / "segmentations/heart.nii.gz")
    assert names([tmp_path / "ts"]) == {
        "s0001": "ts/s0001/ct.nii.gz", "s0002": "ts/s0002/ct.nii.gz"}  # fmt: skip
    parts = [tmp_path / "ts/s0001", tmp_path / "ts/s0002"]
    assert set(find_scans(parts)) == {"s0001.nii.gz", "s0002.nii.gz"}
    save(tmp_path / "bids/sub-1/anat/sub-1_ct.nii.gz")
    save(tmp_path / "bids/sub-2/anat/sub-2_ct.nii.gz")
    assert set(names([tmp_path / "bids"])) == {"sub-1_ct", "sub-2_ct"}
    for patient, scan in ((p, s) for p in "ab" for s in ("in", "out")):
        save(tmp_path / "two" / patient / f"{scan}.nii.gz")
    assert set(names([tmp_path / "two"])) == {"a_in", "a_out", "b_in", "b_out"}


def test_nifti_and_dicom_in_one_tree(tmp_path):
    slices(tmp_path / "all/p1", SeriesInstanceUID="1.1")
    save(tmp_path / "all/p1/results/mask.nii.gz")  # no scan: it lies below one
    save(tmp_path / "all/p2/ct.nii.gz")
    slices(tmp_path / "all/p3", SeriesInstanceUID="1.3")
    assert names([tmp_path / "all"]) == {"ct": "all/p2/ct.nii.gz", "p1": "all/p1", "p3": "all/p3"}


def test_folders_of_one_name_get_their_parents_names(tmp_path):
    parts = [slices(tmp_path / patient / "CT") for patient in ("p1", "p2")]
    assert set(find_scans(parts)) == {"p1_CT.nii.gz", "p2_CT.nii.gz"}
    with pytest.raises(ValueError, match="both become"):
        find_scans([parts[0], parts[0]])


def test_a_link_that_leads_back_ends(tmp_path):
    folder = slices(tmp_path / "case/a", SeriesInstanceUID="1.1").parent
    slices(folder / "b", SeriesInstanceUID="1.2")
    (folder / "a/back").symlink_to(folder)
    assert set(find_scans([folder / "a"])) == {"a.nii.gz"}


def test_a_preview_picture_is_not_the_scan(tmp_path, capsys):
    for place in (slices(tmp_path / "dicom"), save(tmp_path / "nifti/scan.nii.gz").parent):
        (place / "preview.jpg").write_bytes(b"\xff\xd8")
        assert not holds_pictures(place)
        assert not holds_pictures(place.parent)
    assert "preview.jpg" not in capsys.readouterr().err
    assert set(find_scans([tmp_path / "nifti"])) == {"scan.nii.gz"}
    assert "1 picture left out beside the scans (preview.jpg)" in capsys.readouterr().err
    scan = read_scan(tmp_path / "dicom")
    assert scan.notes == ("1 file left out: 1 not DICOM (preview.jpg)",)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    assert holds_pictures(pictures)
    for name in ("a.png", "README", "Thumbs.db"):
        (pictures / name).write_bytes(b"text")
    assert holds_pictures(pictures)
    (pictures / "deeper").mkdir()
    save(pictures / "deeper/x.nii")
    assert not holds_pictures(pictures)
