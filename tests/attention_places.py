"""Print where the attention maps of trained networks look: border, lungs or lesion.

    python -m tests.attention_places W... [--split validation] [--which last]

A network is a workdir, or one of `cross_validate`, of which all folds that are trained count.
For each of the four maps (energies of the encoder's stages, equation 1): the share of slices whose
maximum lies in the outermost 5% of the picture, in the lungs, and in a lesion; the share of the
lesion's pixels among the strongest tenth of the map (0.1 by chance); and the share of slices in
which the strongest pixel of this map and the next deeper one are the same, in squares of 1/8 of a
side, as the attention loss wants. Means over the slices with a lesion, each with a 95% interval by
bootstrap over slices.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from input_pipeline.preprocess import lung_of
from ssa_jax.evaluation.paired import Interval, Score, mean_interval
from ssa_jax.evaluation.summary import interval_text
from ssa_jax.evaluation.text_table import format_rows
from ssa_jax.experiment import data
from ssa_jax.experiment import workdir as workdirs
from ssa_jax.experiment.network import compile_network

BORDER, STRONGEST, SQUARES = 0.05, 0.1, 8
WHERE = ("border", "lungs", "lesion", "lesion in strongest tenth", "same place as next")


def places(
    maps: np.ndarray, mask: np.ndarray, lung: np.ndarray | None
) -> list[Mapping[str, float | None]]:
    """Where the maps of a slice look, a row for each of the stages, the shallowest first.

    maps is [H, W, 4], mask [H, W] the class index, lung [H, W] 1 inside the lungs.
    """
    shape, lesion = mask.shape, mask > 0
    tops = [np.unravel_index(int(np.argmax(maps[..., k])), shape) for k in range(maps.shape[-1])]
    squares = [tuple(SQUARES * t // n for t, n in zip(top, shape, strict=True)) for top in tops]
    rows: list[Mapping[str, float | None]] = []
    for stage, top in enumerate(tops):
        edge = min(min(t, n - 1 - t) / n for t, n in zip(top, shape, strict=True))
        strong = maps[..., stage] >= np.quantile(maps[..., stage], 1 - STRONGEST)
        following = squares[stage + 1] if stage + 1 < len(tops) else None
        values = (
            float(edge < BORDER),
            None if lung is None else float(lung[top] > 0),
            float(lesion[top]),
            float(strong[lesion].mean()),
            None if following is None else float(squares[stage] == following),
        )
        rows.append(dict(zip(WHERE, values, strict=True)))
    return rows


def with_interval(values: np.ndarray) -> Interval:
    """Mean and 95% interval by bootstrap over slices."""
    return mean_interval([Score(str(k), str(k), "", float(v)) for k, v in enumerate(values)])


def table(folder: Path, split: str, which: str) -> str:
    """The table of one network."""
    folds = [one for one in workdirs.with_folds([folder]) if workdirs.has_checkpoints(one, [which])]
    if not folds:
        raise SystemExit(f"{folder}: no network is trained there")
    settings = workdirs.load_settings(folds[0])
    network = compile_network(settings)
    found: list[list[Mapping[str, float | None]]] = []
    for fold in folds:
        variables, _ = workdirs.trained_variables(settings, fold, which)
        made = network(variables)
        for prediction in made.predict(data.evaluation_slices(settings, fold, split)):
            item = prediction.slice
            if item.mask is not None and item.mask.any():
                lung = lung_of(item, made.preprocessing)
                found.append(places(prediction.attention(), item.mask, lung))
    lines = [[f"{folder.name}: {len(found)} slices", *WHERE]]
    for stage in range(4):
        cells = []
        for what in WHERE:
            values = [rows[stage][what] for rows in found]
            known = np.array([value for value in values if value is not None])
            cells.append(interval_text(with_interval(known), ".2f") if len(known) else "-")
        lines.append([f"stage {stage + 1}", *cells])
    return "\n".join(format_rows(lines))


def main() -> None:
    """Read the arguments and print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--which", default="last")
    options = parser.parse_args()
    for folder in options.workdirs:
        print(table(folder, options.split, options.which), flush=True)


if __name__ == "__main__":
    main()
