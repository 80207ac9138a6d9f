"""Times of steps by a clock of the test, shares of a peak by hand, and when a profile runs."""

import pytest

from ssa_jax.training import speed as module
from ssa_jax.training.speed import Profile, Speed, StepClock, StepTimes


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that shows the only entry."""
    time = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: time[0])
    return time


def take_step(clock: StepClock, now: list[float], waiting: float, computing: float) -> None:
    with clock.waiting():
        now[0] += waiting
    now[0] += computing
    clock.step()


def test_the_first_step_and_that_after_a_pause_are_not_counted(now):
    clock = StepClock()
    take_step(clock, now, 1.0, 90.0)
    assert clock.take() is None
    for waiting in (0.25, 0.5, 0.75):
        take_step(clock, now, waiting, 2.0)
    clock.pause()
    now[0] += 1000.0
    take_step(clock, now, 5.0, 5.0)
    take_step(clock, now, 0.5, 2.0)
    found = clock.take()
    assert found == pytest.approx((2.5, 2.325, 2.675, 2.0 / 10.0))
    assert clock.take() is None


def test_speed_of_a_known_and_an_unknown_device(monkeypatch):
    monkeypatch.setattr(module, "memory_gb", lambda: 12.0)
    times = StepTimes(0.5, 0.4, 0.7, 0.125)
    known = Speed(batch=32, operations=9.89e13, devices=2, kind="NVIDIA H100 80GB HBM3")
    values = known.values(times)
    assert values["speed/images_per_second"] == 64.0
    assert values["speed/teraflops"] == pytest.approx(197.8)
    assert values["speed/mfu"] == pytest.approx(0.1)
    assert known.line(values) == (
        "64 images/s in batches of 32, 500 ms a step (80% take 400 to 700), 12% of it waiting for "
        "slices; 198 TFLOP/s on 2 x NVIDIA H100 80GB HBM3, 10.0% of 989 each in bfloat16; 12 GB of "
        "memory"
    )
    other = known._replace(kind="cpu")
    assert "speed/mfu" not in other.values(times) and "bfloat16" not in other.line(
        other.values(times)
    )


@pytest.mark.parametrize(
    ("kind", "peak"), [("NVIDIA H100 PCIe", 756), ("TPU v5 lite", 197), ("TPU v5p", 459)]
)
def test_the_peak_of_the_longest_name_counts(kind, peak):
    assert Speed(1, 1.0, 1, kind).peak == peak


def test_a_profile_begins_after_some_steps_and_ends_once(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(module.jax.profiler, "start_trace", lambda _: calls.append("start"))
    monkeypatch.setattr(module.jax.profiler, "stop_trace", lambda: calls.append("stop"))
    profile = Profile(tmp_path, 2, start=10)
    for step in range(11, 20):
        calls.append(step)
        profile.step(step)
    profile.close()
    assert calls == [11, 12, 13, "start", 14, 15, "stop", 16, 17, 18, 19]
    Profile(tmp_path, 0, start=0).step(module.PROFILED_AFTER)
    cut = Profile(tmp_path, 5, start=0)
    cut.step(module.PROFILED_AFTER)
    cut.close()
    assert calls[11:] == ["start", "stop"]
