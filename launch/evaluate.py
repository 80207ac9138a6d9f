"""Score a trained network: `python -m launch.evaluate --workdir W --split test`.

Prints the table of both metric blocks and writes `metrics.json`, `cases.csv` (a row for each slice
and class) and, with `--pictures N`, an overlay for each of the first N slices in `pictures/` and
the first 12 of them in `pictures.png`. They replace an earlier evaluation in the same folder.
Where slices make up volumes, the `standard` block is over whole volumes in 3-D (`volumes.csv`) and
`paper_compat` over slices.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from input_pipeline.loader import eval_batches
from input_pipeline.preprocess import Slice, from_grid, normalize
from launch import command, setup
from launch.pictures import SlicePicture, contact_sheet
from launch.writer import filling, progress, write_json, write_table
from ssa_jax.checkpoint import WHICH
from ssa_jax.evaluate import SlicePrediction, VolumeScores, predict_slices, score
from ssa_jax.inference import make_predict
from ssa_jax.metrics import CaseRow
from ssa_jax.summary import format_table, summarize

OUTPUTS = ("metrics.json", "cases.csv", "volumes.csv", "pictures", "pictures.png")
SHEET_ROWS = 12  # of pictures.png
TEXTS = ("unit", "outcome")  # of a case's scores; the others are numbers


def main(arguments: list[str]) -> None:
    """Read the options, evaluate and print the table."""
    parser = argparse.ArgumentParser(prog="launch.evaluate", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a trained network")
    parser.add_argument(
        "--split",
        default=setup.VALIDATION,
        help="train, validation, test, ... [validation]; where the data set has no validation "
        "split, this is the part of train that the training held out",
    )
    parser.add_argument("--which", choices=WHICH, default="best", help="which checkpoint [best]")
    parser.add_argument("--out", type=Path, help="folder to write to [WORKDIR/evaluation/SPLIT]")
    parser.add_argument("--data-dir", type=Path, help="where the records are, if they moved")
    parser.add_argument("--pictures", type=int, default=0, metavar="N", help="slices to draw [0]")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
    if options.pictures < 0:
        parser.error(f"--pictures is {options.pictures}; expected 0 or more")
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
    drawn = f", {out / 'pictures.png'}" if options.pictures else ""
    print(f"\n{out / 'metrics.json'}, {out / 'cases.csv'}{drawn}")


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
    """Predict and score every slice of a split; write scores and pictures to `out`, all or nothing.

    Other files in `out` stay.

    Returns:
      What `metrics.json` holds: the summary of `summary.summarize`, with workdir, split,
      checkpoint, its step, and the configuration's data, model, attention and eval.

    Raises:
      ValueError: a split that does not exist or has no labels.
      FileNotFoundError: the workdir has no such checkpoint.
      FileExistsError: `out` holds files of these names that no evaluation wrote.
    """
    slices = _labelled_slices(config, workdir, split)
    _check_out(out)
    variables, step = setup.trained_variables(config, workdir, which)
    predict = make_predict(setup.build_model(config), flip=config.eval.flip)(variables)
    batches = eval_batches(slices, setup.preprocessing(config), batch_size=config.eval.batch_size)
    predictions = predict_slices(predict, batches, from_grid)
    with (
        filling(out, owned=OUTPUTS) as folder,
        progress(len(slices), quiet=quiet) as bar,
    ):
        rows, volumes = _score_and_draw(config, predictions, folder, pictures, bar.update)
        fields = config.to_dict()
        summary = _summary(rows, volumes) | {
            "workdir": str(workdir),
            "split": split,
            "checkpoint": which,
            "step": step,
            "config": {group: fields[group] for group in ("data", "model", "attention", "eval")},
        }
        write_table(folder / "cases.csv", rows)
        if volumes:
            write_table(folder / "volumes.csv", volumes)
        write_json(folder / "metrics.json", summary)
    return summary


def _labelled_slices(config: ConfigDict, workdir: Path, split: str) -> Sequence[Slice]:
    """The slices of a split that can be scored."""
    try:
        slices = setup.evaluation_slices(config, workdir, split)
    except ValueError as error:
        if config.data.validation_split or split in ("train", setup.VALIDATION):
            raise
        raise ValueError(f"{error}; {setup.VALIDATION} is held out of train") from error
    if len(slices) == 0 or slices[0].mask is None:
        raise ValueError(f"The split {split!r} has no labels to score; name a labelled split.")
    return slices


def _check_out(out: Path) -> None:
    """Only an earlier evaluation may be replaced."""
    there = [name for name in OUTPUTS if (out / name).exists()]
    if there and OUTPUTS[0] not in there:
        raise FileExistsError(
            f"{out / there[0]}: is in the way and of no evaluation; move it or name another --out"
        )


def _score_and_draw(
    config: ConfigDict,
    predictions: Iterable[SlicePrediction],
    folder: Path,
    pictures: int,
    tick: Callable[[], Any],
) -> tuple[list[CaseRow], list[CaseRow]]:
    """Rows of all slices and of the volumes they make up; pictures of the first slices."""
    names = setup.class_names(config)
    rows: list[CaseRow] = []
    volumes = VolumeScores(names, config.eval.tolerance)
    sheet: list[SlicePicture] = []
    for number, prediction in enumerate(predictions):
        scored = score(prediction, names, config.eval.tolerance)
        rows += scored
        volumes.add(prediction)
        if number < pictures:
            row = picture(prediction, _title(scored), setup.intensity(config))
            path = folder / "pictures" / f"{prediction.slice.id}.png"
            contact_sheet(path, [row], class_names=names)
            sheet = [*sheet, row][:SHEET_ROWS]
        tick()
    if sheet:
        contact_sheet(folder / "pictures.png", sheet, class_names=names)
    return rows, volumes.rows()


def _summary(rows: Sequence[CaseRow], volumes: Sequence[CaseRow]) -> dict[str, Any]:
    """Of the volumes where there are any, with the paper's block over their slices."""
    if not volumes:
        return summarize(rows)
    return summarize(volumes) | {"paper_compat": summarize(rows)["paper_compat"]}


def read_rows(folder: Path, prefix: str) -> list[CaseRow]:
    """The cases of an evaluation: volumes where there are any, else slices.

    Args:
      folder: what `evaluate` filled.
      prefix: goes before the name of each case.
    """
    path = folder / "volumes.csv"
    path = path if path.exists() else folder / "cases.csv"
    rows: list[CaseRow] = []
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            row: dict[str, Any] = {"case": prefix + line["case"]}
            row |= {name: line[name] for name in ("patient", "class_name")}
            for name, text in line.items():
                block, _, metric = name.partition(".")
                if metric:
                    value = text if metric in TEXTS else float(text) if text else None
                    row.setdefault(block, {})[metric] = value
            rows.append(row)  # type: ignore[arg-type]
    return rows


def picture(prediction: SlicePrediction, title: str, intensity: str) -> SlicePicture:
    """A prediction as a row of a picture."""
    item = prediction.slice
    return SlicePicture(
        image=normalize(item.image, intensity),
        truth=item.mask,
        prediction=prediction.labels,
        attention=list(prediction.attention().transpose(2, 0, 1)),
        title=title.replace("$", r"\$"),  # matplotlib reads formulas between dollars
    )


def _title(rows: Sequence[CaseRow]) -> str:
    """Name of the slice and its DSC for each class."""
    scores = {row["class_name"]: row["standard"]["dsc"] for row in rows}
    texts = [
        f"no {name}" if dsc is None else f"DSC of {name} {dsc:.2f}" for name, dsc in scores.items()
    ]
    return f"{rows[0]['case']}: {', '.join(texts)}"


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
