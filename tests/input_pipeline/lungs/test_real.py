"""Lungs of real scans whose lungs are labelled or were looked at; skipped where they are absent."""

import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from input_pipeline.io.read import read_image, read_scan
from input_pipeline.lungs.doubts import lung_doubts
from input_pipeline.lungs.left_right import LEFT, RIGHT, label_left_right
from input_pipeline.lungs.threshold import threshold_lung_mask, volume_lung_mask
from tests.input_pipeline.lungs.test_pictures import grey, jpeg
from tests.support import SHARED

CIP = SHARED / "data/cip_chest_ct/Testing/Data/Input"
IBSI = SHARED / "data/ibsi_lung_tumour/ibsi_1_ct_radiomics_phantom"
SEMISEG = SHARED / "data/covid_semiseg/TrainingSet/LungInfection-Train/Doctor-label/Imgs"

pytestmark = pytest.mark.skipif(not IBSI.is_dir(), reason="the real scans are not here")


def dsc(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def nrrd(name):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(CIP / name)))


@pytest.fixture(scope="module")
def labelled():
    return nrrd("ct-64.nrrd"), nrrd("wholeLung-64.nrrd") > 0


def test_a_whole_labelled_chest(labelled):
    voxels, lung = labelled
    spacing = (3.987, 4.172, 4.172)
    mask = volume_lung_mask(voxels, spacing=spacing, dilation=0)
    assert dsc(mask > 0, lung) > 0.948
    labels = label_left_right(mask, voxels)
    truth = nrrd("lm-64.nrrd") % 256  # the package's regions: the lungs, their lobes and thirds
    for side, regions in ((RIGHT, (2, 4, 5, 6, 12, 13, 14)), (LEFT, (3, 7, 8, 9, 10, 11))):
        inside = np.isin(truth, regions) & (labels > 0)
        assert (labels[inside] == side).mean() > 0.99
    assert lung_doubts(labels, voxels, spacing) == []


FILLS = {"none": None, "black": 0, "grey": 128, "white": 255}


@pytest.mark.slow
@pytest.mark.parametrize("window", [(-1250, 250), (-1000, 400), (-1350, 150)])
@pytest.mark.parametrize("fill", FILLS)
def test_8_bit_slices_of_the_whole_body(labelled, window, fill):
    """DSC at eded809: 0.96 without fill, 0.92 black, 0.91 grey, 0.77 white."""
    scores = []
    rows, columns = np.indices((384, 384)) - 191.5
    circle = np.hypot(rows, columns) < 191
    for voxels, lung in zip(*(volume[::4] for volume in labelled), strict=True):
        if lung.sum() < 300:
            continue
        hu, truth = (ndimage.zoom(x.astype(float), 6, order=1) for x in (voxels, lung))
        picture, truth = grey(hu, window), truth > 0.5
        if FILLS[fill] is not None:
            picture, truth = np.where(circle, picture, FILLS[fill]).astype(np.uint8), truth & circle
        for shown in (picture, jpeg(picture)):
            mask = threshold_lung_mask(shown, intensity="uint8", dilation=0) > 0
            scores.append(dsc(mask, truth))
    assert len(scores) == 28
    assert np.mean(scores) > 0.95
    assert min(scores) > 0.9


@pytest.fixture(scope="module")
def right_half():
    """A scan cropped to the patient's right lung, and its lung labels."""
    scan = read_scan(IBSI / "nifti/image/phantom.nii.gz", intensity="hu")
    mask = volume_lung_mask(scan.voxels, spacing=scan.spacing, dilation=0)
    return scan, label_left_right(mask, scan.voxels)


def test_a_lung_alone_beside_liver_and_spine_is_the_right_one(right_half):
    """Looked at: liver and right kidney below it, spine and heart to the patient's left of it."""
    scan, labels = right_half
    millilitres = np.bincount(labels.ravel(), minlength=3) * np.prod(scan.spacing) / 1000
    assert 1300 < millilitres[RIGHT] < 1400
    assert millilitres[LEFT] < 3  # the front tip of the left lung, in the upper slices
    told = lung_doubts(labels, scan.voxels, scan.spacing)
    assert any("left lung is missing" in line for line in told)
    assert any("edge of the field of view" in line for line in told)


def test_the_upper_slices_that_touch_a_corner_are_there(right_half):
    _, labels = right_half
    areas = (labels > 0).sum(axis=(1, 2))
    assert (areas[38:] > 11000).all()


def test_both_formats_of_a_scan_give_equal_lungs(right_half):
    scan, labels = right_half
    other = read_scan(IBSI / "dicom/image")
    np.testing.assert_array_equal(other.voxels, scan.voxels)
    mask = volume_lung_mask(other.voxels, spacing=other.spacing, dilation=0)
    np.testing.assert_array_equal(label_left_right(mask, other.voxels), labels)


def test_a_part_of_the_tumour_is_found_by_shape(right_half):
    """It lies on the liver and is as dense, so most of it stays outside."""
    _, labels = right_half
    tumour = read_scan(IBSI / "nifti/mask/mask.nii.gz", intensity="hu").voxels > 0
    assert tumour.sum() == 125256
    assert (labels[tumour] > 0).mean() > 0.23


def test_tight_crops_keep_their_masks():
    """Pixels of the masks at eded809, on which trained networks rely."""
    before = {"0": 43909, "12": 29669, "25": 98232, "37": 101851, "45": 92561}
    for name, pixels in before.items():
        image = read_image(SEMISEG / f"{name}.jpg")
        mask = threshold_lung_mask(image, intensity="uint8", dilation=0)
        assert mask.sum() == pytest.approx(pixels, rel=1e-3)
