"""Chest CT phantoms of two domains, as COVID-SemiSeg has them: labelled and unlabelled slices."""
