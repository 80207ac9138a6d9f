"""The processing around the U-Net: by hand, and step by step against the package lungmask."""

import numpy as np
import pytest
from scipy import ndimage

from input_pipeline.datasets.ct_phantom.patients import make_patient
from input_pipeline.lungs.r231 import Box, clean, r231_lung_labels, to_network_grid, to_own_grid
from ssa_jax.models.unet import LungUNet, convert
from tests.support import lungmask_stand_in as weights


def body(shape=(128, 128), box=(30, 20, 90, 110), hu=0.0):
    image = np.full(shape, -1000.0, np.float32)
    image[box[0] : box[2], box[1] : box[3]] = hu
    return image


def test_slice_is_cropped_to_the_body_and_scaled():
    image = body()
    image[33:87, 23:107] = -900  # a hollow inside is body too, be its wall ever so thin
    image[60, 4:8] = 500  # a thin thing beside it is not
    prepared, box = to_network_grid(image)
    assert box == Box(30, 20, 90, 110)
    assert prepared.shape == (256, 256)
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared[:8], 1024 / 1624, rtol=1e-6)
    np.testing.assert_allclose(prepared[128, 100:150], 124 / 1624, rtol=1e-5)


def test_pixels_in_between_are_interpolated():
    image = body()
    image[30:90, 20:110] = np.linspace(-400, 400, 90)
    prepared, _ = to_network_grid(image)
    ramp = (np.linspace(-400, 400, 256) + 1024) / 1624
    np.testing.assert_allclose(prepared, np.broadcast_to(ramp, (256, 256)), atol=1e-5)


@pytest.mark.parametrize(("hu", "value"), [(3000, 1.0), (600, 1.0), (-212, 0.5)])
def test_intensities_end_at_600_hu(hu, value):
    prepared, _ = to_network_grid(body(hu=hu).astype(np.int16))
    np.testing.assert_allclose(prepared, value, atol=1e-6)


def test_a_slice_of_air_is_taken_whole():
    prepared, box = to_network_grid(np.full((60, 90), -2048, np.int16))
    assert box == Box(0, 0, 60, 90)
    assert not prepared.any()


def test_labels_go_back_to_where_they_were():
    labels = np.zeros((256, 256), np.uint8)
    labels[:, :128], labels[:, 128:] = 1, 2
    whole = to_own_grid(labels, Box(30, 20, 90, 110), (128, 130))
    want = np.zeros((128, 130), np.uint8)
    want[30:90, 20:65], want[30:90, 65:110] = 1, 2
    np.testing.assert_array_equal(whole, want)


def lungs():
    """Two boxes, the right one (1) larger."""
    labels = np.zeros((6, 40, 60), np.uint8)
    labels[1:5, 5:35, 5:28] = 1
    labels[1:5, 8:30, 32:55] = 2
    return labels


def test_small_parts_join_the_neighbour_with_most_border():
    want = lungs()
    labels = want.copy()
    labels[2, 15:19, 40:45] = 1  # the other side's label inside a lung
    labels[3, 5:8, 8:12] = 2  # and at the rim of one
    np.testing.assert_array_equal(clean(labels), want)


def test_loose_parts_go_and_holes_are_filled():
    want = lungs()
    labels = want.copy()
    labels[0, 0:3, 56:60] = 2
    labels[2:4, 10:20, 10:20] = 0
    np.testing.assert_array_equal(clean(labels), want)


def test_in_a_single_slice_only_small_holes_are_filled():
    labels = lungs()[2:3]
    labels[0, 10:17, 10:19] = 0  # 63 pixels
    labels[0, 20:28, 10:18] = 0  # 64
    cleaned = clean(labels)
    assert (cleaned[0, 10:17, 10:19] == 1).all()
    assert not cleaned[0, 20:28, 10:18].any()


def test_nothing_stays_nothing():
    assert not clean(np.zeros((2, 8, 8), np.uint8)).any()


def test_a_scan_goes_through_in_batches():
    """A network that sees lung where it is dark; the right one in the right half."""
    voxels = np.stack([body(hu=40.0)] * 6).astype(np.int16)
    voxels[1:, 40:80, 30:55] = -850
    voxels[:5, 45:80, 80:100] = -850
    shapes = []

    def labels_of(batch):
        shapes.append(batch.shape)
        side = np.where(np.arange(256) < 128, 1, 2)
        return ((batch > 0) & (batch < 0.3)).astype(np.uint8) * side.astype(np.uint8)

    lung_labels = r231_lung_labels(voxels, labels_of)
    want = np.zeros(voxels.shape, np.uint8)
    want[1:, 40:80, 30:55] = 1
    want[:5, 45:80, 80:100] = 2
    assert shapes == [(4, 256, 256)] * 2
    assert lung_labels.dtype == np.uint8
    np.testing.assert_array_equal(lung_labels, want)


def blobs(seed):
    """Smooth random labels [slices, 64, 64] without any at the border of a slice."""
    rng = np.random.default_rng(seed)
    slices, width = rng.choice([1, 2, 6]), rng.choice([0.7, 1.2, 2, 4])
    noise = rng.standard_normal((3, slices, 64, 64))
    fields = ndimage.gaussian_filter(noise, (0, width / 2, width, width))
    fields[0] += rng.choice([0, 0.3, 0.8]) * fields.std()
    labels = fields.argmax(axis=0).astype(np.uint8)
    labels[:, [0, -1]] = 0
    labels[:, :, [0, -1]] = 0
    return labels


def test_every_step_equals_that_of_lungmask():
    utils = pytest.importorskip("lungmask.utils")
    rng = np.random.default_rng(0)
    images = [item.image for index in range(4) for item in make_patient(index)]
    images += [image[:, 20:150].astype(np.float32) + 0.25 for image in images[:3]]
    for image in images:
        theirs, boxes = utils.preprocess(image[None], resolution=[256, 256])
        ours, box = to_network_grid(image)
        np.testing.assert_array_equal(box, boxes[0])
        np.testing.assert_array_equal(ours, np.divide(theirs[0] + 1024, 1624).astype(np.float32))
        labels = rng.integers(0, 3, (256, 256)).astype(np.uint8)
        back = utils.reshape_mask(labels, boxes[0], image.shape)
        np.testing.assert_array_equal(to_own_grid(labels, box, image.shape), back)
    for seed in range(40):
        theirs = utils.postprocessing(blobs(seed), disable_tqdm=True)
        np.testing.assert_array_equal(clean(blobs(seed)), theirs)


def test_whole_masks_equal_those_of_lungmask(monkeypatch):
    """With a narrow network of random weights, whose labels are scattered over the slices."""
    torch = pytest.importorskip("torch")
    mask = pytest.importorskip("lungmask.mask")
    entries = weights.state_dict(features=4)
    net = mask.UNet(n_classes=3, wf=2, padding=True, up_mode="upsample", batch_norm=True)
    net.load_state_dict({name: torch.tensor(array) for name, array in entries.items()})
    monkeypatch.setattr(mask, "get_model", lambda *_: net.eval())
    voxels = np.stack([item.image for item in make_patient(0)] * 2)
    theirs = mask.LMInferer(modelpath="R231.pth", force_cpu=True, tqdm_disable=True).apply(voxels)

    model = LungUNet(features=4)
    variables = convert(entries, model).variables

    def labels_of(batch):
        return np.asarray(model.apply(variables, batch[..., None])).argmax(-1).astype(np.uint8)

    assert len(np.unique(theirs)) > 1
    np.testing.assert_array_equal(r231_lung_labels(voxels, labels_of), theirs)
