"""Exported networks: their numbers, the page beside them, and what is refused."""

import importlib
import json

import jax
import numpy as np
import pytest
from jax import export as jax_export
from PIL import Image
from scipy import ndimage

import ssa_jax
from configs import ct_phantom
from input_pipeline.preprocess import Preprocessing, prepare_slice
from input_pipeline.slices import Slice
from input_pipeline.verified import file_sha256
from launch import cli
from launch import export as command
from ssa_jax.evaluation import onnx_graph
from ssa_jax.experiment import export, export_card, factory
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.workdir import save_settings
from ssa_jax.training.checkpoint import Checkpoints
from tests.conftest import variables_of

SIDE = 64
SMALL = {
    "data.image_size": SIDE,
    "model.stage_sizes": (1, 1, 1, 1),
    "model.kernel_size": 3,
    "eval.flip": False,
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A small network of drawn weights."""
    folder = tmp_path_factory.mktemp("export") / "W"
    settings = Settings.from_config(ct_phantom.get_config()).replace(SMALL)
    save_settings(settings, folder)
    Checkpoints(folder).save_best(7, variables_of(factory.build_model(settings)), {})
    return folder


@pytest.fixture(scope="module")
def network(workdir):
    return ssa_jax.load(workdir)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(5).random((3, SIDE, SIDE, 2), np.float32)


@pytest.fixture(scope="module")
def expected(network, images):
    """What predict computes of the images; the check's program, so that it is compiled once."""
    with jax.default_matmul_precision(export.PRECISION):
        return network._predict(images).prob


def run(capsys, *arguments):
    """Status, output and errors of the command."""
    with pytest.raises(SystemExit) as ended:
        cli.run(command.main, [str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return ended.value.code or 0, printed.out, printed.err


def needs(form):
    for name in export.NEEDS[form]:
        pytest.importorskip(name)


@pytest.mark.slow
def test_onnx_of_any_batch_gives_the_numbers_of_the_network(workdir, images, expected, capsys):
    needs("onnx")
    import onnxruntime

    status, printed, errors = run(capsys, workdir, "--format", "onnx")
    out = workdir / "export" / "onnx"
    assert (status, errors) == (0, "") and f"{out / 'network.onnx'} (" in printed
    assert "Not a medical device" in printed
    assert {path.name for path in out.iterdir()} == {
        "network.onnx",
        "preprocessing.json",
        "README.md",
    }
    session = onnxruntime.InferenceSession(out / "network.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        (prob,) = session.run(["prob"], {"image": images[:count]})
        np.testing.assert_allclose(prob, expected[:count], rtol=0, atol=1e-5)
    assert np.ptp(expected[..., 1]) > 0.1  # the comparison is of more than one value


@pytest.mark.slow
def test_stablehlo_of_any_batch_gives_the_numbers_of_the_network(
    tmp_path, network, images, expected
):
    needs("stablehlo")
    written = network.export(tmp_path / "out", format="stablehlo")
    program = jax_export.deserialize(bytearray(written.file.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    call = jax.jit(program.call)
    for count in (1, 3):
        prob = call(images[:count])
        np.testing.assert_allclose(prob, expected[:count], rtol=0, atol=1e-5)
    assert written.check.largest_difference < 1e-5
    told = json.loads(written.record.read_text())
    assert told["sha256"] == file_sha256(written.file)
    assert told["network"]["weights_sha256"] == network.provenance.weights
    assert told["output"]["mean_over_mirror_images"] is False
    assert told["input"]["shape"] == ["B", SIDE, SIDE, 2]
    assert "mirror images" not in written.page.read_text()


@pytest.mark.slow
def test_a_wrong_file_is_refused_and_nothing_stays(tmp_path, network, monkeypatch):
    needs("onnx")
    monkeypatch.setattr(onnx_graph, "NORM_EPSILON", 1e-2)
    with pytest.raises(ValueError, match=r"network\.onnx: its probabilities differ .* by up to"):
        network.export(tmp_path / "out", batch=2)
    assert not (tmp_path / "out").exists()


def test_a_fixed_batch_and_the_warning_are_in_the_file(network):
    needs("onnx")
    import onnx

    model = onnx.load_from_string(export._onnx(network, 2))
    shapes = [
        [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [[2, SIDE, SIDE, 2]] * 2
    assert "ct_phantom" in model.graph.doc_string
    assert "Not a medical device" in model.graph.doc_string


def without(names):
    """An import_module that finds no such packages."""
    found = importlib.import_module

    def import_module(name):
        if name in names:
            raise ImportError(name)
        return found(name)

    return import_module


@pytest.mark.parametrize("form", export.FORMATS)
def test_a_missing_package_is_named_with_its_extra(tmp_path, workdir, form, monkeypatch, capsys):
    missing = export.NEEDS[form][-1]
    for name in export.NEEDS[form][:-1]:
        pytest.importorskip(name)
    monkeypatch.setattr(export.importlib, "import_module", without({missing}))
    status, _, errors = run(capsys, workdir, "--format", form, "--out", tmp_path / "out")
    assert (status, errors.count("\n")) == (2, 1)
    assert f"needs the package {missing}, which is not installed" in errors
    assert f"pip install {' '.join(export.NEEDS[form])} (the extra export)" in errors
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_said(tmp_path, workdir, network, monkeypatch, capsys):
    monkeypatch.setattr(export, "NEEDS", dict.fromkeys(export.FORMATS, ()))
    flags = ("--format", "onnx", "--out", tmp_path)
    assert "config.json: not found; expected the folder" in run(capsys, tmp_path, *flags)[2]
    for batch in ("0", "-1", "two", "1.5"):
        status, _, errors = run(capsys, workdir, *flags, f"--batch={batch}")
        assert status == 2 and f"{batch!r}; expected dynamic, or a number of 1 or more" in errors
    (tmp_path / "mine.txt").write_text("mine")
    assert "is not empty, expected a new or an empty folder" in run(capsys, workdir, *flags)[2]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(ValueError, match="format is 'tf'; expected one of"):
        network.export(tmp_path / "out", format="tf")
    with pytest.raises(ValueError, match="batch is 0; expected 1 or more"):
        network.export(tmp_path / "out", batch=0)


def by_the_page(slice_, told):
    """Make an image as the steps beside an exported network say, from the values alone."""
    values, side = told["preprocessing"], told["input"]["shape"][1]
    if values["intensity"] == "hu":
        low, high = values["hu_window"]
    else:
        low, high = np.percentile(slice_.image, values["percentiles"])
    unit = np.clip((slice_.image.astype(np.float32) - low) / max(high - low, 1), 0, 1)
    rows, columns = slice_.image.shape
    height, width = (max(2, round(n * side / max(rows, columns))) for n in (rows, columns))
    scaled = Image.fromarray(unit.astype(np.float32)).resize((width, height), Image.BILINEAR)
    far = ndimage.distance_transform_edt(slice_.lung == 0)
    lung = (far <= values["lung_dilation"]).astype(np.float32)
    under = [
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in ((height, rows), (width, columns))
    ]
    top, left = (side - height) // 2, (side - width) // 2
    image = np.zeros((side, side, 2), np.float32)
    image[top : top + height, left : left + width, 0] = scaled
    image[top : top + height, left : left + width, 1] = lung[np.ix_(*under)]
    return image


@pytest.mark.parametrize("intensity", ["hu", "uint8"])
def test_the_steps_beside_the_file_make_the_image(network, tmp_path, intensity):
    rng = np.random.default_rng(3)
    drawn = ndimage.gaussian_filter(rng.normal(0, 1, (50, 90)), 2)
    hu = (drawn * 3000 - 500).astype(np.int16)
    grey = np.clip(drawn * 200 + 120, 0, 255).astype(np.uint8)
    lung = (drawn > 0.1).astype(np.uint8)
    item = Slice(hu if intensity == "hu" else grey, None, lung, "a", "a", None)
    prepared = Preprocessing(SIDE, intensity, "file", lung_dilation=2)
    told = record_of(network, prepared, tmp_path)
    for name in ("grey_values", "percentiles"):
        assert (name in told["preprocessing"]) == (intensity == "uint8")
    steps = " ".join(told["from_slice_to_image"])
    assert "grown by a disc of 2 pixels" in steps
    assert ("(HU + 1250) / 1500, clipped to [0, 1]" in steps) == (intensity == "hu")
    assert ("the slice's own percentiles 1 and 99" in steps) == (intensity == "uint8")
    image = prepare_slice(item, prepared).image
    np.testing.assert_allclose(by_the_page(item, told), image, rtol=0, atol=1e-6)
    assert 0 < image[..., 1].mean() < 1 and image[..., 0].std() > 0.1


def record_of(network, prepared, folder):
    """The record of a network with another preprocessing."""
    (folder / "network.onnx").write_bytes(b"a network")
    check = {"largest_difference": 1e-6, "batches": (1, 3)}
    before, network.preprocessing = network.preprocessing, prepared
    try:
        return export_card.record(network, folder / "network.onnx", "onnx", None, check)
    finally:
        network.preprocessing = before


@pytest.mark.parametrize("grey_values", ["percentiles", "anatomy", "window"])
@pytest.mark.parametrize("lung_mask", ["file", "threshold", "none"])
@pytest.mark.parametrize("form", export.FORMATS)
def test_the_page_is_whole_for_every_preprocessing(network, tmp_path, grey_values, lung_mask, form):
    prepared = Preprocessing(SIDE, "uint8", lung_mask, 0, grey_values)
    told = record_of(network, prepared, tmp_path)
    page = export_card.page(told | {"format": form})
    channels = 1 if lung_mask == "none" else 2
    assert told["input"]["shape"] == ["B", SIDE, SIDE, channels]
    assert ("Lung mask: 1" in page) == (lung_mask != "none")
    assert "**Not a medical device" in page and network.provenance.weights in page
    assert "{" not in page.replace('{"image": image}', "")  # every field was filled in
    assert compile(page.partition("```python\n")[2].partition("```")[0], "page", "exec")


def test_the_page_says_how_classes_are_told_apart(network, tmp_path, monkeypatch):
    rare = "Where a class has less than 0.05 of the slice's lesion pixels"
    dense = "includes 40 (intensity - 0.5)"
    for slope, share in ((0.0, 0.0), (40.0, 0.05)):
        fields = {"eval.density_slope": slope, "eval.least_share": share}
        monkeypatch.setattr(network, "settings", network.settings.replace(fields))
        told = record_of(network, network.preprocessing, tmp_path)
        assert (told["output"]["density_slope"], told["output"]["least_share"]) == (slope, share)
        page = export_card.page(told)
        assert (rare in page, dense in page) == (bool(share), bool(slope))
