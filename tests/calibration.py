"""Print how well the probabilities of trained networks are calibrated, before and after.

    python -m tests.calibration W/fold_1 W/fold_2 ... [--out reliability.png]

The workdirs are those of the folds of one cross-validation, each scored on its held-out slices. The
temperature of a fold is fitted on the held-out slices of the other folds, so that no slice takes
part in the temperature that it is measured with. Printed are the temperatures, the expected
calibration error over all pixels where a lesion's probability is 1% or more, and the share of right
pixels among those above 0.95 and 0.9, each before and after; --out draws the reliability.
"""

import argparse
from pathlib import Path

import numpy as np

import ssa_jax
from input_pipeline.files import write_bytes
from ssa_jax.evaluation.text_table import format_rows
from ssa_jax.experiment import data
from ssa_jax.figures.drawing import png_bytes
from ssa_jax.figures.reliability import reliability_diagram
from ssa_jax.semi_supervised.calibration import (
    Reliability,
    fit_temperature,
    reliability,
    tempered,
)

Pairs = list[tuple[np.ndarray, np.ndarray]]  # probabilities [H, W, K] and mask [H, W]
SURE = (0.95, 0.9)


def held_out(workdir: Path, which: str) -> Pairs:
    """The predictions of a network for its validation slices, with their truth."""
    network = ssa_jax.load(workdir, which)
    slices = data.evaluation_slices(network.settings, workdir, data.VALIDATION)
    return [(made.prob, made.slice.mask) for made in network.predict(slices)]


def right_above(pairs: Pairs, least: float) -> float:
    """The share of right pixels among those that are called lesion with a probability above."""
    right = counted = 0
    for prob, mask in pairs:
        sure = (prob.argmax(axis=-1) > 0) & (prob.max(axis=-1) > least)
        counted += int(sure.sum())
        right += int((prob.argmax(axis=-1) == mask)[sure].sum())
    return right / max(counted, 1)


def rows(named: dict[str, Pairs]) -> tuple[list[list[str]], dict[str, Reliability]]:
    """A line for before and after, and what is drawn."""
    lines = [["", "calibration error", *(f"right above {least}" for least in SURE)]]
    drawn = {}
    for name, pairs in named.items():
        drawn[name] = reliability(pairs)
        shares = [f"{right_above(pairs, least):.3f}" for least in SURE]
        lines.append([name, f"{drawn[name].error:.3f}", *shares])
    return lines, drawn


def main() -> None:
    """Read the arguments, print the table and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdirs", nargs="+", type=Path, help="two or more")
    parser.add_argument("--which", default="last")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if len(options.workdirs) < 2:
        parser.error("one workdir; expected those of two folds or more")
    parts = [held_out(workdir, options.which) for workdir in options.workdirs]
    temperatures, after = [], []
    for number, part in enumerate(parts):
        others = [pair for k, other in enumerate(parts) if k != number for pair in other]
        temperatures.append(fit_temperature(others))
        after += [(tempered(prob, temperatures[-1]), mask) for prob, mask in part]
    before = [pair for part in parts for pair in part]
    lines, drawn = rows({"before": before, "after": after})
    print(f"{len(before)} slices, temperatures {', '.join(f'{t:.2f}' for t in temperatures)}")
    print("\n".join(format_rows(lines)))
    if options.out is not None:
        write_bytes(options.out, png_bytes(reliability_diagram(drawn)))


if __name__ == "__main__":
    main()
