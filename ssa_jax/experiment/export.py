"""Inference of a trained network as one file that runs without this project, checked when made."""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import ndimage

from input_pipeline.files import (
    atomic_directory,
    require_empty,
    write_bytes,
    write_json,
    write_text,
)
from ssa_jax.evaluation import onnx_graph
from ssa_jax.evaluation.inference import make_predict, predicted
from ssa_jax.experiment import export_card, factory
from ssa_jax.models.ssa_net import SSANet
from ssa_jax.training.state import Variables

if TYPE_CHECKING:
    from ssa_jax.experiment.network import Network

FORMATS = {"onnx": "network.onnx", "stablehlo": "network.stablehlo"}  # by name: its file
NEEDS = {"onnx": ("onnx", "onnxruntime"), "stablehlo": ("flatbuffers",)}  # optional packages
RECORD, PAGE = "preprocessing.json", "README.md"
PLATFORMS = ("cpu", "cuda", "tpu")  # of one StableHLO file
# Full float32 on GPU and TPU too, whose default rounds the factors of a product: the file's numbers
# are then those of every other runtime.
PRECISION = "highest"
TOLERANCE = 1e-4  # of a probability; rounding made 1e-5, with drawn weights at most 3e-5
BATCHES = (1, 3)  # with which a dynamic batch is checked
COARSE = 8  # pixels between the values from which images are made up

Run = Callable[[np.ndarray], np.ndarray]


class Check(NamedTuple):
    """How a file compared with the network itself on made-up images.

    Attributes:
        largest_difference: of a probability.
        tolerance: the largest difference that is accepted.
        batches: numbers of images.
        lowest: the network's lowest probability of lesion, of any class.
        highest: the highest one.
    """

    largest_difference: float
    tolerance: float
    batches: tuple[int, ...]
    lowest: float
    highest: float


class Exported(NamedTuple):
    """What was written.

    Attributes:
        file: the network.
        record: its preprocessing as JSON.
        page: the same for people.
        check: see `Check`.
    """

    file: Path
    record: Path
    page: Path
    check: Check

    def __str__(self) -> str:
        """Say it in a few lines."""
        check = self.check
        return (
            f"{self.file} ({self.file.stat().st_size / 1e6:.1f} MB)\n"
            f"{self.page} and {self.record.name}: how an image is made from a slice\n"
            f"Checked on made-up images: its probabilities (of lesion, {check.lowest:.2g} to "
            f"{check.highest:.2g}) differ from the network's by {check.largest_difference:.1e} at "
            f"most.\n{export_card.WARNING}"
        )


def export(network: "Network", out: Path, format: str, batch: int | None) -> Exported:
    """Write a network's inference and its preprocessing into a folder, whole or not at all.

    The file maps images `[B, S, S, C]` float32, as `prepare_slice` makes them, to probabilities
    `[B, S, S, K]` float32, background first, averaged over mirror images if `eval.flip` says so. It
    is read back and compared with the network before anything stays.

    Args:
        network: a trained network.
        out: folder to write to, new or empty.
        format: 'onnx', or 'stablehlo' (of `jax.export`, for CPU, CUDA and TPU).
        batch: number of images B; None for any.

    Raises:
        ValueError: an unknown format, a batch below 1, a package is missing, or the file's
            probabilities are not those of the network.
        FileExistsError: the folder is not empty.
        OSError: it cannot be written.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; expected one of {tuple(FORMATS)}")
    if batch is not None and batch < 1:
        raise ValueError(f"batch is {batch}; expected 1 or more, or None for any number")
    _require(format)
    require_empty(out, "--out")
    write, read = {"onnx": (_onnx, _run_onnx), "stablehlo": (_stablehlo, _run_stablehlo)}[format]
    with atomic_directory(out) as folder:
        file = folder / FORMATS[format]
        write_bytes(file, write(network, batch))
        check = _check(network, read(file), BATCHES if batch is None else (batch,))
        if not check.largest_difference <= TOLERANCE:  # nan is refused, too
            raise ValueError(
                f"{out / file.name}: its probabilities differ from the network's by up to "
                f"{check.largest_difference:.2g}, expected at most {TOLERANCE:g}; nothing was "
                f"written; try the other format, or other versions of {', '.join(NEEDS[format])}"
            )
        record = export_card.record(network, file, format, batch, check._asdict())
        write_json(folder / RECORD, record)
        write_text(folder / PAGE, export_card.page(record))
    return Exported(out / file.name, out / RECORD, out / PAGE, check)


def _require(format: str) -> None:
    """Check that the packages of a format are installed."""
    for name in NEEDS[format]:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"the format {format} needs the package {name}, which is not installed; "
                f"pip install {' '.join(NEEDS[format])} (the extra export)"
            ) from error


def _onnx(network: "Network", batch: int | None) -> bytes:
    """Return the network as a serialised ONNX model."""
    return onnx_graph.onnx_model(
        factory.build_model(network.settings),
        network.variables,
        shape=(batch, *_image_shape(network)),
        flip=network.settings.eval.flip,
        about=f"SSA-Net: {network.provenance}. {export_card.WARNING}",
    )


def _run_onnx(file: Path) -> Run:
    """Read an ONNX file back, for ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    inputs, outputs = onnx_graph.INPUT, [onnx_graph.OUTPUT]
    return lambda image: np.asarray(session.run(outputs, {inputs: image})[0])


def _stablehlo(network: "Network", batch: int | None) -> bytes:
    """Return the network as a serialised program of `jax.export`."""
    from jax import export as jax_export

    size = jax_export.symbolic_shape("B")[0] if batch is None else batch
    image = jax.ShapeDtypeStruct((size, *_image_shape(network)), jnp.float32)
    model = factory.build_portable_model(network.settings)
    infer = partial(_infer, model, network.variables, network.settings.eval.flip)
    with jax.default_matmul_precision(PRECISION):
        exported = jax_export.export(jax.jit(infer), platforms=PLATFORMS)(image)
    return bytes(exported.serialize())


def _infer(model: SSANet, variables: Variables, flip: bool, image: Array) -> Array:
    """Map `[B, S, S, C]` to probabilities `[B, S, S, K]`."""
    return predicted(model, variables, image, flip=flip)[0]


def _run_stablehlo(file: Path) -> Run:
    """Read a program of `jax.export` back, for JAX's default backend."""
    from jax import export as jax_export

    program = jax.jit(jax_export.deserialize(bytearray(file.read_bytes())).call)
    return lambda image: np.asarray(program(image))


def _check(network: "Network", run: Run, batches: tuple[int, ...]) -> Check:
    """Compare a file with the network, computed in float32 by the backend's own implementations."""
    settings = network.settings
    images = made_up_images(max(batches), *_image_shape(network)[1:])
    model = factory.build_model(settings).clone(dtype=jnp.float32)
    with jax.default_matmul_precision(PRECISION):
        predict = make_predict(model, flip=settings.eval.flip)(network.variables)
        expected = predict(images).prob
    differences = [np.abs(run(images[:n]) - expected[:n]).max() for n in batches]
    lesion = expected[..., 1:]
    lowest, highest = float(lesion.min()), float(lesion.max())
    return Check(float(np.max(differences)), TOLERANCE, batches, lowest, highest)


def made_up_images(count: int, side: int, channels: int) -> np.ndarray:
    """Make images up, smooth ones with a little noise; the lung mask is where one of them is low.

    Args:
        count: number of images.
        side: in pixels, a multiple of 32.
        channels: 1 (intensity) or 2 (intensity and lung mask).

    Returns:
        `[count, side, side, channels]` float32 in [0, 1], always the same.
    """
    rng = np.random.default_rng(0)
    coarse = rng.random((channels, count, side // COARSE, side // COARSE), np.float32)
    smooth = ndimage.zoom(coarse, (1, 1, COARSE, COARSE), order=1)
    noise = rng.normal(0, 0.05, smooth[0].shape)
    intensity = np.clip(smooth[0] + noise, 0, 1).astype(np.float32)
    masks = (smooth[1:] < 0.5).astype(np.float32)
    return np.stack([intensity, *masks], axis=-1)


def _image_shape(network: "Network") -> tuple[int, int, int]:
    """Return side, side and channels of the network's images."""
    side = network.preprocessing.image_size
    return side, side, network.preprocessing.channels
