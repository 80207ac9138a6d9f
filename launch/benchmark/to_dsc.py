"""Time and steps of a training until its network segments: from nothing to a known DSC."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from input_pipeline.files import remove
from launch.benchmark import results
from launch.benchmark.compiling import compiling
from launch.benchmark.timing import identity
from ssa_jax.experiment import data
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.training import train
from ssa_jax.training.metric_log import FILE, read_metrics
from ssa_jax.training.stopping import Interrupted

LOOK_SECONDS = 0.2  # between looks at the training's log
CURVE, REACHED = "Validation DSC over time", "Time to a DSC"  # titles of the tables


def measure(settings: Settings, dsc: float, out: Path) -> None:
    """Train until the validation DSC is reached, print, and write `to_dsc.json` and `.md`.

    The training begins anew each time, as the time is that of one training without a break.

    Args:
        settings: as for `ssa-jax train`.
        dsc: of the validation, at which the training is stopped.
        out: folder of the results, and of the training's workdir.
    """
    found = results.Results(out, "to_dsc", identity)
    workdir = out / "workdir"
    remove(workdir)
    data.build_records(settings)
    # The training heeds the signal by which it is stopped; one that comes when it is over is none.
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with compiling() as spent:
        watch = _Watch(workdir / FILE, dsc, found, spent)
        watch.start()
        try:
            train(settings, workdir, quiet=True)
        except Interrupted:
            if watch.reached is None:  # by the user, not by the watch
                raise
        finally:
            watch.stop()
            signal.signal(signal.SIGTERM, before)
    row = {
        "data": settings.data.name,
        "px": settings.data.image_size,
        "batch": settings.train.batch_size,
        "dtype": settings.model.dtype,
        "DSC wanted": dsc,
        "reached": "yes" if watch.reached else "no",
    }
    found.add(REACHED, [row | (watch.reached or watch.last)])


class _Watch(threading.Thread):
    """Notes each validation DSC of the training's log, and stops the training at the wanted one.

    Args:
        log: the training's `metrics.csv`.
        dsc: wanted.
        found: where the rows go.
        spent: on compiling so far, see `compiling`.

    Attributes:
        last: 'steps', 'DSC', 'seconds' and 'of these compiling' of the last validation, as if no
            program had come from the cache.
        reached: the same of the one that reached the wanted DSC; None before.
    """

    def __init__(
        self, log: Path, dsc: float, found: results.Results, spent: Mapping[str, float]
    ) -> None:
        super().__init__(daemon=True)
        self._log, self._dsc, self._found, self._spent = log, dsc, found, spent
        self._start = time.perf_counter()
        self._over = threading.Event()
        self._seen = 0
        self.last: dict[str, float] = {}
        self.reached: dict[str, float] | None = None

    def run(self) -> None:
        """Look at the log until the training is over."""
        while not self._over.wait(LOOK_SECONDS):
            self._look()

    def stop(self) -> None:
        """End the thread, after a last look."""
        self._over.set()
        self.join()
        self._look()

    def _look(self) -> None:
        if not self._log.exists():
            return
        seconds = time.perf_counter() - self._start + self._spent["seconds"]
        spent = {
            "seconds": seconds,
            "of these compiling": self._spent["lower s"] + self._spent["compile s"],
        }
        scores = read_metrics(self._log).get("validation/dsc", [])
        for step, score in scores[self._seen :]:
            self.last = {"steps": step, "DSC": score, **spent}
            self._found.add(CURVE, [self.last])
            if score >= self._dsc and self.reached is None:
                self.reached = self.last
                os.kill(os.getpid(), signal.SIGTERM)
        self._seen = len(scores)
