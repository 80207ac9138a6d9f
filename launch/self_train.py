"""Rounds of pseudo-labels: `ssa-jax self_train --config C --workdir W` (section 3.2.2).

Round 1 trains on the labelled slices. After each round its network labels unlabelled slices through
the trust module (eq. 9): those that `self_train.slices_per_round` newly draws and those added
before, for nothing else is trained on. The next round trains a new network on all of them, with
class weights from their pixels (eq. 8). It stops when the validation DSC no longer improves and
scores the best round on the test split, once; with self_train.choose=last all rounds are trained
and the last one is scored.

W/round_01, round_02, ... are ordinary workdirs (evaluate and predict take them; the last checkpoint
counts, so that a round does not choose its own best) that also hold `pseudo/`, the labels for the
next round, and `round.json`. W holds rounds.csv, curves.png, report.html and test/. Interrupted or
killed, the same command resumes and ends with the same bits.
"""

import sys
from functools import partial

from launch import cli, configuration
from ssa_jax.evaluation.summary import format_table
from ssa_jax.experiment.data import TEST
from ssa_jax.experiment.rounds import BEST, self_train
from ssa_jax.experiment.rounds_reporting import ReportWriter
from ssa_jax.experiment.workdir import round_folder


def main(arguments: list[str]) -> None:
    """Read the flags and run the rounds."""
    parser = cli.make_parser("self_train", __doc__)
    parser.add_argument(
        "--workdir", type=cli.local_path, required=True, help="folder for all rounds"
    )
    cli.add_process_flags(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options, settings = configuration.parse_with_settings(parser, arguments)
    observer = ReportWriter(partial(print, flush=True))
    summary = self_train(settings, options.workdir, observer=observer, quiet=options.quiet)
    best = round_folder(options.workdir, summary["best_round"])
    kept = "Best round" if settings.self_train.choose == BEST else "Round kept, the last one"
    print(f"\n{kept}: {summary['best_round']} of {summary['rounds']}.")
    print(f"Its network: --workdir {best} --which last, for predict and evaluate.")
    if summary[TEST] is not None:
        print(f"{TEST} split, network of round {summary['best_round']}:")
        print(format_table(summary[TEST]))
    print(f"\n{options.workdir / 'report.html'}, {options.workdir / 'rounds.csv'}")


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
