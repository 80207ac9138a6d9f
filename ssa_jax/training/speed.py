"""How fast a training is: times of its steps, operations a second, memory, and a profile."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

GB = 1e9
TERA = 1e12
# Multiplications and additions of bfloat16 a second, in 10^12, without sparsity, by the beginning
# of JAX's name of the device; from the vendors' data sheets.
PEAKS = {
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 NVL": 835,
    "NVIDIA H100": 989,
    "NVIDIA H200": 989,
    "NVIDIA A100": 312,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
}
PROFILED_AFTER = 3  # steps of a run before a profile, which compile and fill buffers


class StepTimes(NamedTuple):
    """Times of some steps.

    Attributes:
        seconds: of a step, the median.
        low: 10th percentile.
        high: 90th percentile.
        waiting: share of the time in which the host waited for slices.
    """

    seconds: float
    low: float
    high: float
    waiting: float


class StepClock:
    """Measures the time from the end of a step to the end of the next.

    The first step after the start or a pause is not counted, as it compiles, or fills buffers.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._input = 0.0
        self._steps: list[tuple[float, float]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for slices."""
        start = time.perf_counter()
        yield
        self._input += time.perf_counter() - start

    def step(self) -> None:
        """Note the end of a step."""
        now = time.perf_counter()
        if self._last is not None:
            self._steps.append((now - self._last, self._input))
        self._last, self._input = now, 0.0

    def pause(self) -> None:
        """Leave the time until the end of the next step out."""
        self._last = None

    def take(self) -> StepTimes | None:
        """Return the times since the last call; None if no step was counted."""
        if not self._steps:
            return None
        seconds, waiting = np.array(self._steps).T
        self._steps = []
        low, middle, high = np.percentile(seconds, [10, 50, 90]).tolist()
        return StepTimes(middle, low, high, float(waiting.sum() / seconds.sum()))


class Speed(NamedTuple):
    """What a training reports of its speed.

    Attributes:
        batch: slices in a step, over all devices.
        operations: multiplications and additions of a step, see `models.operations`.
        devices: number of all devices.
        kind: JAX's name of the devices.
    """

    batch: int
    operations: float
    devices: int
    kind: str

    def values(self, times: StepTimes) -> dict[str, float]:
        """Compute the values to report.

        Args:
            times: of the steps since the last report.

        Returns:
            'speed/images_per_second', 'speed/step_seconds', 'speed/step_seconds_10' and '_90'
            (percentiles), 'speed/share_waiting', 'speed/teraflops' (over all devices),
            'speed/memory_gb' (see `memory_gb`; absent where that is None), and
            'speed/mfu', the share of the devices' bfloat16 peak, where that is known.
        """
        teraflops = self.operations / times.seconds / TERA
        values = {
            "images_per_second": self.batch / times.seconds,
            "step_seconds": times.seconds,
            "step_seconds_10": times.low,
            "step_seconds_90": times.high,
            "share_waiting": times.waiting,
            "teraflops": teraflops,
        }
        if (memory := memory_gb()) is not None:
            values["memory_gb"] = memory
        if (peak := self.peak) is not None:
            values["mfu"] = teraflops / (peak * self.devices)
        return {f"speed/{name}": value for name, value in values.items()}

    @property
    def peak(self) -> int | None:
        """10^12 bfloat16 operations a second of one device, None where that is not known."""
        return next((peak for name, peak in PEAKS.items() if self.kind.startswith(name)), None)

    def line(self, values: dict[str, float]) -> str:
        """Compose a line from values.

        Args:
            values: see `values`.
        """
        found = {name.removeprefix("speed/"): value for name, value in values.items()}
        times = (found[name] for name in ("step_seconds", "step_seconds_10", "step_seconds_90"))
        step, low, high = (f"{1000 * seconds:.3g}" for seconds in times)
        text = (
            f"{found['images_per_second']:.3g} images/s in batches of {self.batch}, {step} ms a "
            f"step (80% take {low} to {high}), {found['share_waiting']:.0%} of it waiting for "
            f"slices; {found['teraflops']:.3g} TFLOP/s on {self.devices} x {self.kind}"
        )
        if "mfu" in found:
            text += f", {found['mfu']:.1%} of {self.peak} each in bfloat16"
        if "memory_gb" in found:
            text += f"; {found['memory_gb']:.2g} GB of memory"
        return text


def memory_gb() -> float | None:
    """Return the most memory used so far in GB: of one device, or of the process on a CPU.

    None where the system does not tell (Windows).
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return float(stats["peak_bytes_in_use"]) / GB
    if sys.platform == "win32":
        return None
    import resource  # which Windows lacks

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB


class Profile:
    """A profile of some steps, for TensorBoard's profiler or Perfetto.

    Attributes:
        made: whether it was begun.

    Args:
        folder: to write to.
        steps: number of steps; 0 for none.
        start: steps that are done when the training begins or resumes.
    """

    def __init__(self, folder: Path, steps: int, start: int) -> None:
        self._folder = folder
        self._first = start + PROFILED_AFTER
        self._last = self._first + steps
        self._runs = False
        self.made = False

    def step(self, done: int) -> None:
        """Begin or end the profile where that is due.

        Args:
            done: number of steps that are done.
        """
        if done == self._first < self._last:
            jax.profiler.start_trace(self._folder)
            self._runs = self.made = True
        elif done == self._last:
            self.close()

    def close(self) -> None:
        """End the profile, if it runs."""
        if self._runs:
            jax.profiler.stop_trace()
            self._runs = False
