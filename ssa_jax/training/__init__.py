"""Losses, optimiser, training step, its mapping over devices, training loop and checkpoints."""
