"""The demo: phantoms, a small network, and its scores beside those of an intensity threshold."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.datasets.ct_phantom.patients import apply_threshold, fit_threshold
from input_pipeline.files import write_bytes, write_json
from input_pipeline.slices import Slice
from ssa_jax.evaluation.metrics import case_rows
from ssa_jax.evaluation.summary import interval_text, summarize
from ssa_jax.evaluation.text_table import format_rows
from ssa_jax.experiment import data
from ssa_jax.experiment.evaluation import evaluate
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.training import train
from ssa_jax.figures.curves import training_curves
from ssa_jax.figures.drawing import png_bytes
from ssa_jax.training.metric_log import read_metrics

PICTURES = 8
FILES = (
    ("overlays of the predictions", ("pictures/*.png", "pictures.png")),
    ("scores", ("metrics.json", "cases.csv", "baseline.json")),
    ("training curves", ("curves.png",)),
    ("TensorBoard events", ("workdir/tensorboard",)),
    ("the trained network", ("workdir",)),
    ("the phantoms", ("data",)),
)


def run_demo(settings: Settings, out: Path, *, quiet: bool, say: Callable[[str], Any]) -> str:
    """Build the phantoms, train, evaluate and draw; after an interruption, resume.

    Args:
        settings: of the training.
        out: folder to write to.
        quiet: show no progress.
        say: prints a line about the next stage.

    Returns:
        The scores and the places of the files, as text.

    Raises:
        OSError: a file cannot be written.
    """
    workdir = out / "workdir"
    say("1/4  building the phantoms and training (about four minutes on two cores)")
    train(settings, workdir, quiet=quiet)
    say("2/4  evaluating the best network on the test patients")
    network = evaluate(
        {workdir: settings}, data.TEST, which="best", out=out, pictures=PICTURES, quiet=quiet
    )
    say("3/4  scoring the baseline: the best HU threshold inside the true lung")
    baseline = threshold_summary(
        data.open_split(settings, data.TRAIN),
        data.open_split(settings, data.TEST),
        settings.eval.tolerance,
    )
    write_json(out / "baseline.json", baseline)
    say("4/4  drawing the training curves")
    curves = training_curves(read_metrics(workdir / "metrics.csv"))
    write_bytes(out / "curves.png", png_bytes(curves))
    return report(out, {"SSA-Net": network, "HU threshold": baseline})


def threshold_summary(
    training: Sequence[Slice], test: Sequence[Slice], tolerance: float
) -> dict[str, Any]:
    """Score the intensity threshold that fits the training slices best.

    Args:
        training: labelled slices with lung masks.
        test: labelled slices with lung masks.
        tolerance: of NSD, in mm.

    Returns:
        The summary of `summary.summarize`, with 'threshold_hu'.
    """
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


def report(out: Path, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the scores as a table, and list the files.

    Args:
        out: folder of the files.
        summaries: of `summary.summarize`, by the method's name.
    """
    lines = [("test patients, per slice", "DSC", "HD95 mm", "NSD 3 mm")]
    for name, summary in summaries.items():
        scores = summary["standard"]["lesion"]
        dsc, hd95, nsd = (
            interval_text(scores[metric], f".{digits}f")
            for metric, digits in (("dsc", 3), ("hd95", 0), ("nsd", 3))
        )
        lines.append((name, dsc, hd95, nsd))
    files = [(what, ", ".join(f"{out}/{name}" for name in names)) for what, names in FILES]
    return "\n".join(["", *format_rows(lines), "", *format_rows(files)])
