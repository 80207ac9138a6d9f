"""Commands: the only place where configs, the input pipeline and ssa_jax meet."""
