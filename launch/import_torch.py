"""Start from PyTorch weights: `python -m launch.import_torch --weights F --config C --workdir W`.

F is a state_dict: .npz or .safetensors (no PyTorch needed), or .pth/.pt (with PyTorch installed).
Layout 'published' is the authors' SSA-Net; it fits a configuration with model.skip='add'. Layout
'torchvision' is a ResNet34 for the encoder alone; it fits model.encoder='torchvision'.
The workdir then serves launch.evaluate, launch.predict and --config.train.init_from.
"""

import argparse
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from ml_collections import ConfigDict

from launch import command, setup
from ssa_jax.checkpoint import Checkpoints
from ssa_jax.torch_weights import LAYOUTS, Conversion, convert

SUFFIXES = (".pth", ".pt", ".npz", ".safetensors")


def main(arguments: list[str]) -> None:
    """Read the flags and import."""
    parser = argparse.ArgumentParser("launch.import_torch", description=__doc__, allow_abbrev=False)
    parser.add_argument("--weights", type=Path, required=True, help="file with the state_dict")
    parser.add_argument("--workdir", type=Path, required=True, help="folder to write, new or empty")
    parser.add_argument("--layout", choices=LAYOUTS, default=LAYOUTS[0], help="whose names it uses")
    options, config = command.parse_with_config(parser, arguments)
    count = import_weights(config, options.weights, options.workdir, options.layout)
    print(f"Imported {count} arrays: {options.workdir}")


def import_weights(config: ConfigDict, path: Path, workdir: Path, layout: str) -> int:
    """Write a workdir whose best network has the weights of a file.

    Returns:
      The number of arrays that came from the file.

    Raises:
      ValueError: the file cannot be read, or its entries do not fit the network; the entries
        are listed on standard error and nothing is written.
      FileExistsError: the workdir already holds a network.
    """
    if (workdir / "config.json").exists():
        raise FileExistsError(f"{workdir}: already holds a network. Name a new --workdir.")
    state_dict = read_state_dict(path)
    conversion = convert(state_dict, setup.fresh_variables(config), layout)
    _check(conversion, path)
    setup.save_config(config, workdir)
    checkpoints = Checkpoints(workdir)
    checkpoints.save_best(0, conversion.variables, {"imported_from": path.name})
    checkpoints.close()
    return len(state_dict)


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """PyTorch's names to arrays; a wrapping 'state_dict' entry and 'module.' prefixes go.

    Raises:
      ValueError: not such a file, damaged, or PyTorch is needed and absent.
      FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; --weights takes {', '.join(SUFFIXES)}.")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: the ending is {path.suffix!r}; expected one of {SUFFIXES}.")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                entries: Mapping[str, Any] = dict(file)
        elif path.suffix == ".safetensors":
            entries = safetensors.numpy.load_file(path)
        else:
            entries = _load_torch(path)
    except (zipfile.BadZipFile, EOFError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path}: damaged or not a {path.suffix} file ({error}).") from error
    return {name.removeprefix("module."): np.asarray(x) for name, x in entries.items()}


def _load_torch(path: Path) -> Mapping[str, Any]:
    """A .pth file's state_dict as numpy arrays; nothing in the file is executed."""
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
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: PyTorch cannot read it as weights ({reason}).") from error
    inner = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(inner, dict) or not all(hasattr(x, "numpy") for x in inner.values()):
        raise ValueError(f"{path}: holds {type(inner).__name__}, expected a state_dict of tensors.")
    return {name: tensor.detach().float().numpy() for name, tensor in inner.items()}


def _check(conversion: Conversion, path: Path) -> None:
    """List what does not fit, and stop if anything does not."""
    kinds = ("missing", "extra", "misshapen")
    listings = {kind: getattr(conversion, kind) for kind in kinds}
    for kind, entries in listings.items():
        for entry in entries:
            print(f"{kind}: {entry}", file=sys.stderr)
    if any(listings.values()):
        counts = ", ".join(f"{len(listings[kind])} {kind}" for kind in kinds)
        raise ValueError(
            f"{path}: {counts} (listed above). The published weights need "
            "model.encoder='published', model.skip='add', data.task='binary' and, with one input "
            "channel, data.lung_mask='none'; torchvision's need --layout=torchvision and "
            "model.encoder='torchvision'."
        )


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
