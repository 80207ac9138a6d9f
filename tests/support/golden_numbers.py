"""The authors' PyTorch network in numbers: its weights, rebuilt, and what it computed."""

import json

import numpy as np

from tests.support import ROOT

FOLDER = ROOT / "tests/golden"


def spatial_conv() -> dict[str, np.ndarray]:
    """Input, passes and gradients of the published spatial convolution, NCHW."""
    return dict(np.load(FOLDER / "official_spatial_conv.npz"))


def network() -> dict[str, np.ndarray]:
    """Inputs and outputs of the published network, NCHW."""
    return dict(np.load(FOLDER / "official_network.npz"))


def state_dict() -> dict[str, np.ndarray]:
    """The weights behind `network`, rebuilt from their recipe, in PyTorch's names and layout."""
    entries = json.loads((FOLDER / "official_state_dict_spec.json").read_text())
    return {entry["name"]: _fill(entry) for entry in entries}


def _fill(entry: dict) -> np.ndarray:
    rng = np.random.default_rng(entry["index"])
    shape, fill = entry["shape"], entry["fill"]
    if fill == "zeros":
        return np.zeros(shape, np.int64)
    if fill.startswith("uniform"):
        low, high = (float(x) for x in fill[len("uniform(") : -1].split(","))
        return rng.uniform(low, high, shape).astype(np.float32)
    kind, *factors = fill.split("*")
    assert kind == "normal"
    array = rng.standard_normal(shape)
    for factor in factors:
        known = factor == "sqrt(2/prod(shape[1:]))"
        array = array * (np.sqrt(2 / np.prod(shape[1:])) if known else float(factor))
    return array.astype(np.float32)


def nhwc(array: np.ndarray) -> np.ndarray:
    """NCHW to NHWC."""
    return array.transpose(0, 2, 3, 1)


def relative_error(ours, theirs) -> float:
    """Norm of the difference by the norm of `theirs`."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
