"""Eight virtual CPU devices, errors on silent broadcasting, and the real data where it is present."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402  (the flags above must be set before jax starts)

jax.config.update("jax_numpy_rank_promotion", "raise")
