"""A network trained with grey values by anatomy: what it sees of pictures and scans, and draws."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from configs import covid_semiseg, ct_phantom
from input_pipeline.io.scan import Scan
from input_pipeline.preprocess import normalize
from input_pipeline.pseudo_labels import PseudoLabel
from input_pipeline.slices import Slice
from ssa_jax.evaluation.inference import Output
from ssa_jax.experiment import factory, rounds_reporting
from ssa_jax.experiment.network import Network
from ssa_jax.experiment.settings import Settings
from tests.input_pipeline.test_grey_values import axial, show, unit
from tests.support.phantom_chest import SPACING, chest

SIDE = 128


def settings(grey_values="anatomy"):
    config = covid_semiseg.get_config()
    config.data.update({"image_size": SIDE, "lung_mask": "none", "grey_values": grey_values})
    config.eval.batch_size = 1
    return Settings.from_config(config)


@pytest.fixture
def seen():
    """What the network was given, `[S, S]` of each slice."""
    return []


@pytest.fixture
def network(seen):
    """Calls lesion what lies between 0.4 and 0.6: -650 to -350 HU."""

    def predict(image):
        seen.extend(image[..., 0])
        lesion = (image[..., :1] > 0.4) & (image[..., :1] < 0.6)
        prob = np.concatenate([~lesion, lesion], axis=-1).astype(np.float32)
        return Output(prob, np.repeat(image[..., :1], 4, axis=-1))

    return Network(settings(), predict)


def diseased():
    """HU of a slice with ground-glass of -500 HU in a part of the right lung."""
    hu = axial()
    hu[30:44, 26:40] = -500.0
    return hu


def test_a_picture_in_any_window_gives_one_mask(tmp_path, network):
    hu = diseased()
    for window in ((-1250, 250), (-1400, 400), (-1050, 1500)):
        path = tmp_path / "a.png"
        Image.fromarray(show(hu, *window)).save(path)
        result = network.segment(path)
        assert result.notes == ()
        for density, label in ((-500, 1), (-900, 0), (30, 0)):  # pixels that no edge blurs
            sure = ndimage.binary_erosion(hu == density, iterations=2)
            assert sure.any()
            assert (result.labels[sure] == label).all()


def test_a_picture_without_lung_is_said(tmp_path, network):
    path = tmp_path / "a.png"
    Image.fromarray(show(axial(lung=30.0), -1250, 250)).save(path)
    (note,) = network.segment(path).notes
    assert note.startswith("grey values of lung and soft tissue were not found, so the slice was")


def test_a_picture_whose_lung_is_black_is_said(tmp_path, network):
    path = tmp_path / "a.png"
    Image.fromarray(show(axial(), -160, 240)).save(path)
    assert network.segment(path).notes == (
        "100% of what may be lung has the darkest grey value, so this window cannot show lung; "
        "export the slice with a lung window, such as -1250 to 250 HU",
    )


def test_pictures_by_percentiles_have_no_note(tmp_path, network):
    path = tmp_path / "a.png"
    Image.fromarray(show(axial(lung=30.0), -1250, 250)).save(path)
    plain = Network(settings("percentiles"), network._predict)
    assert plain.segment(path).notes == ()


def test_a_drawn_picture_is_what_the_network_sees(network):
    item = Slice(show(diseased(), -1000, 800), None, None, "a", "a", None)
    (prediction,) = network.predict([item])
    image = network.picture(prediction, "a").image
    np.testing.assert_array_equal(image, normalize(item.image, "uint8", "anatomy"))
    assert np.abs(image - normalize(item.image, "uint8")).max() > 0.1


def test_a_scan_in_hu_is_seen_in_its_own_window(network, seen):
    made = chest()
    shape = made.voxels.shape
    scan = Scan(made.voxels, "hu", SPACING, np.eye(4), "chest", (0, 1, 2), (False,) * 3, shape)
    result = network.segment_scan(scan, made.sides, keep_prob=False, montage=2, quiet=True)
    assert len(seen) == np.count_nonzero(made.sides.any(axis=(1, 2)))
    # Lung has -850 HU in this phantom, which landmarks would move to -900.
    sides = made.sides.any(axis=(1, 2))
    assert abs(np.median([np.median(v[(v > 0.2) & (v < 0.4)]) for v in seen]) - unit(-850.0)) < 0.01
    for picture, place in zip(result.pictures, np.flatnonzero(sides)[[0, -1]], strict=True):
        hu = made.voxels[place].astype(float)
        rows, columns = (np.flatnonzero(made.sides.any(axis=axes)) for axes in ((0, 2), (0, 1)))
        cut = hu[rows[0] - 4 : rows[-1] + 5, columns[0] - 4 : columns[-1] + 5]
        np.testing.assert_allclose(picture.image, unit(cut), atol=0.5 / 255 + 1e-6)


def test_pseudo_labels_are_drawn_on_what_the_network_sees(tmp_path, monkeypatch):
    item = Slice(show(diseased(), -1000, 800), None, None, "a", "a", None)
    drawn = []
    monkeypatch.setattr(
        rounds_reporting, "label_sheet", lambda images, *_, **__: drawn.extend(images)
    )
    monkeypatch.setattr(rounds_reporting, "png_bytes", lambda _: b"")
    mask = np.zeros(item.image.shape, np.uint8)
    labels = [PseudoLabel(0, "a", mask, mask)]
    run = SimpleNamespace(
        settings=settings(), slices=SimpleNamespace(unlabelled=[item]), folder=lambda _: tmp_path
    )
    rounds_reporting.ReportWriter(print).labels_written(run, 1, labels)
    np.testing.assert_array_equal(drawn[0], normalize(item.image, "uint8", "anatomy"))


def test_stored_settings_without_the_field_mean_percentiles():
    stored = settings("anatomy").to_dict()
    assert Settings.from_dict(stored).data.grey_values == "anatomy"
    del stored["data"]["grey_values"]
    old = Settings.from_dict(stored)
    assert old.data.grey_values == "percentiles"
    assert factory.preprocessing(old).grey_values == "percentiles"
    assert old == settings("percentiles")


def test_a_data_set_in_hu_is_refused():
    config = ct_phantom.get_config()
    config.data.grey_values = "anatomy"
    with pytest.raises(ValueError, match=r"grey_values is 'anatomy', expected 'percentiles'"):
        factory.check(Settings.from_config(config))


def test_a_class_that_is_rare_in_a_slice_is_left_out():
    """Consolidation in some 9 of 400 pixels."""

    def predict(image):
        prob = np.zeros((1, SIDE, SIDE, 3), np.float32)
        prob[..., 0] = 1.0
        prob[0, 40:60, 40:60] = (0.0, 0.9, 0.1)
        prob[0, 45:48, 45:48] = (0.0, 0.2, 0.8)
        return Output(prob, np.repeat(image[..., :1], 4, axis=-1))

    item = Slice(show(diseased(), -1000, 800), None, None, "a", "a", None)
    both = settings().replace({"data.task": "multiclass"})
    found = []
    for share in (0.0, 0.05):
        network = Network(both.replace({"eval.least_share": share}), predict)
        (prediction,) = network.predict([item])
        found.append(prediction.labels)
    plain, without = found
    assert (plain == 2).any() and not (without == 2).any()
    np.testing.assert_array_equal(without > 0, plain > 0)
