"""SSA-Net (Wang et al., Medical Image Analysis 2022): network, losses, metrics, training."""
