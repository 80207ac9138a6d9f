"""Table 4 of the paper: `ssa-jax ablate_self_train --config C --workdir W --seeds 3`.

Runs plain supervised training and the rounds of pseudo-labels without and with re-weighting and
trust module, each with the same seeds, labelled slices and steps, and prints the test DSC beside
the paper's. Variants whose first round is the same computation share it. Interrupted, the same
command resumes; W/seed_N/VARIANT are workdirs of self_train.
"""

import sys
from functools import partial

from launch import cli, configuration
from ssa_jax.experiment.ablation import ablate, ablation_table
from ssa_jax.experiment.rounds_reporting import ReportWriter


def main(arguments: list[str]) -> None:
    """Read the flags, run every variant and print the table."""
    parser = cli.make_parser("ablate_self_train", __doc__)
    parser.add_argument("--workdir", type=cli.local_path, required=True, help="folder for all runs")
    parser.add_argument("--seeds", type=cli.positive_int, default=3, help="number of seeds [3]")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options, settings = configuration.parse_with_settings(parser, arguments)
    echo = partial(print, flush=True)
    results = ablate(
        settings,
        options.workdir,
        seeds=options.seeds,
        observer=ReportWriter(echo),
        quiet=options.quiet,
        echo=echo,
    )
    print(f"\n{ablation_table(results, settings.class_names)}")
    print(f"\n{options.workdir / 'ablation.json'}")


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
