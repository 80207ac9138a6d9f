"""Compressed DICOM: the values of another library, and an error where a frame was cut."""

import sys
import types

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from input_pipeline.io.dicom_series import read_dicom
from input_pipeline.io.read import read_scan
from tests.input_pipeline.io.test_dicom import ORIGIN, above, dataset, series, write
from tests.input_pipeline.io.test_dicom_enhanced import enhanced
from tests.input_pipeline.io.test_scan import VOXELS, refused

RNG = np.random.default_rng(1)
WAVES = (
    500 * np.sin(np.add.outer(np.arange(48) / 5, np.arange(40) / 7)) + RNG.normal(0, 20, (48, 40))
).astype(np.int16)  # HU


def frame_of(stored, kind, bits=16):
    """A compressed frame of unsigned values."""
    if kind == "lossless":
        return imagecodecs.jpeg_encode(stored, lossless=True, predictor=1, bitspersample=bits)
    if kind == "lossy":
        return imagecodecs.jpeg_encode(stored, level=95)
    return imagecodecs.jpegls_encode(stored, level=2 if kind == "near" else 0)


SYNTAXES = {"lossless": JPEGLosslessSV1, "lossy": JPEGBaseline8Bit, "ls": JPEGLSLossless,
            "near": JPEGLSNearLossless}  # fmt: skip


def jpeg_slice(values, kind, *, bits=16, signed=False, inter=-1024, syntax=None):
    """A slice whose values are compressed; those of lossy JPEG are stored in 8 bits."""
    if kind == "lossy":
        bits, inter = 8, 0
    made = dataset(values, ORIGIN, intercept=inter)
    made.BitsAllocated, made.BitsStored, made.HighBit = (8 if bits == 8 else 16), bits, bits - 1
    made.PixelRepresentation = int(signed)
    stored = values.astype(np.int32) - inter
    stored = (stored & (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    made.PixelData = encapsulate([bytes(frame_of(stored, kind, bits))])
    made["PixelData"].VR = "OB"
    made.file_meta.TransferSyntaxUID = syntax or SYNTAXES[kind]
    return made


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1, JPEGLSLossless])
@pytest.mark.parametrize(("bits", "signed"), [(12, False), (12, True), (16, False), (16, True)])
def test_lossless(tmp_path, syntax, bits, signed):
    kind = "ls" if syntax == JPEGLSLossless else "lossless"
    inter = 0 if signed else -1024
    made = jpeg_slice(WAVES, kind, bits=bits, signed=signed, inter=inter, syntax=syntax)
    path = write(made, tmp_path / "a.dcm")
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.voxels[0], WAVES)
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    np.testing.assert_array_equal(theirs[0], WAVES)


def test_near_lossless_and_lossy(tmp_path):
    scan = read_scan(write(jpeg_slice(WAVES, "near"), tmp_path / "a.dcm"))
    assert 0 < np.abs(scan.voxels[0] - WAVES).max() <= 2
    grey = np.clip(WAVES // 8 + 100, 0, 255)
    path = write(jpeg_slice(grey, "lossy"), tmp_path / "b.dcm")
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    scan = read_scan(path)
    assert np.abs(scan.voxels[0] - theirs[0]).max() <= 1  # two programs round apart
    assert np.abs(scan.voxels[0] - grey).max() < 25


@pytest.mark.parametrize("kind", ["lossless", "ls"])
def test_frames_of_an_enhanced_ct(tmp_path, kind):
    voxels = np.stack([WAVES + k for k in range(3)])
    made = enhanced([(values, above(k), {}) for k, values in enumerate(voxels)])
    stored = (voxels + 1024).astype(np.uint16)
    made.PixelData = encapsulate([bytes(frame_of(values, kind)) for values in stored])
    made["PixelData"].VR = "OB"
    made.file_meta.TransferSyntaxUID = SYNTAXES[kind]
    np.testing.assert_array_equal(read_scan(write(made, tmp_path / "a.dcm")).voxels, voxels)


@pytest.mark.parametrize("kind", list(SYNTAXES))
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_cut_frame_is_refused(tmp_path, kind, share):
    """The decoder of JPEG fills it up with grey, that of JPEG-LS may take many seconds."""
    grey = np.clip(WAVES // 8 + 100, 0, 255)
    made = jpeg_slice(grey if kind == "lossy" else WAVES, kind)
    stored = grey.astype(np.uint8) if kind == "lossy" else (WAVES + 1024).astype(np.uint16)
    frame = bytes(frame_of(stored, kind))
    made.PixelData = encapsulate([frame[: int(share * len(frame))]])
    made["PixelData"].VR = "OB"
    refused(read_dicom, write(made, tmp_path / "a.dcm"), "has no end, so it is cut")


@pytest.mark.parametrize("syntax", [RLELossless, ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_transfer_syntaxes(tmp_path, syntax):
    folder = series(tmp_path / "case", syntax=syntax)
    assert pydicom.dcmread(folder / "IM7").file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_scan(folder).voxels, VOXELS)


def test_jpeg_2000(tmp_path):
    values = np.kron(VOXELS[0], np.ones((12, 12), np.int16))  # the encoder wants a larger slice
    path = write(dataset(values, ORIGIN), tmp_path / "a", JPEG2000Lossless)
    np.testing.assert_array_equal(read_scan(path).voxels[0], values)


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless", "MR_small_jp2klossless"])
def test_jpeg_decoders_agree_with_the_uncompressed_slice(tmp_path, name):
    """pydicom's own samples; a CT header makes them readable here."""
    plain, packed = (
        pydicom.dcmread(pydicom.data.get_testdata_file(f"{n}.dcm", download=False))
        for n in ("MR_small", name)
    )
    for number, made in enumerate((plain, packed)):
        made.Modality, made.RescaleSlope, made.RescaleIntercept = "CT", 1, 0
        write(made, tmp_path / str(number))
    first, second = (read_scan(tmp_path / str(n)).voxels for n in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_compressed_frame_of_another_size_is_refused_before_decoding(tmp_path):
    """libjpeg would work on the 65535 x 65535 pixels that the damaged frame promises."""
    source = pydicom.data.get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False)
    made = pydicom.dcmread(source)
    made.Modality, made.RescaleSlope, made.RescaleIntercept = "CT", 1, 0
    size, huge = b"\x10\x00\x40\x00\x40\x01", b"\x10\xff\xff\xff\xff\x01"
    assert made.PixelData.count(size) == 1
    made.PixelData = made.PixelData.replace(size, huge)
    path = write(made, tmp_path / "a.dcm")
    refused(read_dicom, path, "states (rows, columns) (65535, 65535), expected (64, 64)")


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    source = pydicom.data.get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False)
    made = pydicom.dcmread(source)
    made.Modality, made.RescaleSlope, made.RescaleIntercept = "CT", 1, 0
    path = write(made, tmp_path / "a.dcm")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    refused(read_dicom, path, "JPEG-LS", "pip install imagecodecs pylibjpeg")
    path = write(dataset(np.kron(VOXELS[0], np.ones((12, 12), np.int16)), ORIGIN), tmp_path / "b",
                 JPEG2000Lossless)  # fmt: skip
    absent = types.SimpleNamespace(available_plugins=())
    monkeypatch.setattr("input_pipeline.io.dicom_pixels.get_decoder", lambda syntax: absent)
    refused(read_dicom, path, "JPEG 2000", "pylibjpeg-openjpeg")
