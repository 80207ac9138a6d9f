"""From a clone to a result: `python -m launch.demo --out demo_output`, or `make demo`.

Builds the phantoms, trains a small SSA-Net, evaluates it on the test patients beside an intensity
threshold, draws what it predicted and says what came out. Interrupted, it goes on where it was.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from configs import ct_phantom as config_file
from input_pipeline.ct_phantom import apply_threshold, fit_threshold
from input_pipeline.preprocess import Slice
from launch import command, setup
from launch.curves import curves_figure
from launch.evaluate import evaluate
from launch.train import train
from launch.writer import write_json
from ssa_jax.metrics import case_rows
from ssa_jax.summary import summarize

PICTURES = 8


def main(arguments: list[str]) -> None:
    """Run every step of the demo."""
    parser = argparse.ArgumentParser(prog="launch.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder to write to")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
    out: Path = options.out
    workdir = out / "workdir"
    config = config_file.get_config()
    config.data.data_dir = str((out / "data").absolute())

    say(options.quiet, "1/4  building the phantoms and training (about four minutes on two cores)")
    train(config, workdir, quiet=options.quiet)
    say(options.quiet, "2/4  evaluating the best network on the test patients")
    network = evaluate(
        config, workdir, "test", which="best", out=out, pictures=PICTURES, quiet=options.quiet
    )
    say(options.quiet, "3/4  scoring the baseline: the best HU threshold inside the true lung")
    baseline = threshold_summary(
        setup.open_split(config, "train"), setup.open_split(config, "test"), config.eval.tolerance
    )
    write_json(out / "baseline.json", baseline)
    say(options.quiet, "4/4  drawing the training curves")
    curves_figure(out / "curves.png", workdir / "metrics.csv")
    print(report(out, network, baseline))


def say(quiet: bool, text: str) -> None:
    """One line about what comes next."""
    if not quiet:
        print(text, flush=True)


def threshold_summary(training: Sequence[Slice], test: Sequence[Slice], tolerance: float) -> dict:
    """Scores of the intensity threshold that fits the training slices best."""
    bound = fit_threshold(training)
    rows = []
    for item in test:
        assert item.mask is not None
        rows += case_rows(
            item.mask,
            apply_threshold(item, bound),
            case=item.id,
            patient=item.patient,
            class_names=("lesion",),
            spacing=item.spacing,
            tolerance=tolerance,
        )
    return summarize(rows) | {"threshold_hu": bound}


def report(out: Path, network: dict, baseline: dict) -> str:
    """What came out and where it lies."""
    lines = ["", f"{'test patients, per slice':28s}{'DSC':>26s}{'HD95 mm':>26s}{'NSD 3 mm':>26s}"]
    for name, summary in (("SSA-Net", network), ("HU threshold", baseline)):
        scores = summary["standard"]["lesion"]
        cells = "".join(
            f"{_interval(scores[metric], digits):>26s}"
            for metric, digits in (("dsc", 3), ("hd95", 0), ("nsd", 3))
        )
        lines.append(f"{name:28s}{cells}")
    files = (
        ("overlays of the predictions", "pictures/*.png, pictures.png"),
        ("scores", "metrics.json, cases.csv, baseline.json"),
        ("training curves", "curves.png"),
        ("TensorBoard events", "workdir/tensorboard"),
        ("the trained network", "workdir"),
    )
    lines += ["", *(f"{what:28s}{out}/{where.replace(', ', f', {out}/')}" for what, where in files)]
    return "\n".join(lines)


def _interval(value: dict, digits: int) -> str:
    mean, low, high = (f"{value[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
