"""Eight virtual CPU devices, errors on silent broadcasting, and networks without compile time."""

import os
import shutil
import tempfile

# Level 1 of XLA's optimisations, without LLVM's expensive passes, compiles more than twice as fast
# and computes the same numbers slower.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1"
    + " --xla_llvm_disable_expensive_passes=true"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# All modules, pytest's worker processes and the commands that they start share compiled programs.
# This file is read first by the process that starts the workers; it alone makes and drops them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="ssa_jax_tests_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import pytest

from configs import ct_phantom
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.workdir import save_settings
from ssa_jax.models.ssa_net import SSANet
from ssa_jax.training.checkpoint import Checkpoints
from ssa_jax.training.state import drawn_variables

jax.config.update("jax_numpy_rank_promotion", "raise")


def variables_of(model, channels=2, seed=0):
    """Variables of a network drawn by NumPy, so that nothing is compiled for them."""
    return drawn_variables(model, channels, seed)


def pytest_unconfigure(config):
    """Drop the compiled programs at the end of the process that made their folder."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def free_compiled_programs():
    """Drop a module's compiled programs after it: a whole run's take many gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def network_variables():
    """Variables of the default network, as NumPy arrays."""
    return variables_of(SSANet())


@pytest.fixture(scope="session")
def small_workdir(tmp_path_factory, network_variables):
    """A workdir whose best network, of drawn weights, reads HU on a small grid."""
    workdir = tmp_path_factory.mktemp("small") / "W"
    settings = Settings.from_config(ct_phantom.get_config()).replace(
        {"data.image_size": 32, "data.lung_mask": "threshold", "eval.batch_size": 8}
    )
    save_settings(settings, workdir)
    checkpoints = Checkpoints(workdir)
    checkpoints.save_best(1, network_variables, {})
    return workdir


@pytest.fixture(scope="module")
def small_network():
    """The stand-in in the network's place, each program compiled once."""
    from tests.support.small_training import stand_in  # takes longer to import than most tests

    with stand_in():
        yield
