"""Flax modules: SSA-Net and its parts, the lung U-Net, and the conversion of PyTorch weights."""
