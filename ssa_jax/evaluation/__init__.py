"""Predicted labels, metrics of one case, and their summary over many cases."""
