"""The workdir: settings and checkpoints of a training, and the folders of rounds."""

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import jax

from input_pipeline.files import write_json
from input_pipeline.verified import read_signed, signed
from ssa_jax.experiment import factory, provenance
from ssa_jax.experiment.data_changes import DATA_FILE
from ssa_jax.experiment.settings import Settings
from ssa_jax.training import metric_log
from ssa_jax.training.checkpoint import WHICH, Checkpoints, steps_in
from ssa_jax.training.state import Variables

CONFIG_FILE = "config.json"
FOLDS_FILE = "folds.json"  # in the folder of a cross-validation
DIVERGED_FILE = "diverged.json"  # there after a loss that was not finite, until a training goes on
MEND = "restore it from a copy, or name another --workdir"

# Fields that another command in the workdir may change, as what was trained stays what it is.
PLACES = ("data.source_dir", "data.data_dir")  # the slices are compared by hash instead
SAME_NUMBERS = (
    *PLACES,
    "data.cache_gb",
    "data.workers",
    "train.mapping",
    "model.spatial_conv_impl",
    "eval.batch_size",
)
# Of a single training, which goes on with the new value; `self_train.*` is read there by an online
# teacher alone.
GOES_ON = (*SAME_NUMBERS, "train.epochs", "train.validate_every", "eval.tolerance", "self_train.*")
# Of a training that diverged, besides: it goes on from the last good checkpoint.
AGAINST_DIVERGENCE = (
    "optim.learning_rate",
    "optim.warmup_epochs",
    "optim.clip_norm",
    "optim.skip_nonfinite",
    "model.dtype",
)


def goes_on(settings: Settings) -> tuple[str, ...]:
    """Return the fields that may change when a single training goes on.

    Args:
        settings: of the training.
    """
    if settings.train.consistency:
        return tuple(name for name in GOES_ON if name != "self_train.*")
    return GOES_ON


def save_settings(
    settings: Settings, workdir: Path, may_change: Collection[str] = SAME_NUMBERS
) -> None:
    """Write the settings to the workdir, or check that it holds the same ones.

    Args:
        settings: of the training.
        workdir: folder of the training.
        may_change: see `changed_settings`.

    Raises:
        ValueError: as `changed_settings`.
        OSError: the file cannot be written.
    """
    path = workdir / CONFIG_FILE
    if changed_settings(settings, workdir, may_change) or not path.exists():
        write_settings(settings, workdir)


def write_settings(settings: Settings, workdir: Path) -> None:
    """Write the settings to the workdir, whatever it holds.

    Args:
        settings: of the training.
        workdir: folder of the training.

    Raises:
        OSError: the file cannot be written.
    """
    write_json(workdir / CONFIG_FILE, signed(settings.to_dict()))


def changed_settings(
    settings: Settings, workdir: Path, may_change: Collection[str] = SAME_NUMBERS
) -> list[str]:
    """Return the fields that differ from the workdir's, all of which may; write nothing.

    Args:
        settings: of the training.
        workdir: folder of the training; it may be new.
        may_change: fields by dotted name, or 'group.*'. Where no hashes of the slices are stored
            (older versions), `PLACES` may not.

    Returns:
        'train.epochs is 20 now and was 10', ...

    Raises:
        ValueError: another field differs (each is named, with both values), or the settings are
            missing although checkpoints are there, or damaged.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        if has_checkpoints(workdir):
            raise ValueError(
                f"{path}: not found, though checkpoints are there, expected the configuration they "
                f"were trained with; {MEND}"
            )
        return []
    there, here = load_settings(workdir).flat(), settings.flat()
    differing = [name for name in here if here[name] != there[name]]
    free = set(may_change)
    if (workdir / DIVERGED_FILE).exists():
        free |= set(AGAINST_DIVERGENCE)
    if not (workdir / DATA_FILE).exists():
        free -= set(PLACES)
    refused = [k for k in differing if not {k, f"{k.partition('.')[0]}.*"} & free]
    if refused:
        listed = "; ".join(f"{k} is {here[k]!r} here and {there[k]!r} there" for k in refused)
        raise ValueError(
            f"{path}: the workdir was made with another configuration: {listed}; use that "
            "configuration to resume, or another --workdir to start anew "
            f"(what may change: {', '.join(sorted(free))})"
        )
    return [f"{name} is {here[name]!r} now and was {there[name]!r}" for name in differing]


def load_settings(workdir: Path) -> Settings:
    """Read the settings that a workdir was made with.

    Args:
        workdir: folder of a training.

    Raises:
        FileNotFoundError: the folder is no workdir.
        ValueError: its configuration cannot be read, or is damaged.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: not found; expected the folder that `ssa-jax train` or "
            f"`ssa-jax import_torch` wrote{_networks_within(workdir)}"
        )
    stored = read_signed(path, MEND)
    try:
        return Settings.from_dict(stored)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        reason = str(error).partition(" Other fields")[0].strip("'\"")
        raise ValueError(f"{path}: not a configuration of this version ({reason})") from error


def has_checkpoints(workdir: Path, which: Collection[str] = WHICH) -> bool:
    """Return whether there is a checkpoint.

    Args:
        workdir: folder of a training.
        which: of 'best' and 'last'.
    """
    return any(steps_in(workdir / "checkpoints" / name) for name in which)


def require_not_lost(workdir: Path, which: Collection[str] = WHICH) -> None:
    """Check that checkpoints are not gone which the records of a workdir say were there.

    Args:
        workdir: folder of a training.
        which: of 'best' and 'last'; one that is there is enough.

    Raises:
        FileNotFoundError: they are gone.
        ValueError: a record is damaged.
    """
    if has_checkpoints(workdir, which):
        return
    tells = [provenance.FILE] if provenance.says_saved(workdir) else []
    if not tells and metric_log.shows_checkpoint(workdir):
        tells = [metric_log.FILE]
    if tells:
        folder = workdir / "checkpoints"
        raise FileNotFoundError(
            f"{folder if len(which) > 1 else folder / min(which)}: no checkpoint, though "
            f"{tells[0]} says that the network was saved; restore the folder from a copy, or "
            "train anew in another --workdir"
        )


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
    require_not_lost(workdir)
    like = jax.eval_shape(lambda: factory.fresh_variables(settings))
    checkpoints = Checkpoints(workdir)
    return checkpoints.restore_variables(which, like)


def with_folds(folders: Iterable[Path]) -> list[Path]:
    """Replace folders of `ssa-jax cross_validate` by the workdirs of their folds.

    Args:
        folders: of networks.

    Raises:
        ValueError: a network is named twice, or the list of folds is damaged.
    """
    found: list[Path] = []
    for folder in folders:
        if (folder / FOLDS_FILE).exists():
            count = len(read_signed(folder / FOLDS_FILE, MEND)["folds"])
            found += [folder / f"fold_{number}" for number in range(1, count + 1)]
        else:
            found.append(folder)
    twice = [str(folder) for folder, count in Counter(found).items() if count > 1]
    if twice:
        raise ValueError(f"{', '.join(twice)}: named twice; expected each network once")
    return found


def round_folder(workdir: Path, number: int) -> Path:
    """Return the workdir of one round of `ssa-jax self_train`.

    Args:
        workdir: folder of all rounds.
        number: of the round, 1 or more.
    """
    return workdir / f"round_{number:02d}"


def _networks_within(workdir: Path) -> str:
    """Compose a hint at the networks in folders of rounds or folds, '' where there are none."""
    inside = sorted(path.parent.name for path in workdir.glob("*/checkpoints"))
    return f"; its folders {', '.join(inside)} hold networks: name one of them" if inside else ""
