"""In place of the package lungmask: weights that anybody can draw again, and its class."""

from types import SimpleNamespace

import numpy as np

LEVELS = 5


def shapes(features: int = 64, labels: int = 3) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published R231 state_dict, in its order, counters included."""
    entries: dict[str, tuple[int, ...]] = {}

    def conv(name: str, inputs: int, outputs: int, size: int) -> None:
        entries[f"{name}.weight"] = (outputs, inputs, size, size)
        entries[f"{name}.bias"] = (outputs,)

    def norm(name: str, outputs: int) -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            entries[f"{name}.{leaf}"] = (outputs,)
        entries[f"{name}.num_batches_tracked"] = ()

    def block(name: str, inputs: int, outputs: int) -> None:
        conv(f"{name}.residual_input_conv", inputs, outputs, 1)  # never run
        norm(f"{name}.residual_batchnorm", outputs)  # never run
        for first, channels in ((0, inputs), (3, outputs)):
            conv(f"{name}.block.{first}", channels, outputs, 3)
            norm(f"{name}.block.{first + 2}", outputs)

    channels = 1
    for level in range(LEVELS):
        block(f"down_path.{level}", channels, features * 2**level)
        channels = features * 2**level
    for step in range(LEVELS - 1):
        conv(f"up_path.{step}.residual_input_conv", channels, channels // 2, 1)  # never run
        norm(f"up_path.{step}.residual_batchnorm", channels // 2)  # never run
        conv(f"up_path.{step}.up.1", channels, channels // 2, 1)
        block(f"up_path.{step}.conv_block", channels, channels // 2)
        channels //= 2
    conv("last", channels, labels, 1)
    return entries


def state_dict(features: int = 64, labels: int = 3) -> dict[str, np.ndarray]:
    """Entry by entry from `numpy.random.default_rng(231)`, float32.

    Kernels are normal with variance 2 / fan-in, variances uniform in [0.5, 1.5), scales uniform in
    [0.8, 1.2), everything else uniform in [-0.2, 0.2); counters are 0.
    """
    rng = np.random.default_rng(231)
    entries: dict[str, np.ndarray] = {}
    for name, shape in shapes(features, labels).items():
        if not shape:
            entries[name] = np.zeros((), np.int64)
        elif len(shape) == 4:
            scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
            entries[name] = scale * rng.standard_normal(shape, np.float32)
        else:
            low, high = -0.2, 0.2
            if name.endswith("running_var"):
                low, high = 0.5, 1.5
            elif name.endswith("weight"):
                low, high = 0.8, 1.2
            entries[name] = rng.uniform(low, high, shape).astype(np.float32)
    return entries


def slices(side: int) -> np.ndarray:
    """Two slices `[2, side, side]` float32, uniform in [0, 1), from `default_rng(0)`."""
    return np.random.default_rng(0).random((2, side, side), np.float32)


def inferer(outputs, loads=True):
    """A stand-in for lungmask's class that marks columns 0 and 1 as lungs."""

    class Inferer:
        def __init__(self, **options):
            self.options = options
            if not loads:
                raise RuntimeError("Error(s) in loading state_dict")
            self.model = SimpleNamespace(last=SimpleNamespace(out_channels=outputs))

        def apply(self, voxels):
            assert set(self.options) == {"modelpath", "tqdm_disable"}  # a path, so no download
            lung_labels = np.zeros(voxels.shape, np.uint8)
            lung_labels[..., 0], lung_labels[..., 1] = 1, 2
            return lung_labels

    return SimpleNamespace(LMInferer=Inferer)
