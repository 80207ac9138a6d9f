"""Print the time and the peak memory of a process that fuzzes one reader, for each of them.

    python -m tests.fuzz_memory

The processes run one after another; each also holds Python, JAX and pytest (the first line).
"""

import os
import subprocess
import sys
import time

from tests.support import ROOT

TESTS = "tests/input_pipeline/io/test_fuzz.py"
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


def peak_of(arguments: list[str]) -> tuple[int, float, float]:
    """Run pytest; return its exit status, the seconds it took and its largest memory in GB."""
    start = time.monotonic()
    process = subprocess.Popen([*PYTEST, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, time.monotonic() - start, used.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Fuzz every reader."""
    listed = subprocess.run(
        [*PYTEST, "--collect-only", TESTS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [line for line in listed.stdout.splitlines() if "::" in line]
    for arguments in (["--collect-only", TESTS], *([name] for name in names)):
        status, seconds, peak = peak_of(arguments)
        name = arguments[-1].partition("::")[2] or "nothing but the start"
        print(f"{name:58} {seconds:6.1f} s {peak:6.2f} GB  exit status {status}", flush=True)


if __name__ == "__main__":
    main()
