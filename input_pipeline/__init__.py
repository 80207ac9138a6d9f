"""Files and slices as NumPy arrays; nothing here imports JAX or reads a flag."""
