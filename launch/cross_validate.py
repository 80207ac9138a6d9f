"""Cross-validate: `ssa-jax cross_validate --config C --workdir W [--scheme ma]`.

Deals the patients of 'train' out to folds (kept in W/folds.json), trains a network per fold in
W/fold_1, W/fold_2, ... and scores it on the patients it has not seen, with the last checkpoint, so
that no fold chooses its own best. Interrupted, the same command resumes where it was. At the end
W/metrics.json and the table printed hold all folds: mean and interval over patients.
"""

import sys
from functools import partial

from input_pipeline.splits import SCHEMES
from launch import cli, configuration
from ssa_jax.evaluation.summary import format_table
from ssa_jax.experiment.cross_validation import cross_validate


def main(arguments: list[str]) -> None:
    """Read the flags, train and score every fold, and print the table."""
    parser = cli.make_parser("cross_validate", __doc__)
    parser.add_argument(
        "--workdir", type=cli.local_path, required=True, help="folder for all folds"
    )
    parser.add_argument("--folds", type=int, default=5, help="number of folds [5]")
    parser.add_argument(
        "--scheme",
        choices=SCHEMES,
        default="usual",
        help="usual trains on all parts but one, ma on one part [usual]",
    )
    parser.add_argument(
        "--rounds", action="store_true", help="rounds of pseudo-labels in each fold, as self_train"
    )
    cli.add_process_flags(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options, settings = configuration.parse_with_settings(parser, arguments)
    summary = cross_validate(
        settings,
        options.workdir,
        folds=options.folds,
        scheme=options.scheme,
        rounds=options.rounds,
        quiet=options.quiet,
        echo=partial(print, flush=True),
    )
    print(format_table(summary))
    print(f"\n{options.workdir / 'metrics.json'}, {options.workdir / 'cases.csv'}")


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
