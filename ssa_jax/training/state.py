"""The state of a training, which its step reads and replaces."""

import hashlib
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from ssa_jax.models.ssa_net import SSANet
from ssa_jax.ops import tuning

Variables = dict[str, Any]  # 'params' and 'batch_stats'


@flax.struct.dataclass
class TrainState:
    """State of a training.

    Attributes:
        step: steps taken, int32 scalar.
        params: the network's parameters, float32.
        batch_stats: BatchNorm's running mean and variance.
        opt_state: the optimiser's state.
        average: moving average of `params` and `batch_stats`; None when averaging is off.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Variables | None

    @property
    def variables(self) -> Variables:
        """Variables of the network to evaluate: the moving average where there is one."""
        if self.average is not None:
            return self.average
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_variables(model: SSANet, key: Array, channels: int) -> Variables:
    """Draw the initial variables of a network.

    Args:
        model: the network.
        key: of the random numbers.
        channels: of its images.

    Returns:
        'params' and 'batch_stats'.
    """
    image = jnp.zeros((1, 32, 32, channels), jnp.float32)

    def init(key: Array) -> Any:
        return model.init(key, image, train=False)

    if isinstance(key, jax.core.Tracer):  # for the shapes alone
        variables = init(key)
    else:  # the level does not change the bits
        level = tuning.for_backend().once_level
        options = None if level is None else {"xla_backend_optimization_level": level}
        variables = jax.jit(init, compiler_options=options)(key)
    return {"params": variables["params"], "batch_stats": variables["batch_stats"]}


def drawn_variables(model: SSANet, channels: int, seed: int = 0) -> Variables:
    """Draw variables by NumPy, so that nothing is compiled for them: for benchmarks and tests.

    Kernels have the variance 2 / fan-in and everything else is what a fresh network has.

    Args:
        model: the network.
        channels: of its images.
        seed: of the random numbers.

    Returns:
        'params' and 'batch_stats', on the host.
    """
    shapes = jax.eval_shape(lambda: init_variables(model, jax.random.key(0), channels))
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        if leaf.ndim > 1:
            scale = np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
            return scale * rng.standard_normal(leaf.shape, np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    drawn: Variables = jax.tree_util.tree_map_with_path(draw, shapes)
    return drawn


def init_state(
    variables: Variables, optimizer: optax.GradientTransformation, *, average: bool
) -> TrainState:
    """Make the state before the first step.

    Args:
        variables: 'params' and 'batch_stats' to start from.
        optimizer: see `optim.make_optimizer`.
        average: whether a moving average of the variables is kept.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        # A copy, because the step donates its input and two leaves must not share a buffer.
        average=jax.tree.map(jnp.copy, variables) if average else None,
    )


def weights_sha256(variables: Any) -> str:
    """Hash the name, type, shape and bits of every array of a tree.

    Args:
        variables: arrays on the host, in nested dictionaries for instance.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
