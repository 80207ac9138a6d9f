"""Synchronisation of several processes."""

import jax
from jax.experimental import multihost_utils


def barrier(name: str) -> None:
    """Wait until every process has called this; a single process returns at once.

    Args:
        name: of the barrier; processes at different ones are an error.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def is_main_process() -> bool:
    """Return whether this process is the one that writes files."""
    return jax.process_index() == 0
