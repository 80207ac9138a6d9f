"""What JAX spends on compiling, as JAX itself reports it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

BACKEND = "/jax/core/compile/backend_compile_duration"
LOWERING = "/jax/core/compile/jaxpr_to_mlir_module_duration"
# Of a program from the cache: what compiling it took beyond what reading it takes. Added, it makes
# a run that finds its programs report the times of the run that compiled them.
SAVED = "/jax/compilation_cache/compile_time_saved_sec"
ADDS_TO = {LOWERING: ("lower s",), BACKEND: ("compile s",), SAVED: ("compile s", "seconds")}


@contextmanager
def compiling() -> Iterator[dict[str, float]]:
    """Measure what is compiled in the block, as if nothing came from the cache of programs.

    Yields:
        After the block: the 'seconds' of it, 'lower s' and 'compile s' of these, and 'programs',
        the number of compiled ones. In the block: the same so far, where 'seconds' are only those
        that the cache saved.
    """
    spent = {"seconds": 0.0, "lower s": 0.0, "compile s": 0.0, "programs": 0}

    def add(event: str, duration_secs: float, **_: str | int) -> None:
        for name in ADDS_TO.get(event, ()):
            spent[name] += duration_secs
        spent["programs"] += event == BACKEND

    jax.monitoring.register_event_duration_secs_listener(add)
    start = time.perf_counter()
    try:
        yield spent
    finally:
        spent["seconds"] += time.perf_counter() - start
        jax.monitoring.unregister_event_duration_listener(add)
