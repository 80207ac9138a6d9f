"""The weights that a training starts from: drawn, of another workdir, or pretrained.

A pretrained network lies beside the records, in `data.data_dir/pretrained`, so that folds, rounds,
seeds and variants that start alike share it.
"""

import importlib
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import configs
from input_pipeline.verified import value_sha256
from ssa_jax.experiment import factory, workdir
from ssa_jax.experiment.settings import Settings
from ssa_jax.training.state import Variables

FOLDER = "pretrained"
SHOWN = 12  # characters of a hash in a folder's name
# What a pretrained network takes from the settings of the training that starts from it; the rest is
# its own configuration's.
TAKEN = ("seed", "model", "attention", "loss")
TAKEN_DATA = ("task", "image_size", "lung_mask", "lung_dilation", "grey_values")
ALSO_TAKEN = {"data.cache_gb": 0.0, "data.workers": 0}  # which change no number


def initial_variables(settings: Settings, train: Callable[[Settings, Path], Any]) -> Variables:
    """Draw fresh variables, read those of `train.init_from`, or pretrain them.

    Args:
        settings: of the network and the training.
        train: trains settings in a workdir to the end, or does nothing if that is done.

    Raises:
        FileNotFoundError: the workdir `train.init_from` has no network.
        ValueError: its network has other parameters, or as `pretraining_of`.
    """
    if settings.train.pretrain:
        check_initial(settings)
        before = pretraining_of(settings)
        folder = pretraining_folder(before)
        train(before, folder)
        return workdir.trained_variables(settings, folder, "last")[0]
    if settings.train.init_from:
        return workdir.trained_variables(settings, Path(settings.train.init_from), "best")[0]
    return factory.fresh_variables(settings)


def check_initial(settings: Settings) -> None:
    """Check where the initial weights come from, before anything is trained.

    Args:
        settings: of the training.

    Raises:
        ValueError: as `pretraining_of`, or two sources are named.
        FileNotFoundError: the workdir `train.init_from` has no network.
    """
    if settings.train.pretrain and settings.train.init_from:
        raise ValueError(
            f"train.pretrain is {settings.train.pretrain!r} and train.init_from "
            f"{settings.train.init_from!r}; expected one of them"
        )
    if settings.train.pretrain:
        factory.check(pretraining_of(settings))
    elif settings.train.init_from:
        workdir.trained_variables(settings, Path(settings.train.init_from), "best")


def pretraining_of(settings: Settings) -> Settings:
    """Return the settings of the training that `train.pretrain` names.

    Args:
        settings: of the training that starts from it.

    Raises:
        ValueError: no such configuration, or one that is pretrained itself.
    """
    name = settings.train.pretrain
    known = sorted(path.stem for path in Path(configs.__file__).parent.glob("[!_]*.py"))
    if name not in known:
        raise ValueError(f"train.pretrain is {name!r}; expected one of {', '.join(known)}")
    own = Settings.from_config(importlib.import_module(f"configs.{name}").get_config())
    if own.train.pretrain:
        raise ValueError(
            f"train.pretrain is {name!r}, which is pretrained itself; expected another"
        )
    groups = {name: getattr(settings, name) for name in TAKEN}
    fields = {f"data.{name}": getattr(settings.data, name) for name in TAKEN_DATA}
    fields |= {name: attrgetter(name)(settings) for name in (*workdir.PLACES, *ALSO_TAKEN)}
    return own.replace(groups | fields)


def pretraining_folder(settings: Settings) -> Path:
    """Return the workdir of a pretraining, by what its numbers depend on.

    Args:
        settings: see `pretraining_of`.
    """
    places = dict.fromkeys(workdir.PLACES, "") | ALSO_TAKEN
    key = value_sha256(settings.replace(places).to_dict())[:SHOWN]
    return Path(settings.data.data_dir) / FOLDER / f"{settings.data.name}-{key}"
