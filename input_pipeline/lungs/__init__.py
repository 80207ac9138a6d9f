"""Computing lung labels (0 none, 1 right, 2 left): from intensity and shape, or by a U-Net."""
