"""Differences of networks from a reference, case by case."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssa_jax.figures.drawing import DPI, GRID, INK, QUIET

_BETTER, _WORSE, _EQUAL = "#0072b2", "#d55e00", "#9a9a9a"
_GOLDEN = 0.618034  # its multiples spread neighbours evenly
_LONGEST = 24  # characters of a network's name
_NARROWEST = 1e-3  # an axis of less has no readable numbers; all differences may be 0


def paired_differences(
    result: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    title: str,
    reference: str,
    more_is_better: bool,
) -> Figure:
    """Draw a panel for each class, with a row of dots for each network but the reference.

    A dot is the difference in a case (blue better, orange worse); the black mark is the difference
    of the means with its interval. Where the dots lie in the height of a row means nothing.

    Args:
        result: of `comparison.compare`.
        title: name of the metric, with its unit.
        reference: name of the reference.
        more_is_better: of the metric.
    """
    networks = [name for name in next(iter(result.values())) if name != reference]
    size = 3.4 * len(result) + 0.8, 1.0 + 0.75 * len(networks)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(result), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (class_name, rows) in zip(panels, result.items(), strict=True):
        axes.set_title(_literal(class_name), fontsize=10, color=INK, loc="left")
        axes.axvline(0, color=QUIET, linewidth=0.8)
        for height, network in enumerate(networks):
            _row(axes, height, rows[network], more_is_better)
        axes.set_yticks(range(len(networks)), [_literal(name) for name in networks])
        axes.set_ylim(len(networks) - 0.5, -0.5)
        _finish(axes)
    if np.ptp(panels[0].get_xlim()) < _NARROWEST:
        panels[0].set_xlim(-_NARROWEST, _NARROWEST)
    better = "right" if more_is_better else "left"
    figure.supxlabel(
        f"{title} minus {_literal(reference)}: {better} of 0 is better\n"
        "dot: a case; diamond: difference of the means, 95% interval",
        fontsize=8,
        color=QUIET,
    )
    return figure


def _row(axes: Axes, height: int, row: Mapping[str, Any], more_is_better: bool) -> None:
    """Draw the cases of a network, and its mean with the interval."""
    values = np.sort([value for value in row["by_case"].values() if value is not None])
    spread = (np.arange(len(values)) * _GOLDEN % 1 - 0.5) * 0.5
    gains = values if more_is_better else -values
    colors = np.where(gains > 0, _BETTER, np.where(gains < 0, _WORSE, _EQUAL))
    axes.scatter(values, height + spread, s=11, c=colors, alpha=0.55, linewidths=0)
    found = row["difference"]
    if found["mean"] is None:
        return
    if found["low"] is not None:
        axes.plot([found["low"], found["high"]], [height, height], color=INK, linewidth=1.8)
    axes.plot(found["mean"], height, "D", color=INK, markersize=5, markeredgecolor="white")


def _finish(axes: Axes) -> None:
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=QUIET, length=0)
    axes.tick_params(axis="y", labelcolor=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(QUIET)


def _literal(name: str) -> str:
    """Return a name as text that is not read as a formula, shortened if it is long."""
    short = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    return short.replace("$", r"\$")
