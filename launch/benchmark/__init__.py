"""Measurements of speed, side by side in one run; `python -m launch.benchmark --help`."""
