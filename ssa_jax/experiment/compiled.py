"""What XLA compiles, kept in the user's cache folder for later commands: JAX's own cache."""

import hashlib
import os
import platform
from contextlib import suppress
from pathlib import Path

import jax

MAX_BYTES = 4 * 2**30  # then the programs that were not used for the longest time go
SHOWN = 12  # characters of a hash in a folder's name


def keep_compiled() -> None:
    """Have JAX keep what it compiles, where no cache of its own is set and the folder can be used.

    To be called before anything is compiled. Of several processes JAX lets the first one write.
    What lies in the folder is run, so that a new one is the user's alone.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = cache_folder()
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)


def compile_anew() -> None:
    """Have this process and those that it starts neither read nor write compiled programs."""
    jax.config.update("jax_enable_compilation_cache", False)
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"


def cache_folder() -> Path:
    """Return the folder of programs for this kind of processor.

    A program for a CPU has its instructions, and JAX does not look at them when it finds one: hosts
    that share a home would run each other's.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    kind = hashlib.sha256(_processor().encode()).hexdigest()[:SHOWN]
    return base / "ssa_jax" / f"compiled-{kind}"


def _processor() -> str:
    """Describe the processor by its name and instructions, as far as the system tells them."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        return "\n".join(sorted(told))
    return f"{platform.machine()} {platform.processor()}"
