"""Everything a training step reads and writes."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from ssa_jax.model import SSANet

Variables = dict[str, Any]  # 'params' and 'batch_stats'


@flax.struct.dataclass
class TrainState:
    """State of a training.

    Attributes:
      step: steps taken, int32 scalar.
      params: the network's parameters, float32.
      batch_stats: BatchNorm's running mean and variance.
      opt_state: the optimiser's state.
      average: running average of `params` and `batch_stats`; None when averaging is off.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Variables | None

    @property
    def variables(self) -> Variables:
        """What the network is evaluated with: the average where there is one."""
        if self.average is not None:
            return self.average
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_variables(model: SSANet, key: Array, channels: int) -> Variables:
    """Fresh variables of the network for images of `channels` channels."""
    image = jnp.zeros((1, 32, 32, channels), jnp.float32)
    variables = jax.jit(lambda k: model.init(k, image, train=False))(key)
    return {"params": variables["params"], "batch_stats": variables["batch_stats"]}


def init_state(
    variables: Variables, optimizer: optax.GradientTransformation, *, average: bool
) -> TrainState:
    """State before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        # A copy: the step donates its input, and two leaves must not share a buffer.
        average=jax.tree.map(jnp.copy, variables) if average else None,
    )


def arrived(tree: Any) -> Any:
    """The same arrays; on the CPU, wait until they are there.

    What computes on arrays still under way runs in a thread whose heap does not keep its memory,
    see `launch.command.keep_memory`.
    """
    return jax.block_until_ready(tree) if jax.default_backend() == "cpu" else tree
