"""The golden tests on the device at hand: whether it computes the authors' numbers."""

from pathlib import Path
from typing import Any

import jax

from launch.benchmark import results
from launch.benchmark.timing import identity
from ssa_jax.experiment.batch import InputsFailed

TESTS = Path(__file__).parents[2] / "tests/models/test_golden_network.py"
# The reference in float64 needs a device that computes it, and 'cpu' are the CPU's own forms.
CHOSEN = "inference or (training and gpu)"
GOLDEN = "Golden tests"  # title of the table
SHOWN = 300  # characters of a difference


def measure(out: Path) -> None:
    """Run the tests, print, and write `golden.json` and `.md`, after each test.

    Args:
        out: folder of the results.

    Raises:
        ValueError: the tests or pytest are not there, or pytest could not run them.
        InputsFailed: a test failed.
    """
    if not TESTS.exists():
        raise ValueError(f"{TESTS}: no such file; the golden tests need a checkout of the project")
    try:
        import pytest
    except ImportError as error:
        raise ValueError(f"{error}; the golden tests need pytest (extra `dev`)") from error
    # The authors' numbers are float32; a GPU's default is TF32, with fewer digits.
    jax.config.update("jax_default_matmul_precision", "highest")
    recorder = _Recorder(results.Results(out, "golden", identity))
    options = ["-q", "-p", "no:cacheprovider", "-c", str(TESTS.parents[2] / "pyproject.toml")]
    status = pytest.main([*options, "-k", CHOSEN, str(TESTS)], plugins=[recorder])
    if recorder.failed:
        raise InputsFailed(f"golden tests failed: {'; '.join(recorder.failed)}")
    if status != pytest.ExitCode.OK:
        raise ValueError(f"{TESTS}: pytest ended with {status!r}")


class _Recorder:
    """A plugin of pytest that keeps the outcome of each test.

    Args:
        found: where the rows go.

    Attributes:
        failed: tests, each with what differs.
    """

    def __init__(self, found: results.Results) -> None:
        self._found = found
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep the report of a test, or of a fixture that failed."""
        if report.when != "call" and report.outcome == "passed":
            return
        name, differs = report.nodeid.rpartition("::")[2], None
        if report.outcome == "failed":
            differs = difference(report)
            self.failed.append(f"{name}: {differs}")
        row = {"test": name, "outcome": report.outcome, "s": report.duration}
        self._found.add(GOLDEN, [row | {"what differs": differs}])


def difference(report: Any) -> str:
    """Return what a failed test says of the numbers, on one line.

    Args:
        report: pytest's, of the test.
    """
    crash = getattr(report.longrepr, "reprcrash", None)
    text = " ".join(str(crash.message if crash else report.longrepr).split())
    return text[:SHOWN].replace("|", "/")
