"""Convolutions of arrays in several implementations, and the choice for each backend."""
