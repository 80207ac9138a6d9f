"""Score a trained network: `python -m launch.evaluate --workdir W --split test`.

Prints the table of both metric blocks and writes `metrics.json`, `cases.csv` and, with
`--pictures N`, one overlay for each of the first N slices and all of them in `pictures.png`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from input_pipeline.loader import eval_batches
from input_pipeline.preprocess import Slice, from_grid, normalize
from launch import command, setup
from launch.pictures import SlicePicture, contact_sheet
from launch.writer import progress, write_json, write_table
from ssa_jax.checkpoint import WHICH
from ssa_jax.evaluate import SlicePrediction, predict_slices, score
from ssa_jax.inference import make_predict
from ssa_jax.metrics import CaseRow, format_table, summarize


def main(arguments: list[str]) -> None:
    """Read the options, evaluate and print the table."""
    parser = argparse.ArgumentParser(prog="launch.evaluate", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a trained network")
    parser.add_argument("--split", default="validation", help="train, validation, test, ...")
    parser.add_argument("--which", choices=WHICH, default="best", help="which checkpoint")
    parser.add_argument("--out", type=Path, help="folder to write to [WORKDIR/evaluation/SPLIT]")
    parser.add_argument("--data-dir", type=Path, help="where the records are, if they moved")
    parser.add_argument("--pictures", type=int, default=0, help="slices to draw")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
    config = setup.load_config(options.workdir)
    if options.data_dir is not None:
        with config.unlocked():
            config.data.data_dir = str(options.data_dir.absolute())
    out = options.out or options.workdir / "evaluation" / options.split
    summary = evaluate(
        config,
        options.workdir,
        options.split,
        which=options.which,
        out=out,
        pictures=options.pictures,
        quiet=options.quiet,
    )
    print(format_table(summary))
    print(f"\n{out}/metrics.json, {out}/cases.csv")


def evaluate(
    config: ConfigDict,
    workdir: Path,
    split: str,
    *,
    which: str,
    out: Path,
    pictures: int,
    quiet: bool,
) -> dict[str, Any]:
    """Predict and score every slice of a split; write scores and pictures to `out`.

    Returns:
      The summary of `metrics.summarize`, with split, checkpoint and step.

    Raises:
      ValueError: a split that does not exist or has no labels.
      FileNotFoundError: the workdir has no such checkpoint.
    """
    names = setup.class_names(config)
    slices = setup.evaluation_slices(config, workdir, split)
    variables, step = setup.trained_variables(config, workdir, which)
    predict = make_predict(setup.build_model(config), flip=config.eval.flip)
    batches = eval_batches(slices, setup.preprocessing(config), batch_size=config.eval.batch_size)
    rows: list[CaseRow] = []
    drawn: list[SlicePicture] = []
    with progress(len(slices), quiet=quiet) as bar:
        for prediction in predict_slices(predict, variables, batches, from_grid):
            _check_labelled(prediction.slice, split)
            scored = score(prediction, names, config.eval.tolerance)
            rows += scored
            if len(drawn) < pictures:
                drawn.append(picture(prediction, _title(scored), setup.intensity(config)))
                contact_sheet(
                    out / "pictures" / f"{prediction.slice.id}.png", drawn[-1:], class_names=names
                )
            bar.update()
    summary = summarize(rows) | {"split": split, "checkpoint": which, "step": step}
    write_table(out / "cases.csv", rows)
    write_json(out / "metrics.json", summary)
    if drawn:
        contact_sheet(out / "pictures.png", drawn, class_names=names)
    return summary


def picture(prediction: SlicePrediction, title: str, intensity: str) -> SlicePicture:
    """A prediction as a row of a picture."""
    item = prediction.slice
    return SlicePicture(
        image=normalize(item.image, intensity),
        truth=item.mask,
        prediction=prediction.labels,
        attention=list(prediction.attention.transpose(2, 0, 1)),
        title=title,
    )


def _title(rows: Sequence[CaseRow]) -> str:
    """Name of the slice and its DSC for each class."""
    scores = [row["standard"]["dsc"] for row in rows]
    text = ", ".join("no lesion" if dsc is None else f"{dsc:.2f}" for dsc in scores)
    return f"{rows[0]['case']}\nDSC {text}"


def _check_labelled(item: Slice, split: str) -> None:
    if item.mask is None:
        raise ValueError(f"The split {split!r} has no labels to score; name a labelled split.")


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
