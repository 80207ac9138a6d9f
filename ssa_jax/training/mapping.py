"""The mapping of a training step over devices, by `jax.pmap` or by `jax.shard_map`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssa_jax.ops.tuning import block_on_cpu
from ssa_jax.training.distributed import barrier
from ssa_jax.training.state import TrainState
from ssa_jax.training.step import AXIS, Batch, Step

MAPPINGS = ("pmap", "shard_map")
WHOLE, SHARED = PartitionSpec(), PartitionSpec(AXIS)  # the state, and a batch


class MappedStep(NamedTuple):
    """A step mapped over devices, with the functions that move values to and from them.

    Attributes:
        step: takes a state and a batch on the devices, returns state and metrics there; its state
            argument is donated.
        place_state: copies a host state to every device.
        place_batch: splits this process's share of a batch (NumPy) over its devices.
        fetch: returns one host copy of replicated values (state or metrics).
    """

    step: Callable[[TrainState, Batch], tuple[TrainState, Any]]
    place_state: Callable[[TrainState], TrainState]
    place_batch: Callable[[Batch], Batch]
    fetch: Callable[[Any], Any]


def check_mapping(mapping: str) -> None:
    """Check the name of a mapping.

    Args:
        mapping: see `map_step`.

    Raises:
        ValueError: an unknown mapping.
    """
    if mapping not in MAPPINGS:
        raise ValueError(f"train.mapping is {mapping!r}; expected one of {MAPPINGS}")


def map_step(step: Step, mapping: str, class_weight: Sequence[float]) -> MappedStep:
    """Map a step over all devices.

    Args:
        step: of one device, see `step.make_train_step`.
        mapping: 'pmap' or 'shard_map'; both give the same numbers.
        class_weight: of each class in the cross entropy, background first.

    Raises:
        ValueError: an unknown mapping.
    """
    check_mapping(mapping)
    weights = np.asarray(class_weight, np.float32)
    return (_pmap_step if mapping == "pmap" else _shard_map_step)(step, weights)


def _pmap_step(step: Step, weights: np.ndarray) -> MappedStep:
    local = jax.local_device_count()
    # With another axis name than the step's, the second step would compile again.
    copies = jax.pmap(lambda _, state: state, axis_name=AXIS, in_axes=(0, None))
    spread = jax.pmap(lambda batch: batch, axis_name=AXIS)
    return MappedStep(
        step=_compiled_together(
            jax.pmap(step, axis_name=AXIS, in_axes=(0, 0, None), donate_argnums=0), weights
        ),
        place_state=lambda state: copies(np.zeros(local), state),
        place_batch=lambda batch: block_on_cpu(
            spread({k: x.reshape(local, len(x) // local, *x.shape[1:]) for k, x in batch.items()})
        ),
        fetch=lambda tree: jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree),
    )


def _compiled_together(step: Any, weights: np.ndarray) -> Callable[[TrainState, Batch], Any]:
    """Bind the class weights, and have several processes compile before the first step.

    They wait for each other there: the first collective operation waits half a minute, and one
    process may find in the compilation cache what another has to compile for minutes.
    """
    if jax.process_count() == 1:
        return lambda state, batch: step(state, batch, weights)
    compiled: list[Any] = []

    def run(state: TrainState, batch: Batch) -> Any:
        if not compiled:
            # JAX keeps it for the call below.
            compiled.append(step.lower(state, batch, weights).compile())
            barrier("step compiled")
        return step(state, batch, weights)

    return run


def over_mesh(step: Step, mesh: Mesh) -> Any:
    """Map a step by `jax.shard_map` over the devices of a mesh.

    Args:
        step: of one device, see `step.make_train_step`.
        mesh: with the axis `AXIS`.

    Returns:
        The jitted step, whose state argument is donated.
    """
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(WHOLE, SHARED, WHOLE),
        out_specs=(WHOLE, WHOLE),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)


def _shard_map_step(step: Step, weights: np.ndarray) -> MappedStep:
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    whole, split = NamedSharding(mesh, WHOLE), NamedSharding(mesh, SHARED)
    return MappedStep(
        step=_compiled_together(over_mesh(step, mesh), weights),
        # A copy, because the donation would delete the caller's arrays.
        place_state=lambda state: jax.device_put(jax.tree.map(np.array, state), whole),
        place_batch=lambda batch: block_on_cpu(
            jax.tree.map(lambda x: jax.make_array_from_process_local_data(split, x), batch)
        ),
        fetch=lambda tree: jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree),
    )
