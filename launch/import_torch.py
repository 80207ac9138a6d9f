"""Start from PyTorch weights: `python -m launch.import_torch --weights F --config C --workdir W`.

F is a state_dict: .npz or .safetensors (no PyTorch needed), or .pth/.pt (with PyTorch installed).
Layout 'published' is the authors' SSA-Net; it fits a configuration with model.skip='add'. Layout
'torchvision' is a ResNet34 for the encoder alone; it fits model.encoder='torchvision'.
The workdir then serves launch.evaluate, launch.predict and --config.train.init_from.
"""

import argparse
import sys
import zipfile
import zlib
from pathlib import Path

import jax
import numpy as np
import safetensors
import safetensors.numpy
from ml_collections import ConfigDict

from launch import command, setup
from launch.writer import filling, is_filled
from ssa_jax.checkpoint import Checkpoints
from ssa_jax.state import Variables
from ssa_jax.torch_weights import LAYOUTS, Conversion, convert

PUBLISHED = LAYOUTS[0]
SUFFIXES = (".pth", ".pt", ".npz", ".safetensors")
FITS = {
    PUBLISHED: "The published weights fit model.encoder='published', model.skip='add', "
    "model.spatial_conv=True, model.kernel_size=9 and data.task='binary'; data.lung_mask is 'none' "
    "for weights of one input channel and 'file' or 'threshold' for two. A torchvision ResNet34 "
    "needs --layout=torchvision.",
    "torchvision": "A torchvision ResNet34 fits model.encoder='torchvision'. The authors' SSA-Net "
    "needs --layout=published.",
}


def main(arguments: list[str]) -> None:
    """Read the flags and import."""
    parser = argparse.ArgumentParser("launch.import_torch", description=__doc__, allow_abbrev=False)
    parser.add_argument("--weights", type=Path, required=True, help="file with the state_dict")
    parser.add_argument("--workdir", type=Path, required=True, help="folder to write, new or empty")
    parser.add_argument("--layout", choices=LAYOUTS, default=PUBLISHED, help="whose names it uses")
    options, config = command.parse_with_config(parser, arguments)
    import_weights(config, options.weights, options.workdir, options.layout)
    print(f"{options.workdir}: holds the weights of {options.weights}")


def import_weights(config: ConfigDict, path: Path, workdir: Path, layout: str) -> None:
    """Write a workdir whose best network has the weights of a file, whole or not at all.

    Raises:
      ValueError: the file cannot be read, or its entries do not fit the network; the entries
        are listed on standard error and nothing is written.
      FileExistsError: the workdir holds something.
    """
    if is_filled(workdir):
        raise FileExistsError(f"{workdir}: is not empty; name a new folder as --workdir")
    variables = _converted(config, path, layout)
    with filling(workdir) as folder:
        setup.save_config(config, folder)
        checkpoints = Checkpoints(folder)
        checkpoints.save_best(0, variables, {"imported_from": path.name})
        checkpoints.close()


def _converted(config: ConfigDict, path: Path, layout: str) -> Variables:
    """The network's variables with the file's weights; shapes alone tell whether they fit."""
    state_dict = read_state_dict(path)
    shapes = jax.eval_shape(lambda: setup.fresh_variables(config))
    conversion = convert(state_dict, shapes, layout)
    _check(conversion, path, layout)
    if layout == PUBLISHED:  # every weight is in the file
        return conversion.variables
    return convert(state_dict, setup.fresh_variables(config), layout).variables


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """PyTorch's names to float32 arrays; a wrapping 'state_dict' and 'module.' prefixes go.

    Raises:
      ValueError: not such a file, damaged, not finite, or PyTorch is needed and absent.
      FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; --weights takes {', '.join(SUFFIXES)}")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: the ending is {path.suffix!r}; expected one of {SUFFIXES}")
    read = {".npz": _read_npz, ".safetensors": _read_safetensors}.get(path.suffix, _read_torch)
    entries = {name.removeprefix("module."): array for name, array in read(path).items()}
    for name, array in entries.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} holds values that are not finite; save it again")
    return entries


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
    """A .pth or .pt file's state_dict; nothing in the file is executed."""
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path}: reading {path.suffix} needs PyTorch. Install it (pip install torch), or "
            "save the state_dict as .npz or .safetensors where PyTorch is."
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


def _check(conversion: Conversion, path: Path, layout: str) -> None:
    """List what does not fit, and stop if anything does not."""
    kinds = ("missing", "extra", "misshapen")
    listings = {kind: getattr(conversion, kind) for kind in kinds}
    for kind, entries in listings.items():
        for entry in entries:
            print(f"{kind}: {entry}", file=sys.stderr)
    if any(listings.values()):
        counts = ", ".join(f"{len(listings[kind])} {kind}" for kind in kinds)
        raise ValueError(f"{path}: {counts} (listed above). {FITS[layout]}")


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
