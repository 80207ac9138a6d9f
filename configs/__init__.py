"""Configurations of experiments, as functions `get_config` that return a locked ConfigDict."""
