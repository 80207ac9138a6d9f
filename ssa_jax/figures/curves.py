"""Training curves over steps, and curves over the rounds of pseudo-labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssa_jax.evaluation.summary import AVERAGE
from ssa_jax.figures.drawing import DPI, GRID, INK, QUIET

_CURVE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_SMOOTH_ABOVE = 200  # points; a longer loss curve is drawn with its moving mean
# Titles by the word that the name of a metric contains.
_PANELS = {"loss": "loss", "dsc": "DSC", "learning_rate": "learning rate"}


def training_curves(series: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Draw losses, DSC and learning rate over the steps of a training.

    A metric is drawn in the panel whose word ("loss", "dsc", "learning_rate") the last part of its
    name contains; other metrics and values that are not finite are not drawn. A long loss curve is
    pale, with its moving mean over it. The best validation DSC is marked.

    Args:
        series: (step, value) pairs by name, as `metric_log.read_metrics` returns them.

    Raises:
        ValueError: there is nothing to draw.
    """
    chosen = {
        title: {name: points for name, points in series.items() if word in name.rpartition("/")[2]}
        for word, title in _PANELS.items()
    }
    chosen = {title: curves for title, curves in chosen.items() if curves}
    if not chosen:
        raise ValueError(
            f"metrics are {sorted(series)}, expected a loss, dsc or learning_rate; train for a step"
        )
    figure = Figure(figsize=(3.5 * len(chosen), 2.7), dpi=DPI, layout="constrained")
    for position, (title, curves) in enumerate(chosen.items(), start=1):
        _curves(figure.add_subplot(1, len(chosen), position), title, curves)
    return figure


def rounds_curves(rows: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> Figure:
    """Draw validation DSC, and the pseudo-labels' share, confidence and agreement, over rounds.

    Args:
        rows: contents of `round.json` of each round, in order.
        class_names: names of the classes.
    """
    panels = {
        "validation_dsc": "validation DSC",
        "pseudo_share": "share of the pseudo-labels' pixels",
        "confidence": "mean probability of their pixels",
        "agreement": "agreement with the round before (DSC)",
    }
    figure = Figure(figsize=(3.5 * len(panels), 2.7), dpi=DPI, layout="constrained")
    for position, (field, title) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), position)
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        axes.set_xlabel("round", fontsize=8, color=QUIET)
        names = [name for name in (*class_names, AVERAGE) if name in rows[0].get(field, {})]
        for name, color in zip(
            names if len(class_names) > 1 else names[:1], _CURVE_COLORS, strict=False
        ):
            values = [row[field][name] for row in rows]
            axes.plot(
                [row["round"] for row in rows],
                [np.nan if value is None else value for value in values],
                "o-",
                color=color,
                markersize=4,
                linewidth=1.4,
                label=name,
            )
        axes.set_xticks([row["round"] for row in rows])
        axes.set_ylim(0.0, None if field == "pseudo_share" else 1.0)
        _finish_axes(axes, title, len(names))
    return figure


def _curves(axes: Axes, title: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel("step", fontsize=8, color=QUIET)
    for index, (name, points) in enumerate(sorted(curves.items())):
        steps, values = np.array(points, dtype=np.float64).T
        finite = np.isfinite(values)
        steps, values = steps[finite], values[finite]
        color = _CURVE_COLORS[index % len(_CURVE_COLORS)]
        long = len(values) > _SMOOTH_ABOVE and title == "loss"
        marker = "o" if len(values) < 2 else None
        best = None
        if title == "DSC" and name.startswith("validation") and len(values):
            best = int(values.argmax())
            name += f", best {values[best]:.3f}"
        axes.plot(
            steps,
            values,
            color=color,
            alpha=0.2 if long else 1,
            linewidth=0.7 if long else 1.4,
            marker=marker,
            label=None if long else name,
        )
        if long:
            axes.plot(steps, _moving_mean(values), color=color, linewidth=1.5, label=name)
        if best is not None:
            axes.plot(steps[best], values[best], "o", color=color, markersize=4)
    _finish_axes(axes, title, len(curves))


def _moving_mean(values: np.ndarray) -> np.ndarray:
    """Average over the window around each point, shorter at the ends."""
    half = max(len(values) // 50, 1)
    sums = np.concatenate([[0.0], values.cumsum()])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _finish_axes(axes: Axes, title: str, curves: int) -> None:
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7.5, colors=QUIET, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(QUIET)
    low, high = axes.get_ylim()
    if title == "DSC":
        axes.set_ylim(min(low, 0.0), max(high, 1.0))
    elif title == "loss" and low > -0.1 * high:
        axes.set_ylim(0.0, high)
    if title != "learning rate" or curves > 1:
        axes.legend(fontsize=7.5, frameon=False, labelcolor=INK)
