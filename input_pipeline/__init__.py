"""Data: files and data sets in, batches of numpy arrays out; never imports jax."""
