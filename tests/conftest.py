"""Eight virtual CPU devices, errors on silent broadcasting, and networks without compile time."""

import os
import shutil
import tempfile

# Level 1 of XLA's optimisations compiles about twice as fast and computes the same numbers slower.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# All modules, pytest's worker processes and the commands that they start share compiled programs.
# This file is read first by the process that starts the workers; it alone makes and drops them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="ssa_jax_tests_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import numpy as np
import pytest

from configs import ct_phantom
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.workdir import save_settings
from ssa_jax.models.ssa_net import SSANet
from ssa_jax.training.checkpoint import Checkpoints

jax.config.update("jax_numpy_rank_promotion", "raise")


def variables_of(model, channels=2, seed=0):
    """Variables of a network drawn by NumPy, so that nothing is compiled for them.

    Kernels have the variance 2 / fan-in and everything else is what a fresh network has.
    """
    image = jax.ShapeDtypeStruct((1, 32, 32, channels), np.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if leaf.ndim > 1:
            scale = np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
            return scale * rng.standard_normal(leaf.shape, np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    drawn = jax.tree_util.tree_map_with_path(draw, shapes)
    return {name: drawn[name] for name in ("params", "batch_stats")}


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
