"""Thousands of damaged files of each format: one clear error each, or a right answer.

No crash: `ValueError` or `OSError`, whose message is one line that names the file, and no other
error, warning or output. No hang: each format gets a bound on its time as a whole and on its memory
(`python -m tests.fuzz_memory` prints both). No silent wrong answer: what is returned has finite
values of its intensity, a plausible spacing, and

- where the format has a checksum (PNG, compressed NIfTI), exactly the voxels of the sound file;
- where it has none (NIfTI, NPY, DICOM), exactly the numbers that an independent reader finds in the
  damaged bytes, on a grid of the size that these state; a changed pixel is then a fair reading;
- for JPEG, which has neither, at least a grey picture.
"""

import gzip
import io
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import ImplicitVRLittleEndian

from input_pipeline.io.read import read_scan
from input_pipeline.io.scan import SPACING_MM, to_file_grid
from tests.input_pipeline.io.test_dicom import ORIGIN, dataset, series, write
from tests.input_pipeline.io.test_dicom_compressed import WAVES, jpeg_slice
from tests.input_pipeline.io.test_dicom_enhanced import enhanced, frames_of
from tests.input_pipeline.io.test_scan import VOXELS, affine_of, stored
from tests.support import ROOT

pytestmark = pytest.mark.slow

FILES = 2000
GIGABYTES = 4  # of memory that a reader may take, all of pytest included
STATUS = Path("/proc/self/status")
SECONDS = 60  # for all of a format's files, on a busy machine; it takes a few on an idle one
SMOOTH = (np.add.outer(np.arange(24) * 5, np.arange(20) * 4) % 256).astype(np.uint8)
PHRASES = (b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", struct.pack("<f", np.nan),
           struct.pack("<f", np.inf), b"-1", b"999999", b"(((((((")  # fmt: skip


def damaged(data, rng, head):
    """A copy with one to three defects; half of them hit the first `head` bytes."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        size = min(head, len(data)) if rng.random() < 0.5 else len(data)
        place = int(rng.integers(0, max(1, size)))
        kind = rng.integers(0, 7)
        if kind == 0:
            data[place : place + 1] = bytes([int(rng.integers(0, 256))])
        elif kind == 1 and data:
            data[min(place, len(data) - 1)] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + int(rng.integers(1, 9))]
        elif kind == 4:
            data[place:place] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 5:
            phrase = PHRASES[rng.integers(len(PHRASES))]
            data[place : place + len(phrase)] = phrase
        else:
            other = int(rng.integers(0, max(1, len(data))))
            data[place : place + 16] = data[other : other + 16]
    return bytes(data)


def fuzz(path, sound, check, capfd, *, head, files=FILES, before=b"", after=b"", **options):
    """Read damaged copies of `sound`, between the sound bytes `before` and `after`.

    `check(scan, data)` judges those that are accepted.
    """
    rng = np.random.default_rng(len(sound))
    forget_peak()
    accepted, start = 0, time.monotonic()
    for number in range(files):
        data = before + damaged(sound, rng, head) + after
        path.write_bytes(data)
        try:
            scan = read_scan(path, **options)
        except (ValueError, OSError) as error:
            message = str(error)
            assert path.name in message, (number, message)
            assert "\n" not in message, (number, message)
        else:
            accepted += 1
            sane(scan)
            assert check(scan, data), f"file {number} was read wrongly"
    assert time.monotonic() - start < SECONDS
    assert peak_gigabytes() < GIGABYTES
    assert capfd.readouterr() == ("", "")
    assert 0 < accepted < files * 0.9  # otherwise nothing was tested


def forget_peak():
    """Have Linux measure this process's largest memory from now on."""
    if STATUS.exists():
        STATUS.with_name("clear_refs").write_text("5")


def peak_gigabytes():
    """The largest memory of this process since then; 0 where the system does not say."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e9


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not say")
def test_the_memory_is_measured():
    """In a process of its own, as others keep what they freed."""
    code = (
        "import numpy as np; from tests.input_pipeline.io.test_fuzz import *;"
        "forget_peak(); before = peak_gigabytes(); held = np.ones(2**26);"  # 0.54 GB
        "most = peak_gigabytes(); del held; forget_peak(); print(before, most, peak_gigabytes())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    before, most, after = map(float, done.stdout.split())
    assert 0.5 < most - before < 0.6
    assert after < before + 0.1


def sane(scan):
    assert scan.voxels.ndim == 3
    assert scan.voxels.size
    assert np.isfinite(scan.voxels).all()
    assert (scan.voxels.dtype == np.uint8) == (scan.intensity == "uint8")
    assert scan.spacing is None or all(0.1 * SPACING_MM[0] < mm < 1e4 for mm in scan.spacing)
    assert scan.affine is None or np.isfinite(scan.affine).all()
    assert to_file_grid(scan.voxels, scan).shape == scan.file_shape


def numbers(scan):
    """Voxels in the file's own order."""
    return np.ravel(to_file_grid(scan.voxels, scan), order="F").astype(np.float64)


def nifti_numbers(data):
    """What a NIfTI-1 file holds, parsed by hand: shape, and values in the order of the file."""
    order = "<" if 1 <= struct.unpack_from("<h", data, 40)[0] <= 7 else ">"
    dims, *shape = struct.unpack_from(f"{order}8h", data, 40)
    kind = {2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 1024: "i8", 1280: "u8",
            16: "f4", 64: "f8"}[struct.unpack_from(f"{order}h", data, 70)[0]]  # fmt: skip
    offset, slope, inter = struct.unpack_from(f"{order}3f", data, 108)
    count = int(np.prod(shape[:dims]))  # bytes after the voxels are ignored
    values = np.frombuffer(data, order + kind, count, offset=int(offset)).astype(np.float64)
    if slope and np.isfinite(slope):
        values = values * slope + inter
    return tuple(shape[:dims]), values


def same_nifti(scan, data):
    shape, values = nifti_numbers(data)
    return scan.file_shape == shape and np.allclose(numbers(scan), values, rtol=1e-6, atol=1e-30)


def test_nifti(tmp_path, capfd):
    image = nib.Nifti1Image(stored(VOXELS, "LIP"), affine_of("LIP"))
    fuzz(tmp_path / "a.nii", image.to_bytes(), same_nifti, capfd, head=352, intensity="hu")


def test_nifti_of_floats(tmp_path, capfd):
    image = nib.Nifti1Image(stored(VOXELS, "RAS").astype(np.float32), affine_of("RAS"))
    fuzz(tmp_path / "a.nii", image.to_bytes(), same_nifti, capfd, head=352, intensity="hu")


def test_compressed_nifti(tmp_path, capfd):
    sound = nib.Nifti1Image(stored(VOXELS, "RAS"), affine_of("RAS")).to_bytes()
    packed = gzip.compress(sound, mtime=0)

    def same(scan, data):
        return np.array_equal(scan.voxels, VOXELS)

    fuzz(tmp_path / "a.nii.gz", packed, same, capfd, head=20, intensity="hu")


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
def test_dicom(tmp_path, capfd, syntax):
    path = write(dataset(VOXELS[0], ORIGIN), tmp_path / "a.dcm", syntax)
    sound = path.read_bytes()

    def same(scan, data):
        (tmp_path / "b").write_bytes(data)
        return np.array_equal(scan.voxels[0], dicom_numbers(tmp_path / "b"))

    fuzz(path, sound, same, capfd, head=len(sound) - VOXELS[0].nbytes)


def dicom_numbers(path):
    """Values of an uncompressed slice, from the bytes of its tags."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = pydicom.dcmread(path)
        syntax = made.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)  # the default
        order = "<" if syntax.is_little_endian else ">"
        kind = f"{order}{'ui'[made.PixelRepresentation]}{made.BitsAllocated // 8}"
        count = int(made.Rows) * int(made.Columns)
        values = np.frombuffer(made.PixelData, kind, count).reshape(made.Rows, made.Columns)
        unused = 8 * values.itemsize - made.BitsStored
        values = (values << unused) >> unused
        slope, inter = made.get("RescaleSlope"), made.get("RescaleIntercept")
        slope, inter = 1 if slope is None else slope, 0 if inter is None else inter
        return values * float(slope) + float(inter)


def test_compressed_dicom(tmp_path, capfd):
    path = write(dataset(VOXELS[0], ORIGIN), tmp_path / "a.dcm", pydicom.uid.RLELossless)

    def same(scan, data):
        return scan.voxels.shape[0] == 1

    fuzz(path, path.read_bytes(), same, capfd, head=700)


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless", "MR_small_jp2klossless"])
def test_dicom_of_jpegs(tmp_path, capfd, name):
    """Damage to the pixels alone, on the decoders written in C; they have no checksum."""
    made = pydicom.dcmread(pydicom.data.get_testdata_file(f"{name}.dcm", download=False))
    made.Modality, made.RescaleSlope, made.RescaleIntercept = "CT", 1, 0
    whole = write(made, tmp_path / "a.dcm").read_bytes()
    before, after = whole.split(made.PixelData)

    def same(scan, data):
        return scan.voxels.shape == (1, 64, 64)

    path, sound = tmp_path / "a.dcm", made.PixelData
    fuzz(path, sound, same, capfd, head=80, files=500, before=before, after=after)


@pytest.mark.parametrize("kind", ["lossless", "lossy"])
def test_dicom_of_jpegs_written_here(tmp_path, capfd, kind):
    """JPEG Lossless, in which many CT archives keep slices, and 8-bit JPEG."""
    made = jpeg_slice(WAVES if kind == "lossless" else SMOOTH, kind)
    whole = write(made, tmp_path / "a.dcm").read_bytes()
    before, after = whole.split(made.PixelData)

    def same(scan, data):
        return scan.voxels.shape == (1, made.Rows, made.Columns)

    path, sound = tmp_path / "a.dcm", made.PixelData
    fuzz(path, sound, same, capfd, head=120, before=before, after=after)


def test_enhanced_dicom(tmp_path, capfd):
    path = write(enhanced(frames_of()), tmp_path / "a.dcm", pydicom.uid.ExplicitVRLittleEndian)
    sound = path.read_bytes()

    def same(scan, data):
        return scan.voxels.shape[0] <= 4

    fuzz(path, sound, same, capfd, head=len(sound) - VOXELS.nbytes, files=FILES // 2)


def test_zip(tmp_path, capfd):
    """Files of an archive have checksums; a damaged list of files may lack some."""
    file = io.BytesIO()
    folder = series(tmp_path / "case")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.iterdir()):
            packed.write(path, path.name)
    whole = {values.tobytes() for values in VOXELS}

    def same(scan, data):
        return {np.ascontiguousarray(values).tobytes() for values in scan.voxels} <= whole

    fuzz(tmp_path / "a.zip", file.getvalue(), same, capfd, head=60, files=FILES // 2)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_png(tmp_path, capfd, mode):
    file = io.BytesIO()
    Image.fromarray(SMOOTH).convert(mode).save(file, "PNG")

    def same(scan, data):
        return np.array_equal(scan.voxels[0], SMOOTH)

    files = FILES if mode == "L" else FILES // 4
    fuzz(tmp_path / "a.png", file.getvalue(), same, capfd, head=60, files=files)


@pytest.mark.parametrize("options", [{"quality": 90}, {"progressive": True}])
def test_jpeg(tmp_path, capfd, options):
    file = io.BytesIO()
    Image.fromarray(SMOOTH).save(file, "JPEG", **options)

    def grey(scan, data):
        return scan.voxels.dtype == np.uint8 and scan.voxels.shape[0] == 1

    fuzz(tmp_path / "a.jpg", file.getvalue(), grey, capfd, head=350)


@pytest.mark.parametrize("array", [VOXELS, VOXELS[0].astype(np.float32)])
def test_npy(tmp_path, capfd, array):
    file = io.BytesIO()
    np.save(file, array)

    def same(scan, data):
        other = np.load(io.BytesIO(data), allow_pickle=False)
        return np.array_equal(to_file_grid(scan.voxels, scan), other)

    sound = file.getvalue()
    fuzz(tmp_path / "a.npy", sound, same, capfd, head=128, intensity="hu")
