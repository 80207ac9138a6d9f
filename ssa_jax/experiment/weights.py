"""Import of PyTorch weights: reading and checking a file, and writing a workdir."""

import sys
import zipfile
import zlib
from pathlib import Path

import jax
import numpy as np
import safetensors
import safetensors.numpy

from input_pipeline.files import atomic_directory, require_empty
from ssa_jax.experiment import factory
from ssa_jax.experiment.provenance import keep_import
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.workdir import save_settings
from ssa_jax.models.torch_weights import LAYOUTS, Conversion, convert
from ssa_jax.training.checkpoint import Checkpoints
from ssa_jax.training.state import Variables

PUBLISHED = LAYOUTS[0]
SUFFIXES = (".pth", ".pt", ".npz", ".safetensors")
KINDS = ("missing", "extra", "misshapen")  # lists of what does not fit, see `Conversion`
FITS = {
    PUBLISHED: "the published weights fit model.encoder='published', model.skip='add', "
    "model.spatial_conv=True, model.kernel_size=9 and data.task='binary'; data.lung_mask is 'none' "
    "for weights of one input channel and 'file' or 'threshold' for two; a torchvision ResNet34 "
    "needs --layout=torchvision",
    "torchvision": "a torchvision ResNet34 fits model.encoder='torchvision'; the authors' SSA-Net "
    "needs --layout=published",
}


def import_weights(settings: Settings, path: Path, workdir: Path, layout: str) -> None:
    """Write a workdir whose best network has the weights of a file, whole or not at all.

    Args:
        settings: of the network.
        path: file of a state_dict, see `read_state_dict`.
        workdir: new or empty.
        layout: 'published' or 'torchvision', see `models.torch_weights`.

    Raises:
        ValueError: the file cannot be read, or its entries do not fit the network; they are listed
            on standard error and nothing is written.
        FileExistsError: the workdir is not empty.
    """
    require_empty(workdir, "--workdir")
    variables = _converted(settings, path, layout)
    with atomic_directory(workdir) as folder:
        save_settings(settings, folder)
        keep_import(folder, path)
        checkpoints = Checkpoints(folder)
        checkpoints.save_best(0, variables, {"imported_from": path.name})


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Read a state_dict.

    Args:
        path: .npz or .safetensors, or .pth or .pt where PyTorch is installed.

    Returns:
        float32 arrays by PyTorch's name, without a wrapping 'state_dict' or 'module.'.

    Raises:
        ValueError: another kind of file, damaged, not finite, or it needs PyTorch, which is not
            installed.
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; --weights takes {', '.join(SUFFIXES)}")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: the ending is {path.suffix!r}, expected one of {SUFFIXES}")
    read = {".npz": _read_npz, ".safetensors": _read_safetensors}.get(path.suffix, _read_torch)
    entries = {name.removeprefix("module."): array for name, array in read(path).items()}
    for name, array in entries.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} holds values that are not finite; save it again")
    return entries


def require_fit(conversion: Conversion, path: Path, expected: str) -> None:
    """Check that every entry of a file fits, and list those that do not on standard error.

    Args:
        conversion: of the file's entries.
        path: of the file.
        expected: what would fit, for the message.

    Raises:
        ValueError: an entry does not fit.
    """
    listings = {kind: getattr(conversion, kind) for kind in KINDS}
    for kind, entries in listings.items():
        for entry in entries:
            print(f"{kind}: {entry}", file=sys.stderr)
    if any(listings.values()):
        counts = ", ".join(f"{len(entries)} {kind}" for kind, entries in listings.items())
        raise ValueError(f"{path}: {counts} (listed above); {expected}")


def _converted(settings: Settings, path: Path, layout: str) -> Variables:
    """Return the network's variables with the file's weights, checked first by their shapes."""
    state_dict = read_state_dict(path)
    shapes = jax.eval_shape(lambda: factory.fresh_variables(settings))
    conversion = convert(state_dict, shapes, layout)
    require_fit(conversion, path, FITS[layout])
    if layout == PUBLISHED:  # every weight is in the file
        return conversion.variables
    return convert(state_dict, factory.fresh_variables(settings), layout).variables


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: np.asarray(file[name], np.float32) for name in file}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged, or no .npz of number arrays ({error})") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        loaded = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: a type NumPy lacks
        raise ValueError(f"{path}: damaged, or no .safetensors file ({error})") from error
    return {name: np.asarray(array, np.float32) for name, array in loaded.items()}


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    """Read the state_dict of a .pth or .pt file; nothing in the file is executed."""
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path}: reading {path.suffix} needs PyTorch; install it (pip install torch), or "
            "save the state_dict as .npz or .safetensors where PyTorch is"
        ) from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged or foreign files
        raise ValueError(
            f"{path}: damaged, or holds more than weights ({type(error).__name__}); save the "
            "state_dict alone, torch.save(model.state_dict(), file)"
        ) from error
    inner = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(inner, dict):
        raise ValueError(f"{path}: holds a {type(inner).__name__}, expected a state_dict")
    strange = [name for name, value in inner.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise ValueError(
            f"{path}: {strange[0]!r} is a {type(inner[strange[0]]).__name__}, expected a "
            "state_dict of tensors; save the state_dict alone"
        )
    return {str(name): tensor.detach().float().numpy() for name, tensor in inner.items()}
