"""The U-Net R231 against the package lungmask: from stored numbers, and side by side with it."""

import jax
import numpy as np
import pytest

from ssa_jax.models.unet import LungUNet, convert, make_labels
from tests.support import ROOT
from tests.support import lungmask_stand_in as weights

GOLDEN = ROOT / "tests/golden/lungmask_unet.npz"


@pytest.fixture(scope="module")
def state_dict():
    return weights.state_dict()


@pytest.fixture(scope="module")
def narrow():
    """A network of 4 channels and its weights."""
    return LungUNet(features=4), weights.state_dict(features=4)


def log_prob(model, variables, slices):
    """What PyTorch's module returns, from ours: `[B, labels, H, W]`."""
    logits = jax.jit(model.apply)(variables, slices[..., None])
    return np.asarray(jax.nn.log_softmax(logits)).transpose(0, 3, 1, 2)


@pytest.mark.slow
def test_network_equals_the_numbers_of_lungmask(state_dict):
    """The file was written with lungmask 0.2.22 and PyTorch 2.13.0 by this recipe.

    `net = lungmask.resunet.UNet(n_classes=3, padding=True, depth=5, up_mode="upsample",
    batch_norm=True, residual=False).eval()`, as `lungmask.mask.get_model` builds it; `net.
    load_state_dict` of `lungmask_stand_in.state_dict()` as tensors; `net` of `lungmask_stand_in.
    slices(32)[:, None]` is `log_prob`, every second row and column of it.
    """
    theirs = np.load(GOLDEN)["log_prob"]
    conversion = convert(state_dict)
    assert not (conversion.missing or conversion.extra or conversion.misshapen)
    ours = log_prob(LungUNet(), conversion.variables, weights.slices(32))[:, :, ::2, ::2]
    assert np.ptp(theirs) > 1  # the numbers differ from place to place
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def torch_network(state_dict, features):
    """lungmask's own module with these weights."""
    torch = pytest.importorskip("torch")
    resunet = pytest.importorskip("lungmask.resunet")
    net = resunet.UNet(
        n_classes=3,
        wf=features.bit_length() - 1,
        padding=True,
        depth=5,
        up_mode="upsample",
        batch_norm=True,
        residual=False,
    )
    net.load_state_dict({name: torch.tensor(array) for name, array in state_dict.items()})
    return torch, net.eval()


@pytest.mark.parametrize(("features", "side"), [(64, 32), (4, 256)])
def test_network_equals_lungmask_side_by_side(features, side):
    entries = weights.state_dict(features)
    torch, net = torch_network(entries, features)
    slices = weights.slices(side)
    with torch.inference_mode():
        theirs = net(torch.tensor(slices[:, None])).numpy()
    model = LungUNet(features)
    ours = log_prob(model, convert(entries, model).variables, slices)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_parameters_are_those_of_the_publication_less_what_never_runs(state_dict):
    count = sum(array.size for array in jax.tree.leaves(convert(state_dict).variables["params"]))
    # 31,054,275 parameters of the PyTorch module; the unused ones are the 1x1 convolutions
    # (in + 1) * out and the BatchNorms 2 * out of each block and of each step up.
    down = [(1, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    up = [(1024, 512), (512, 256), (256, 128), (128, 64)]
    unused = sum((i + 1) * o + 2 * o for i, o in down + up + up)
    assert count == 31_054_275 - unused


@pytest.mark.slow
def test_labels_are_the_largest_output(monkeypatch, narrow):
    model, entries = narrow
    monkeypatch.setattr("ssa_jax.models.unet.LungUNet", lambda: model)
    variables = convert(entries, model).variables
    slices = weights.slices(16)
    labels = make_labels(variables)(slices)
    assert labels.dtype == np.uint8
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(labels, log_prob(model, variables, slices).argmax(axis=1))


def test_entries_that_do_not_fit_are_listed(narrow):
    model, entries = narrow
    changed = dict(entries)
    del changed["up_path.0.up.1.bias"]
    del changed["down_path.3.residual_batchnorm.weight"]  # never run: not missed
    changed["classifier.weight"] = np.zeros((2, 2), np.float32)
    changed["last.weight"] = np.zeros((6, 4, 1, 1), np.float32)
    conversion = convert(changed, model)
    assert conversion.missing == ["up_path.0.up.1.bias"]
    assert conversion.extra == ["classifier.weight"]
    assert conversion.misshapen == [
        "last.weight: got (6, 4, 1, 1), which does not fit (1, 1, 4, 3) here"
    ]


def test_slices_of_another_size_are_refused(narrow):
    model, entries = narrow
    with pytest.raises(ValueError, match=r"24 x 32.*multiples of 16"):
        model.apply(convert(entries, model).variables, np.zeros((1, 24, 32, 1), np.float32))
