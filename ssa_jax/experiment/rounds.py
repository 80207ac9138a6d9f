"""Rounds of pseudo-labels on disk: train, score and label, each done once and then read.

W/round_01, round_02, ... are ordinary workdirs, which `evaluate` and `predict` accept; the last
checkpoint counts, so that a round does not choose its own best. They also hold `pseudo/`, the
labels for the next round, and `round.json`.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from configs import base
from input_pipeline.files import write_json
from input_pipeline.pseudo_labels import PseudoLabels, PseudoSlices
from input_pipeline.slices import Concatenated, Slice, Subset
from input_pipeline.verified import read_signed, signed
from ssa_jax.evaluation.summary import AVERAGE, summarize
from ssa_jax.experiment import data, factory, pools, workdir
from ssa_jax.experiment.evaluation import evaluate, score_slices
from ssa_jax.experiment.labelling import label_round
from ssa_jax.experiment.lock import in_use
from ssa_jax.experiment.network import compile_network
from ssa_jax.experiment.run import Observer, Row, Run, manifest_of, read_row, timed
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.training import check_start, start_variables, steps_of, train_on
from ssa_jax.semi_supervised.schedule import best_round, check_rounds, run_rounds
from ssa_jax.semi_supervised.trust import is_doubtful
from ssa_jax.training.distributed import barrier, decided, is_main_process
from ssa_jax.training.loop import TrainingDiverged
from ssa_jax.training.state import Variables

PICTURES = 8  # test slices that are drawn
BEST, LAST = CHOICES = ("best", "last")  # of self_train.choose


def self_train(
    settings: Settings, folder: Path, *, observer: Observer, quiet: bool
) -> dict[str, Any]:
    """Run every round that is not done; score the best one on the test split, once.

    Round 1 trains on the labelled slices. After each round the trust module (equation 9) turns the
    predictions of its network into labels of the unlabelled slices that the next round trains on:
    those newly drawn and those added before. The next round trains a new network on all of them,
    with class weights from their pixels (equation 8). The rounds end when the validation DSC no
    longer improves.

    Args:
        settings: of all rounds.
        folder: for all rounds.
        observer: draws and prints.
        quiet: show no progress.

    Returns:
        'rounds' (their number), 'best_round' (the one that is kept), 'choose' (whether that is the
        best by validation DSC or the last), and 'test' (the summary of `evaluate`, None where the
        data set has no labelled test split), as in `summary.json`.

    Raises:
        ValueError: invalid settings, slices that `pools.check_pools` refuses, a workdir of other
            settings or data, or damaged.
        OSError: a file cannot be read or written, or another process uses the workdir.
        TrainingDiverged: the loss of a round is not finite.
    """
    check(settings)
    with in_use(folder):
        workdir.changed_settings(settings, folder)
        data.build_records(settings, partial(_chosen, folder=folder))
        plan, slices = _chosen(settings, folder)
        workdir.save_settings(settings, folder)
        data.write_plan(plan.files, folder)
        barrier("rounds begin")
        return _run_all(Run(settings, folder, slices, compile_network(settings), observer, quiet))


def check(settings: Settings) -> None:
    """Check the settings of the rounds before any file is written.

    Args:
        settings: of all rounds.

    Raises:
        ValueError: a field has an invalid value.
    """
    factory.check(settings)
    factory.trust(settings)
    if settings.self_train.choose not in CHOICES:
        raise ValueError(
            f"self_train.choose is {settings.self_train.choose!r}; expected one of {CHOICES}"
        )
    share = settings.self_train.labelled_share
    if not 0 <= share < 1:
        raise ValueError(
            f"self_train.labelled_share is {share}; expected 0 (all slices alike) or more, and "
            "below 1"
        )
    if not share and not settings.train.consistency:
        _require_defaults(settings)
    if settings.self_train.temperature == 0 and settings.data.validation_split == data.TEST:
        raise ValueError(
            "self_train.temperature is 0, which fits it on the validation slices, and these are "
            "the test slices; expected a number above 0"
        )
    check_rounds(
        patience=settings.self_train.patience,
        max_rounds=settings.self_train.max_rounds,
        per_round=settings.self_train.slices_per_round,
    )


def _require_defaults(settings: Settings) -> None:
    """Check that fields have their defaults that only a fixed share of labelled slices reads."""
    defaults = Settings.from_config(base.get_config()).self_train
    for name in ("pseudo_weight", "pseudo_ramp_epochs", "strong_intensity"):
        value, default = getattr(settings.self_train, name), getattr(defaults, name)
        if value != default:
            raise ValueError(
                f"self_train.{name} is {value}; expected its default {default} without "
                "self_train.labelled_share, as it is not read; set that, 0.5 for instance"
            )


def _chosen(settings: Settings, folder: Path) -> tuple[data.Plan, pools.Pools]:
    """Choose the slices of all rounds, and check what these need of them."""
    plan = data.plan(settings, folder, [data.UNLABELLED, data.TEST])
    slices = pools.draw_pools(settings, plan)
    pools.check_pools(settings, slices)
    check_start(settings, len(slices.training))
    return plan, slices


def _run_all(run: Run) -> dict[str, Any]:
    """Run the rounds, score the best one on the test split and write the summary."""
    observer = run.observer
    rows: list[Row] = []
    for row in rounds(run):
        rows.append(row)
        if is_main_process():
            observer.round_scored(run, rows)
    last = run.settings.self_train.choose == LAST
    best = len(rows) if last else best_round([score_of(row) for row in rows])
    summary = {
        "rounds": len(rows),
        "best_round": best,
        "choose": run.settings.self_train.choose,
        data.TEST: _test_once(run, best),
    }
    write_json(run.workdir / "summary.json", summary)
    observer.finished(run, rows, summary)
    return summary


def rounds(run: Run) -> Iterator[Row]:
    """Run the rounds, and read those that are done.

    Args:
        run: the rounds of a workdir.

    Yields:
        The row of each round, as in `round.json`.
    """
    settings = run.settings
    last = settings.self_train.choose == LAST
    yield from run_rounds(
        partial(train_round, run),
        partial(label_round, run),
        score_of,
        patience=settings.self_train.max_rounds if last else settings.self_train.patience,
        max_rounds=settings.self_train.max_rounds,
    )


def score_of(row: Row) -> float:
    """Return the validation DSC of a round, nan where it is undefined.

    Args:
        row: of the round.
    """
    dsc = row["validation_dsc"]["average"]
    return float("nan") if dsc is None else float(dsc)


def train_round(run: Run, number: int) -> Row:
    """Train and score the network of a round, unless that is done.

    Args:
        run: the rounds of a workdir.
        number: of the round, 1 or more.

    Returns:
        The row of the round, as in `round.json`.
    """
    folder = run.folder(number)
    path = folder / "round.json"
    if not decided(path.exists):
        with in_use(folder), timed(folder / "train_seconds.json"):
            row = _train(run, number)
        if is_main_process():
            write_json(path, signed(row))
        barrier("round scored")
    return read_row(path)


def _train(run: Run, number: int) -> Row:
    """Train the network of a round and score it on the validation slices."""
    settings, folder = run.settings, run.folder(number)
    workdir.changed_settings(settings, folder)
    plan = data.plan(settings, folder, split_of=run.workdir)  # stored for `ssa-jax evaluate`
    training, drawn = run.slices.training, _pseudo_slices(run, number)
    apart: Sequence[Slice] = drawn if settings.self_train.labelled_share else ()
    if drawn and not apart:
        training = Concatenated(training, drawn)
    pixels = _drawn_pixels(settings, training, apart)
    class_weight = factory.class_weight(settings, pixels)
    same = settings.self_train.same_steps

    def commit() -> None:
        workdir.save_settings(settings, folder)
        data.write_plan(plan.files, folder)

    try:
        train_on(
            settings,
            folder,
            training,
            run.slices.validation,
            others=run.slices.unlabelled if settings.train.consistency else apart,
            class_weight=class_weight,
            variables=_start(run, number),
            commit=commit,
            steps_per_epoch=steps_of(settings, len(run.slices.training)) if same else None,
            quiet=run.quiet,
            what=f"round {number}",
        )
    except TrainingDiverged as error:
        where = f"{error} in another --workdir, as all rounds train alike"
        raise TrainingDiverged(where, error.step) from error
    return _row(run, number, len(drawn), pixels, class_weight)


def _pseudo_slices(run: Run, number: int) -> Sequence[Slice]:
    """Return the pseudo-labelled slices that a round trains on."""
    if number == 1:
        return ()
    labels = PseudoLabels(run.folder(number - 1) / "pseudo")
    slices = PseudoSlices(labels, run.slices.unlabelled)
    if not run.settings.self_train.leave_out_doubtful:
        return slices
    sure = [k for k, item in enumerate(labels) if not is_doubtful(item.mask, item.weight)]
    return Subset(slices, sure)


def _drawn_pixels(
    settings: Settings, training: Sequence[Slice], pseudo: Sequence[Slice]
) -> list[float]:
    """Sum the pixels of each class, each pool by its share of the batches where that is fixed."""
    pixels = data.pixels_of(settings, training)
    if not pseudo:
        return pixels
    share = settings.self_train.labelled_share
    factor = (1 - share) / share * len(training) / len(pseudo)
    both = zip(pixels, data.pixels_of(settings, pseudo), strict=True)
    return [own + factor * other for own, other in both]


def _start(run: Run, number: int) -> Variables:
    """Return the variables that a round starts from."""
    if number > 1 and run.settings.self_train.warm_start:
        return run.variables(number - 1)[0]
    return start_variables(run.settings, quiet=run.quiet)


def _row(
    run: Run, number: int, drawn: int, pixels: Sequence[float], weight: Sequence[float]
) -> Row:
    """Score a round and compose its row, the content of `round.json`.

    Args:
        run: the rounds of a workdir.
        number: of the round.
        drawn: number of the pseudo-labelled slices that it trained on.
        pixels: of each class in its training slices.
        weight: of each class in its loss.
    """
    manifest = manifest_of(run.folder(number - 1) / "pseudo") if number > 1 else None
    names = run.settings.class_names
    variables, step = run.variables(number)
    slices, volumes = score_slices(run.compiled(variables), run.slices.validation)
    scores = summarize(volumes or slices)["standard"]
    dsc = {name: scores[name]["dsc"]["mean"] for name in scores}
    dsc.setdefault(AVERAGE, dsc[names[0]])
    lesion, none = sum(pixels[1:]), dict.fromkeys(names)
    added, relabelled = (manifest[k] if manifest else 0 for k in ("added", "relabelled"))
    labelled = len(run.slices.training)
    return {
        "round": number,
        "step": step,
        "slices": labelled + drawn,
        "labelled": labelled,
        "added": added,
        "relabelled": relabelled,
        "left_out": added + relabelled - drawn,
        "pseudo_share": manifest["share"] if manifest else none,
        "confidence": (manifest or {}).get("confidence", none),
        "agreement": manifest["agreement"] if manifest else none,
        "training_share": {name: n / lesion for name, n in zip(names, pixels[1:], strict=True)},
        "weight": dict(zip(("background", *names), weight, strict=True)),
        "weight_sum": sum(weight),
        "validation_dsc": dsc,
    }


def _test_once(run: Run, best: int) -> dict[str, Any] | None:
    """Score the best round on the test split, or read the scores of an earlier run."""
    settings = run.settings
    path = run.workdir / data.TEST / "metrics.json"
    if data.TEST not in data.split_names(settings):
        return None
    if settings.data.validation_split == data.TEST:
        return None
    if not decided(path.exists):
        evaluate(
            {run.folder(best): settings},
            data.TEST,
            which="last",
            out=path.parent,
            pictures=PICTURES,
            quiet=run.quiet,
        )
    return read_signed(path, f"remove {path.parent} and run the same command again")
