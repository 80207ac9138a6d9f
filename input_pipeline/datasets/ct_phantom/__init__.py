"""Chest CT phantoms generated from a seed: a data set that needs no download."""
