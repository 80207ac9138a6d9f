"""Train and compare variants: `ssa-jax sweep --config C --workdir W --grid seed=0,1,2 [--folds 5]`.

The variants are all combinations of --grid's values (seed=0,1,2 model.kernel_size=5,9), or those
that the configuration file names in `get_variants`. Each is trained in W/VARIANT and scored with
its last checkpoint on the validation slices, or with --folds in every fold of the training slices,
the first fold of all variants before the second of any. After each training W/comparison holds
what `ssa-jax compare` writes, all variants against the first. Interrupted, the same command
resumes; a variant that was added is trained too. --jobs trains several side by side: on a GPU that
a training leaves idle half of the time, or on a CPU, whose cores they divide.
"""

import itertools
import os
import sys
from collections.abc import Sequence
from functools import partial

from launch import cli, configuration
from ssa_jax.experiment.comparison import OUTPUTS, comparison_text
from ssa_jax.experiment.sweep import sweep


def main(arguments: list[str]) -> None:
    """Read the flags, train and score every variant, and print the comparison."""
    parser = cli.make_parser("sweep", __doc__)
    parser.add_argument(
        "--workdir", type=cli.local_path, required=True, help="folder for all variants"
    )
    parser.add_argument(
        "--grid", nargs="+", metavar="FIELD=V,V", help="[the variants of the configuration file]"
    )
    parser.add_argument("--folds", type=int, default=0, help="number of folds [0: no folds]")
    parser.add_argument(
        "--rounds", action="store_true", help="rounds of pseudo-labels, as self_train"
    )
    parser.add_argument(
        "--shard",
        type=cli.shard,
        default=(1, 1),
        metavar="I/N",
        help="train the I-th of N parts of the variants, for N jobs side by side; the same command "
        "without it then compares them all",
    )
    parser.add_argument(
        "--jobs",
        type=cli.positive_int,
        default=1,
        help="trainings side by side, without progress [1]",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options, fields = configuration.parse_with_config(parser, arguments)
    if options.jobs > 1:  # the workers share a GPU's memory; to be set before JAX finds the GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    chosen = combinations(options.grid) if options.grid else named(options.config)
    variants = {
        name: configuration.read_settings(options.config, fields + changes)
        for name, changes in chosen.items()
    }
    compared = sweep(
        variants,
        options.workdir,
        folds=options.folds,
        rounds=options.rounds,
        quiet=options.quiet,
        echo=partial(print, flush=True),
        shard=options.shard,
        jobs=options.jobs,
        prepare=cli.prepare_jax,
    )
    if compared is None:
        return
    print(f"\n{comparison_text(compared)}")
    print(f"\n{', '.join(str(options.workdir / 'comparison' / name) for name in OUTPUTS)}")


def combinations(grid: Sequence[str]) -> dict[str, list[str]]:
    """Combine all values of the fields of a grid.

    Args:
        grid: each such as 'model.kernel_size=5,9'.

    Returns:
        The flags of each variant, by a name such as 'seed=0 kernel_size=5'.

    Raises:
        ValueError: no field, no value, or one that is named twice.
    """
    values: dict[str, list[str]] = {}
    for text in grid:
        field, _, listed = text.partition("=")
        found = listed.split(",")
        if not field or field in values or not all(found) or len(set(found)) < len(found):
            raise ValueError(f"--grid {text}; expected each field once, as FIELD=V,V, values apart")
        values[field] = found
    short = [field.rpartition(".")[2] for field in values]
    labels = short if len(set(short)) == len(short) else list(values)
    return {
        " ".join(f"{label}={value}" for label, value in zip(labels, chosen, strict=True)): [
            f"--config.{field}={value}" for field, value in zip(values, chosen, strict=True)
        ]
        for chosen in itertools.product(*values.values())
    }


def named(file: str) -> dict[str, list[str]]:
    """Return the flags of each variant that a configuration file names.

    Args:
        file: see `configuration.read_settings`.

    Raises:
        ValueError: it names none.
        FileNotFoundError: no such file.
    """
    variants = configuration.variants_of(file)
    if not variants:
        raise ValueError(f"{file}: names no variants in get_variants; add --grid FIELD=V,V")
    return {
        name: [f"--config.{field}={value}" for field, value in fields.items()]
        for name, fields in variants.items()
    }


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
