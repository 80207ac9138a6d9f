"""Reliability diagrams: how often the most probable class is right, by its probability."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ssa_jax.figures.drawing import DPI, GRID, INK, QUIET

Measured = tuple[np.ndarray, np.ndarray, np.ndarray, float]
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def reliability_diagram(measured: Mapping[str, Measured]) -> Figure:
    """Draw accuracy over confidence, and the share of the pixels at each confidence.

    Args:
        measured: confidence, accuracy and pixels of each bin, and the error, as
            `calibration.reliability` returns them; by the name in the legend, at most four.
    """
    figure = Figure(figsize=(7.0, 2.9), dpi=DPI, layout="constrained")
    accuracy, share = figure.subplots(1, 2)
    accuracy.plot([0, 1], [0, 1], color=GRID, linewidth=1.2)
    for (name, found), color in zip(measured.items(), _COLORS, strict=False):
        confidence, right, pixels, error = found
        label = f"{name}, error {error:.3f}"
        line = {"color": color, "markersize": 3.5, "linewidth": 1.4}
        accuracy.plot(confidence, right, "o-", label=label, **line)
        share.plot(confidence, pixels / pixels.sum(), "o-", **line)
    accuracy.legend(fontsize=7.5, frameon=False, labelcolor=INK)
    share.set_yscale("log")
    for axes, title in ((accuracy, "share of right pixels"), (share, "share of pixels")):
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        axes.set_xlabel("probability of the most probable class", fontsize=8, color=QUIET)
        axes.grid(color=GRID, linewidth=0.6)
        axes.tick_params(labelsize=7.5, colors=QUIET, length=0)
        axes.spines[:].set_visible(False)
    return figure
