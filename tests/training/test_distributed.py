"""What several processes make of an error: one of JAX's runtime may mean that another has died."""

import jax
import pytest

from ssa_jax.training.distributed import of_runtime


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        # As JAX raises them where a process was killed: while it computes, and as a value is read.
        (jax.errors.JaxRuntimeError("INTERNAL: Gloo ReduceScatter failed"), True),
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"), True),
        (ValueError("data.image_size 100; expected a multiple of 32"), False),
        (OSError("UNKNOWN.csv: no such file"), False),
    ],
)
def test_errors_of_the_runtime_are_told_from_a_users(error, expected):
    assert of_runtime(error) is expected
