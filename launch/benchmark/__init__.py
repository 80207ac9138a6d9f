"""Measurements of speed, compared in one run: `ssa-jax benchmark --help`."""
