"""The training loop: it resumes to the same bits, keeps the best, and stops at nonsense."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssa_jax.training.checkpoint import Checkpoints
from ssa_jax.training.loop import Meter, TrainingDiverged, fit
from ssa_jax.training.mapping import map_step
from ssa_jax.training.state import init_state
from ssa_jax.training.step import AXIS, TrainMetrics, make_train_step
from ssa_jax.training.stopping import Interrupted, until_stopped
from tests.conftest import variables_of
from tests.support.stand_in import CLASS_WEIGHT, SETTINGS, StandIn, batches

pytestmark = pytest.mark.slow

EPOCHS, STEPS = 3, 4  # of an epoch
DATA = batches(5)  # not a multiple of an epoch's steps
OPTIMIZER = optax.adam(1e-2)


class Stream:
    """An endless iterator over `data` with a position."""

    def __init__(self, data=DATA):
        self.data, self.place = data, 0

    def __next__(self):
        self.place += 1
        return self.data[(self.place - 1) % len(self.data)]

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]


def initial_state():
    return init_state(variables_of(StandIn()), OPTIMIZER, average=True)


class Run:
    """`fit` on the stand-in network, and everything that it said on the way."""

    def __init__(self, workdir, scores=(), *, data=DATA, validate_every=1, stop_at=None, skip=0):
        self.reports, self.validated, self.ticks = [], 0, []
        self.workdir, self._scores = workdir, scores
        checkpoints = Checkpoints(workdir)
        model = StandIn(axis_name=AXIS)
        step = make_train_step(
            model,
            OPTIMIZER,
            SETTINGS,
            steps_per_epoch=STEPS,
            average_decay=0.5,
            skip_nonfinite=skip > 0,
        )
        state, resumed = initial_state(), None
        if checkpoints.last_step is not None:
            state, resumed = checkpoints.restore_last(state)
        self.state = fit(
            state,
            map_step(step, "pmap", CLASS_WEIGHT),
            Stream(data),
            checkpoints,
            epochs=EPOCHS,
            steps_per_epoch=STEPS,
            validate_every=validate_every,
            validate=self._validate,
            skip_nonfinite=skip,
            resumed=resumed,
            facts=dict,
            report=lambda step, values: self.reports.append((step, values)),
            ticks=self.ticks.append,
            stop_requested=lambda step: step == stop_at,
        )

    def _validate(self, variables, stop_requested):
        """The given scores in turn, then a number that depends on the network."""
        list(until_stopped([variables], 1, stop_requested))
        self.validated += 1
        if self.validated <= len(self._scores):
            return self._scores[self.validated - 1]
        return float(np.mean(np.abs(jax.tree.leaves(variables)[0])))


def best_step(workdir):
    checkpoints = Checkpoints(workdir)
    return checkpoints.restore_variables("best", variables_of(StandIn()))[1]


def last_step(workdir):
    checkpoints = Checkpoints(workdir)
    return checkpoints.last_step


def assert_same_bits(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stop_at", [1, 6, 11])
def test_interrupted_and_resumed_it_ends_with_the_same_bits(tmp_path, whole, stop_at):
    with pytest.raises(Interrupted, match=f"^Stopped at step {stop_at};"):
        Run(tmp_path, stop_at=stop_at)
    rest = Run(tmp_path)
    assert rest.ticks[0] == stop_at + 1
    assert_same_bits(rest.state, whole.state)
    done = stop_at // STEPS
    assert rest.reports == whole.reports[done:]  # the epoch it was stopped in counts whole


@pytest.mark.parametrize("stop_at", [4, 8, 12])
def test_interrupted_in_a_validation_it_does_that_again(tmp_path, whole, stop_at):
    for _ in range(2):  # the second before its first step
        with pytest.raises(Interrupted, match=f"^Stopped in the validation after step {stop_at};"):
            Run(tmp_path, stop_at=stop_at)
        assert last_step(tmp_path) == stop_at
    rest = Run(tmp_path)
    assert rest.ticks == list(range(stop_at + 1, EPOCHS * STEPS + 1))
    assert_same_bits(rest.state, whole.state)
    assert best_step(tmp_path) == best_step(whole.workdir)
    assert rest.reports == whole.reports[stop_at // STEPS - 1 :]


def test_killed_after_a_validation_that_was_cut_short_it_has_that_validation(
    tmp_path, whole, monkeypatch
):
    with pytest.raises(Interrupted):
        Run(tmp_path, stop_at=4)
    with monkeypatch.context() as patch:
        patch.setattr(Meter, "push", _dying(Meter.push, at=7))
        with pytest.raises(KeyboardInterrupt):
            Run(tmp_path)
    rest = Run(tmp_path)
    assert_same_bits(rest.state, whole.state)
    assert rest.reports == whole.reports[1:]


def test_interrupted_after_an_epoch_that_is_not_validated(tmp_path):
    whole = Run(tmp_path / "whole", validate_every=2)
    with pytest.raises(Interrupted, match=f"^Stopped at step {STEPS};"):
        Run(tmp_path / "stopped", validate_every=2, stop_at=STEPS)
    rest = Run(tmp_path / "stopped", validate_every=2)
    assert_same_bits(rest.state, whole.state)
    assert rest.reports == whole.reports[1:]


def test_killed_it_goes_on_from_the_last_validation(tmp_path, whole, monkeypatch):
    """SIGKILL leaves what the last `save_last` wrote: as if the steps since never were."""
    with monkeypatch.context() as patch:
        patch.setattr(Meter, "push", _dying(Meter.push, at=7))
        with pytest.raises(KeyboardInterrupt):
            Run(tmp_path)
    assert last_step(tmp_path) == STEPS
    rest = Run(tmp_path)
    assert rest.ticks[0] == STEPS + 1
    assert_same_bits(rest.state, whole.state)


def _dying(push, at):
    def push_or_die(self, step, metrics):
        if step == at:
            raise KeyboardInterrupt
        push(self, step, metrics)

    return push_or_die


def test_run_again_after_its_end_it_does_nothing(tmp_path):
    first = Run(tmp_path)
    again = Run(tmp_path)
    assert (again.ticks, again.reports, again.validated) == ([], [], 0)
    assert_same_bits(again.state, first.state)


def test_validates_every_so_many_epochs_and_at_the_end(tmp_path):
    run = Run(tmp_path, validate_every=2)
    assert [step for step, values in run.reports if "validation/dsc" in values] == [8, 12]
    assert [step for step, _ in run.reports] == [4, 8, 12]


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ((0.2, 0.5, 0.4), 8),
        ((0.2, 0.2, 0.2), 4),  # a tie is no improvement
        ((math.nan, 0.1, math.nan), 8),
        ((0.0, math.nan, 0.1), 12),
    ],
)
def test_the_best_changes_on_improvement_alone(tmp_path, scores, best):
    Run(tmp_path, scores)
    assert best_step(tmp_path) == best


def test_the_best_of_before_an_interruption_is_remembered(tmp_path):
    with pytest.raises(Interrupted):
        Run(tmp_path, (0.9,), stop_at=6)
    Run(tmp_path, (0.5, 0.8))
    assert best_step(tmp_path) == STEPS


def test_never_defined_there_is_no_best(tmp_path):
    Run(tmp_path, (math.nan,) * 3)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        best_step(tmp_path)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    data = batches(12)
    data[5]["image"] = np.where(np.arange(2) == 0, np.nan, data[5]["image"]).astype(np.float32)
    with pytest.raises(TrainingDiverged, match=r"^step 6: .*not finite.*loss nan.*lower optim"):
        Run(tmp_path, data=data)
    assert last_step(tmp_path) == STEPS
    state, progress = Checkpoints(tmp_path).restore_last(initial_state())
    assert progress["batches"] == {"place": STEPS}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_loss_that_is_not_finite_in_the_last_step_of_an_epoch_is_not_saved(tmp_path):
    data = batches(12)
    data[7]["image"] = np.full_like(data[7]["image"], np.inf)
    with pytest.raises(TrainingDiverged, match=r"^step 8: .*not finite") as raised:
        Run(tmp_path, data=data)
    assert raised.value.step == 8
    assert (last_step(tmp_path), best_step(tmp_path)) == (STEPS, STEPS)
    data[7] = batches(1)[0]
    assert Run(tmp_path, data=data).ticks[0] == STEPS + 1


def with_nonfinite(*places):
    """Twelve batches, of which these hold a value that is not finite in one slice."""
    data = batches(12)
    for place in places:
        data[place]["image"] = data[place]["image"].copy()
        data[place]["image"][0, 3, 3, 0] = np.nan
    return data


def test_steps_that_are_not_finite_are_passed_over_and_counted(tmp_path):
    data = with_nonfinite(2, 5, 6)
    run = Run(tmp_path / "skips", data=data, skip=2)
    skipped = [values["train/skipped_steps"] for _, values in run.reports]
    assert skipped == [1.0, 3.0, 3.0]
    assert all(math.isfinite(values["train/loss"]) for _, values in run.reports)
    # The same parameters without these batches: a step's number does not change its update here.
    good = [batch for place, batch in enumerate(data) if place not in (2, 5, 6)]
    model = StandIn(axis_name=AXIS)
    step = make_train_step(model, OPTIMIZER, SETTINGS, steps_per_epoch=STEPS, average_decay=0.0)
    mapped = map_step(step, "pmap", CLASS_WEIGHT)
    placed = mapped.place_state(initial_state().replace(average=None))
    for batch in good:
        placed, _ = mapped.step(placed, mapped.place_batch(batch))
    expected = mapped.fetch(placed)
    for name in ("params", "batch_stats"):
        for one, other in zip(
            jax.tree.leaves(getattr(run.state, name)),
            jax.tree.leaves(getattr(expected, name)),
            strict=True,
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert int(run.state.step) == EPOCHS * STEPS


@pytest.mark.parametrize("stop_at", [6, 7])
def test_stopped_among_skipped_steps_it_ends_with_the_same_bits(tmp_path, stop_at):
    data = with_nonfinite(5, 6)
    whole = Run(tmp_path / "whole", data=data, skip=2)
    with pytest.raises(Interrupted):
        Run(tmp_path / "stopped", data=data, skip=2, stop_at=stop_at)
    resumed = Run(tmp_path / "stopped", data=data, skip=2)
    for one, other in zip(
        jax.tree.leaves(whole.state), jax.tree.leaves(resumed.state), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert resumed.reports == whole.reports[1:]


@pytest.mark.parametrize("stop_at", [None, 6])
def test_too_many_skipped_steps_in_a_row_stop_it(tmp_path, stop_at):
    data = with_nonfinite(1, 3, 5, 6)
    if stop_at:
        with pytest.raises(Interrupted):
            Run(tmp_path, data=data, skip=1, stop_at=stop_at)
    with pytest.raises(TrainingDiverged, match=r"^step 7: .* 2 steps in a row, .*=1 passes over 1"):
        Run(tmp_path, data=data, skip=1)


def test_the_reported_metrics_are_means_over_the_epoch():
    def metrics(loss, intersection, size):
        zero = dict.fromkeys(
            ("dice_loss", "cross_entropy_loss", "attention_1_2", "attention_2_3", "attention_3_4"),
            jnp.zeros(()),
        )
        return TrainMetrics.single_from_model_output(
            loss=jnp.asarray(loss),
            gradient_norm=jnp.asarray(1.0),
            intersection=jnp.asarray(intersection),
            size=jnp.asarray(size),
            **zero,
        )

    meter = Meter(lambda tree: tree)
    meter.push(1, metrics(0.5, 3.0, 10.0))
    meter.push(2, metrics(0.25, 1.0, 6.0))
    meter.flush()
    other = Meter(lambda tree: tree)
    other.set_state(meter.get_state())
    for each in (meter, other):
        assert each.summary()["loss"] == 0.375
        assert each.summary()["dsc"] == 2 * 4 / 16
    meter.reset()
    assert meter.get_state() is None


def test_a_meter_restored_in_the_middle_of_an_epoch_says_the_same():
    """Thirds, which float32 and float64 round differently; what is fetched is NumPy's."""
    whole, first, second = (Meter(lambda tree: jax.tree.map(np.asarray, tree)) for _ in range(3))
    steps = [
        TrainMetrics.single_from_model_output(
            **dict.fromkeys(
                ("loss", "dice_loss", "cross_entropy_loss", "gradient_norm"), jnp.float32(x)
            ),
            **dict.fromkeys(("attention_1_2", "attention_2_3", "attention_3_4"), jnp.float32(x)),
            intersection=jnp.float32(x),
            size=jnp.float32(7),
        )
        for x in (1.6, 1.7, 2.37)
    ]
    for number, metrics in enumerate(steps, start=1):
        whole.push(number, metrics)
        (first if number < 3 else second).push(number, metrics)
        if number == 2:
            first.flush()
            second.set_state(json.loads(json.dumps(first.get_state())))
    whole.flush()
    second.flush()
    assert second.summary() == whole.summary()
