"""Experiments: from a configuration and files on disk to a trained and scored network."""
