"""What else lies in a folder that a hospital exports: only a CT slice of the series is read."""

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import (
    EncapsulatedPDFStorage,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from input_pipeline.io.dicom_series import read_dicom
from input_pipeline.io.read import read_scan
from tests.input_pipeline.io.test_dicom import (
    ORIGIN,
    OTHER,
    SAGITTAL,
    SERIES,
    above,
    dataset,
    series,
    write,
)
from tests.input_pipeline.io.test_scan import SPACING, VOXELS, refused

NO_PLACE = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
NO_IMAGE = {**NO_PLACE, **dict.fromkeys(("Rows", "Columns", "PixelData"))}
CAPTURE = {**NO_PLACE, "SeriesInstanceUID": OTHER, "SeriesNumber": 999,
           "ImageType": ["DERIVED", "SECONDARY"]}  # fmt: skip


def put(folder, name, **tags):
    kind = tags.pop("kind", SecondaryCaptureImageStorage)
    made = dataset(VOXELS[0], ORIGIN, **tags)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = kind
    made.SOPInstanceUID = generate_uid(entropy_srcs=[name])
    return write(made, folder / name)


def coloured(folder, name):
    made = dataset(VOXELS[0], ORIGIN, **CAPTURE)
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.Rows = made.Columns = 4
    made.PixelData = bytes(48)
    return write(made, folder / name)


OTHERS = {
    "dose report in colour": (coloured, "1 coloured (X)"),
    "screenshot": (lambda f, n: put(f, n, **CAPTURE), "1 without geometry (X)"),
    "derived picture of the series": (
        lambda f, n: put(f, n, **NO_PLACE, ImageType=["DERIVED", "SECONDARY"]),
        "1 without geometry (X)",
    ),
    "film": (lambda f, n: put(f, n, NumberOfFrames=2, **CAPTURE), "1 of several frames"),
    "structured report": (
        lambda f, n: put(f, n, Modality="SR", **NO_IMAGE), "1 of modality SR (X)"),
    "contours": (
        lambda f, n: put(f, n, Modality="RTSTRUCT", **NO_IMAGE), "1 of modality RTSTRUCT (X)"),
    "segmentation": (lambda f, n: put(f, n, Modality="SEG"), "1 of modality SEG (X)"),
    "PET": (lambda f, n: put(f, n, Modality="PT"), "1 of modality PT (X)"),
    "document called CT": (
        lambda f, n: put(f, n, kind=EncapsulatedPDFStorage, **NO_IMAGE), "1 without an image (X)"),
    "localiser": (
        lambda f, n: put(f, n, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
                         ImageOrientationPatient=SAGITTAL), "1 of a localiser (X)"),
    "index": (
        lambda f, n: put(f, n, kind=MediaStorageDirectoryStorage, Modality=None),
        "1 of an index (DICOMDIR) (X)"),
    "empty file": (lambda f, n: (f / n).write_bytes(b""), "1 empty (X)"),
    "text": (lambda f, n: (f / n).write_text("exported"), "1 not DICOM (X)"),
    "thumbnail": (lambda f, n: Image.new("L", (8, 8)).save(f / n, "PNG"), "1 not DICOM (X)"),
    "broken thing": (
        lambda f, n: (f / n).write_bytes(bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00ab"),
        "1 damaged (X)"),
}  # fmt: skip


@pytest.mark.parametrize("wanted", [None, "3", SERIES])
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_slice_of_the_series_is_left_out_and_counted(tmp_path, name, wanted):
    folder = series(tmp_path / "case")
    make, reason = OTHERS[name]
    make(folder, "X")
    scan = read_scan(folder, series=wanted)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.spacing, SPACING)
    (note,) = scan.notes
    assert note.startswith(f"1 file left out: {reason}")
    if name != "thumbnail":  # alone, it is refused in a line of its own
        refused(read_dicom, folder / "X", "X: ")


def test_all_at_once_in_one_line(tmp_path):
    folder = series(tmp_path / "case")
    for number, (make, _) in enumerate(OTHERS.values()):
        make(folder, f"X{number}")
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    (note,) = scan.notes
    assert note.startswith(f"{len(OTHERS)} files left out: 2 without geometry (X1, X2); 2 not")


def test_slices_of_other_series_are_counted(tmp_path):
    folder = series(tmp_path / "case")
    tags = {"SeriesInstanceUID": OTHER, "SeriesNumber": 8}
    series(folder, names=["B1", "B2", "B3", "B4"], intercept=-2000, **tags)
    (note,) = read_scan(folder, series="3").notes
    assert note == "4 files left out: 4 of other series (B1, B2, B3 and 1 more)"


def test_nothing_but_others_is_refused(tmp_path):
    for number, (make, _) in enumerate(OTHERS.values()):
        if "broken" not in list(OTHERS)[number] and "empty" not in list(OTHERS)[number]:
            make(tmp_path, f"X{number}")
    refused(read_dicom, tmp_path, "holds no CT slice", "of modality SR", "1 coloured")


def test_damage_to_the_series_is_still_an_error(tmp_path):
    folder = series(tmp_path / "case")
    whole = (folder / "IM2").read_bytes()
    for content, word in (
        (whole[:-9], "bytes of pixels"),
        (b"", "empty"),
        (b"hello" * 30, "not a DICOM file"),
        (whole[:400], "IM2: "),
    ):
        (folder / "IM2").write_bytes(content)
        refused(read_dicom, folder, "IM2", word)
    (folder / "IM2").unlink()
    put(
        folder, "unlike.dcm", ImagePositionPatient=None, kind=dataset(VOXELS[0], ORIGIN).SOPClassUID
    )
    refused(read_dicom, folder, "unlike.dcm", "has no ImagePositionPatient")


def test_damage_to_another_series_is_none_of_the_users_business(tmp_path):
    folder = series(tmp_path / "case")
    tags = {"SeriesInstanceUID": OTHER, "SeriesNumber": 8}
    series(folder, names=["B1", "B2", "B3", "B4"], intercept=-2000, **tags)
    kind = dataset(VOXELS[0], ORIGIN).SOPClassUID
    put(folder, "IM5", RescaleSlope=0, SeriesInstanceUID=OTHER, kind=kind)
    np.testing.assert_array_equal(read_scan(folder, series="3").voxels, VOXELS)
    refused(read_dicom, folder, "IM5", "slope 0", series="8")


def test_names_without_a_pattern_make_any_damaged_file_suspect(tmp_path):
    names = ["7f3a", "b1e", "c09d4", "d"]
    folder = series(tmp_path / "case", names=names)
    (folder / "e5").write_bytes(b"")
    refused(read_dicom, folder, "e5", "empty")


def test_series_by_number_uid_and_description_and_what_the_list_says(tmp_path):
    tags = {
        "SeriesDescription": "Thorax  Lung",
        "ConvolutionKernel": "Br60",
        "StudyDate": "20210304",
    }
    folder = series(tmp_path / "case", StudyInstanceUID="1.1", **tags)
    tags = {"SeriesInstanceUID": OTHER, "SeriesNumber": 3, "StudyInstanceUID": "1.2"}
    series(folder, names=["B1", "B2", "B3", "B4"], intercept=-2000, **tags)
    put(folder, "scout", SeriesInstanceUID="1.9", ImageOrientationPatient=SAGITTAL)
    message = refused(read_dicom, folder, "holds 2 series")
    assert message.endswith(
        f"--series {OTHER} (4 slices of 2.5 mm, study of unknown date); "
        f"--series {SERIES} (Thorax Lung, 4 slices of 2.5 mm, kernel Br60, study of 20210304)"
    )
    refused(read_dicom, folder, "no single series is '3'", series="3")
    for name in (SERIES, "thorax lung", "Thorax  Lung"):
        scan = read_scan(folder, series=name)
        np.testing.assert_array_equal(scan.voxels, VOXELS)


def test_patients_are_told_apart(tmp_path):
    folder = series(tmp_path / "case", PatientID="P1")
    tags = {"SeriesInstanceUID": OTHER, "SeriesNumber": 8, "PatientID": "P2"}
    series(folder, names=["B1", "B2", "B3", "B4"], **tags)
    refused(read_dicom, folder, "slices of 2.5 mm, patient P1); --series 8 (4 slices of 2.5 mm, p")


def test_a_series_is_read_from_all_subfolders(tmp_path):
    """Discs that hold so many files in each folder, and hidden files of a Mac."""
    for number, name in enumerate(("A/000", "A/001", "B", ".")):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        write(dataset(VOXELS[number], above(number)), tmp_path / name / "IM")
    (tmp_path / "B/._IM").write_bytes(b"")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX/IM").write_bytes(b"")
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.notes == ()


def test_a_private_element_in_the_middle_changes_nothing(tmp_path):
    private = Dataset()
    private.add_new((0x0009, 0x0010), "LO", "ACME")
    folder = tmp_path / "case"
    folder.mkdir()
    for number, values in enumerate(VOXELS):
        made = dataset(values, above(number))
        made.update(private)
        write(made, folder / f"{number}")
    np.testing.assert_array_equal(read_scan(folder).voxels, VOXELS)


def test_links_to_slices_that_are_not_there_are_not_lost(tmp_path):
    """As git-annex and DataLad leave files that were not fetched."""
    folder = series(tmp_path / "case")
    (folder / "README.md").symlink_to(tmp_path / "absent")
    scan = read_scan(folder)
    assert scan.notes == ("1 file left out: 1 of broken links (README.md)",)
    (folder / "IM9").unlink()
    (folder / "IM9").symlink_to(tmp_path / "absent")
    refused(read_dicom, folder, "IM9: is a link to a file that is not there", "fetch it")


def test_series_number_0_is_a_number(tmp_path):
    folder = series(tmp_path / "case", SeriesNumber=0)
    series(folder, names=["B1", "B2", "B3", "B4"], SeriesInstanceUID=OTHER, SeriesNumber=8)
    np.testing.assert_array_equal(read_scan(folder, series="0").voxels, VOXELS)


def test_other_files_of_a_folder_are_left_out(tmp_path):
    folder = series(tmp_path / "case")
    (folder / "README.txt").write_text("exported")
    (folder / "DICOMDIR").write_bytes(b"index")
    (folder / ".hidden").write_bytes(b"")
    (folder / "deeper").mkdir()
    write(dataset(VOXELS[0], ORIGIN, Modality="MR"), folder / "mr")
    report = dataset(VOXELS[0], ORIGIN, Modality="SR", Rows=None, Columns=None, PixelData=None)
    write(report, folder / "report")
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.notes == (
        "3 files left out: 1 not DICOM (README.txt); 1 of modality MR (mr); 1 of modality SR "
        "(report)",
    )


def test_folders_without_slices_are_refused(tmp_path):
    refused(read_dicom, tmp_path, "holds nothing, expected files of CT slices")
    (tmp_path / "SE0").mkdir()
    refused(read_dicom, tmp_path, "SE0", "name the folder of slices")
    (tmp_path / "note.txt").write_text("hello")
    refused(read_dicom, tmp_path, "no CT slice", "note.txt")


def test_an_unreadable_folder_keeps_its_name(tmp_path, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(tmp_path), "iterdir", denied)
    with pytest.raises(PermissionError, match=tmp_path.name):
        read_scan(tmp_path)


def without_preamble(path, meta):
    """Drop the 128 bytes and the mark, and perhaps the file's own elements (group 2)."""
    data = path.read_bytes()[132:]
    path.write_bytes(data if meta else data[12 + int.from_bytes(data[8:12], "little") :])


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("alone", [True, False])
def test_files_without_preamble_are_read(tmp_path, meta, alone):
    syntax = None if meta else ImplicitVRLittleEndian
    count = 1 if alone else 3
    for k in range(count):
        position = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + SPACING[0] * k]
        path = write(dataset(VOXELS[k], position), tmp_path / f"{k}.dcm", syntax)
        without_preamble(path, meta)
    scan = read_dicom(path if alone else tmp_path)
    np.testing.assert_array_equal(scan.voxels, VOXELS[:count])
    assert scan.spacing == pytest.approx(SPACING)


def test_other_files_are_not_taken_for_dicom_without_preamble(tmp_path):
    for start in (b"", b"\x02\x00", b"\x08\x00\x05\x00"):
        path = tmp_path / "a.dcm"
        path.write_bytes(start + b"plain text, and no more of it than this line")
        with pytest.raises(ValueError, match=r"a\.dcm: "):
            read_dicom(path)
