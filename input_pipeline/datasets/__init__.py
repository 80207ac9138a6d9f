"""Data sets as TFDS records: their layouts on disk, building them and reading them."""
