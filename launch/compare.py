"""Compare evaluated networks, case by case: `ssa-jax compare A=W1 B=W2 C=W3,W4 [--out FOLDER]`.

Each network is NAME=PATH, NAME=PATH,PATH or PATH; the first is the reference. A path is a folder
with the `cases.csv` of evaluate, cross_validate, self_train (its test/) or score, or a workdir with
one of them in it. Several paths of a network are seeds or parts: a case counts with the mean of
those that hold it. Cases are paired by name, whatever fold held them out.

Prints for each class and their average the mean of each network, its difference from the reference
with an interval by bootstrap over patients, Wilcoxon's signed-rank p with Holm's correction, and
how many cases are better, equal and worse. --out writes that as comparison.md, comparison.tex
(booktabs), comparison.json and comparison.png, the difference in each case.
"""

import sys

from launch import cli
from ssa_jax.evaluation.comparison import METRICS
from ssa_jax.experiment.comparison import OUTPUTS, compare_networks, comparison_text


def main(arguments: list[str]) -> None:
    """Read the flags, compare and print the table."""
    parser = cli.make_parser("compare", __doc__)
    parser.add_argument(
        "networks", nargs="+", metavar="NAME=PATH[,PATH...]", help="two or more, reference first"
    )
    parser.add_argument("--metric", choices=tuple(METRICS), default="dsc", help="[dsc]")
    parser.add_argument(
        "--common",
        action="store_true",
        help="compare the cases that all networks have, instead of refusing others",
    )
    parser.add_argument("--out", type=cli.local_path, help="folder to write to")
    options = parser.parse_args(arguments)
    result = compare_networks(
        options.networks, metric=options.metric, common=options.common, out=options.out
    )
    print(comparison_text(result))
    if options.out is not None:
        print(f"\n{', '.join(str(options.out / name) for name in OUTPUTS)}")


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
