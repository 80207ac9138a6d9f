"""What a training tells while it runs: metrics on disk, progress, and its speed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax

from ssa_jax.experiment import factory
from ssa_jax.experiment.progress import Progress, progress
from ssa_jax.experiment.settings import Settings
from ssa_jax.training.distributed import is_main_process, say
from ssa_jax.training.metric_log import MetricWriter
from ssa_jax.training.speed import PROFILED_AFTER, Profile, Speed, StepClock

PROFILE = "profile"  # folder in the workdir


class Reporter:
    """Reports of a training, written and printed by the main process, see `reporting`.

    Attributes:
        clock: measures the steps.

    Args:
        writer: of metrics; None in the other processes.
        bar: shows the progress.
        rate: returns the learning rate after so many steps.
        speed: turns times into what is reported.
        profile: of some steps.
    """

    def __init__(
        self,
        writer: MetricWriter | None,
        bar: Progress,
        rate: Callable[[int], float],
        speed: Speed,
        profile: Profile,
    ) -> None:
        self.clock = StepClock()
        self._writer = writer
        self._bar = bar
        self._rate = rate
        self._speed = speed
        self._profile = profile
        self._dsc = ""
        self._last: dict[str, float] = {}

    def report(self, step: int, values: dict[str, float]) -> None:
        """Write the metrics of an epoch, and its speed.

        Args:
            step: last one of the epoch.
            values: by name.
        """
        times = self.clock.take()
        if self._writer is not None:
            self._writer.write(step, values | {"learning_rate": self._rate(step)})
        if times is not None:
            self._last = self._speed.values(times)
            if self._writer is not None:
                self._writer.show(step, self._last)
        if "validation/dsc" in values:
            self._dsc = f"validation DSC {values['validation/dsc']:.3f}"
        rate = self._last.get("speed/images_per_second")
        parts = [self._dsc, "" if rate is None else f"{rate:.3g} images/s"]
        self._bar.set_postfix_str(", ".join(filter(None, parts)))

    def tick(self, step: int) -> None:
        """Show that a step is done.

        Args:
            step: its number.
        """
        self._bar.update(step - self._bar.n)
        self._profile.step(step)

    def speed_line(self) -> str:
        """Compose a line about the speed of the last epoch; '' if none was measured."""
        return self._speed.line(self._last) if self._last else ""


@contextmanager
def reporting(
    settings: Settings,
    workdir: Path,
    params: Any,
    *,
    rate: Callable[[int], float],
    start: int,
    logged: int,
    total: int,
    profile: int,
    quiet: bool,
    what: str | None,
) -> Iterator[Reporter]:
    """Provide the reporter of a training.

    Args:
        settings: of the training.
        workdir: folder of the training.
        params: of the network.
        rate: returns the learning rate after so many steps.
        start: steps that are done already.
        logged: step up to which the metrics are to be kept.
        total: steps of the whole training.
        profile: number of steps to profile.
        quiet: print nothing.
        what: label before the progress bar.
    """
    main = is_main_process()
    if not quiet and start < total:
        begins = f"going on from step {start} of {total}" if start else f"{total} steps"
        say(f"{workdir}: {begins}; compiling the step")
    operations = factory.operations_of_step(settings, params)
    devices = jax.devices()
    speed = Speed(settings.train.batch_size, operations, len(devices), devices[0].device_kind)
    recorder = Profile(workdir / PROFILE, profile if main else 0, start)
    with (
        MetricWriter(workdir, resume_step=logged) if main else nullcontext() as writer,
        progress(total, initial=start, quiet=quiet or not main, what=what) as bar,
    ):
        reporter = Reporter(writer, bar, rate, speed, recorder)
        try:
            yield reporter
        finally:
            recorder.close()
    if profile:
        few = f"too few steps for a profile, which begins after {PROFILED_AFTER}"
        say(f"{workdir}: {f'profile in {PROFILE}/' if recorder.made else few}")
    if not quiet and (line := reporter.speed_line()):
        say(f"{workdir}: {line}")
