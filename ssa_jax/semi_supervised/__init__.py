"""Semi-supervised training (section 3.2.2): pseudo-labels, their quality, and the rounds."""
