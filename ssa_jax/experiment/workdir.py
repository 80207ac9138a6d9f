"""The workdir: settings and checkpoints of a training, and the folders of rounds."""

import json
from pathlib import Path

import jax

from input_pipeline.files import write_json
from ssa_jax.experiment import factory
from ssa_jax.experiment.settings import Settings
from ssa_jax.training.checkpoint import Checkpoints
from ssa_jax.training.state import Variables

CONFIG_FILE = "config.json"


def save_settings(settings: Settings, workdir: Path) -> None:
    """Write the settings to the workdir, or check that it holds the same ones.

    Args:
        settings: of the training.
        workdir: folder of the training.

    Raises:
        ValueError: the workdir was made with other settings; every difference is named.
        OSError: the file cannot be written.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        write_json(path, settings.to_dict())
        return
    there, here = load_settings(workdir).flat(), settings.flat()
    differing = [
        f"{name} is {here[name]!r} here and {there[name]!r} there"
        for name in here
        if here[name] != there[name]
    ]
    if differing:
        raise ValueError(
            f"{path}: the workdir was made with another configuration: {'; '.join(differing)}; "
            "use that configuration to resume, or another --workdir to start anew"
        )


def load_settings(workdir: Path) -> Settings:
    """Read the settings that a workdir was made with.

    Args:
        workdir: folder of a training.

    Raises:
        FileNotFoundError: the folder is no workdir.
        ValueError: its configuration cannot be read.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: not found; --workdir takes the folder that `ssa-jax train` or "
            f"`ssa-jax import_torch` wrote{_networks_within(workdir)}"
        )
    try:
        return Settings.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        reason = str(error).partition(" Other fields")[0].strip("'\"")
        raise ValueError(f"{path}: not a configuration of this version ({reason})") from error


def trained_variables(settings: Settings, workdir: Path, which: str) -> tuple[Variables, int]:
    """Restore the network of a workdir.

    Args:
        settings: of the network.
        workdir: folder of a training.
        which: checkpoint, 'best' or 'last'.

    Returns:
        The variables on the host, and the step they were saved at.

    Raises:
        FileNotFoundError: no such checkpoint; networks in folders of the workdir are named.
        ValueError: the checkpoint is of another network, or damaged.
    """
    within = _networks_within(workdir)
    if within and not (workdir / "checkpoints").exists():
        raise FileNotFoundError(f"{workdir}: no network of its own{within}")
    like = jax.eval_shape(lambda: factory.fresh_variables(settings))
    checkpoints = Checkpoints(workdir, create=False)
    try:
        return checkpoints.restore_variables(which, like)
    finally:
        checkpoints.close()


def round_folder(workdir: Path, number: int) -> Path:
    """Return the workdir of one round of `ssa-jax self_train`.

    Args:
        workdir: folder of all rounds.
        number: of the round, 1 or more.
    """
    return workdir / f"round_{number:02d}"


def keep_compiled(workdir: Path) -> None:
    """Store what XLA compiles in a workdir, for its other trainings and for a resumed run.

    Args:
        workdir: folder of all trainings.
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str((workdir / "compiled").absolute()))


def _networks_within(workdir: Path) -> str:
    """Compose a hint at the networks in folders of rounds or folds, '' where there are none."""
    inside = sorted(path.parent.name for path in workdir.glob("*/checkpoints"))
    return f"; its folders {', '.join(inside)} hold networks: name one of them" if inside else ""
