"""The plot of paired differences."""

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from ssa_jax.figures.differences import paired_differences
from ssa_jax.figures.drawing import png_bytes

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#9a9a9a"


def network(
    values: list[float | None], mean: float | None, *interval: float | None
) -> dict[str, Any]:
    low, high = interval or (None, None)
    by_case = {f"case {number}": value for number, value in enumerate(values)}
    return {"by_case": by_case, "difference": {"mean": mean, "low": low, "high": high}}


RESULT = {
    "one": {
        "A": {},
        "B": network([0.2, -0.1, None, 0.0], 0.05, -0.1, 0.15),
        "C": network([0.3], 0.3),
    },
    "two": {"A": {}, "B": network([None], None), "C": network([0.1], 0.1)},
}


def drawn(**options: Any) -> Figure:
    given: dict[str, Any] = {"title": "DSC", "reference": "A", "more_is_better": True} | options
    return paired_differences(RESULT, **given)


def dots(figure: Figure, panel: int, row: int) -> list[tuple[float, str]]:
    """Place and colour of each dot of a network, from left to right."""
    found: Any = figure.axes[panel].collections[row]
    points, colors = np.asarray(found.get_offsets()), found.get_facecolors()
    assert np.all(np.abs(points[:, 1] - row) <= 0.25)
    colors = np.broadcast_to(colors, (len(points), 4))
    return [(float(x), to_hex(color)) for (x, _), color in zip(points, colors, strict=True)]


def test_a_dot_for_each_case_in_the_colour_of_its_sign():
    figure = drawn()
    assert dots(figure, 0, 0) == [(-0.1, ORANGE), (0.0, GREY), (0.2, BLUE)]
    assert dots(figure, 0, 1) == [(0.3, BLUE)]
    assert dots(figure, 1, 0) == []
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["B", "C"]
    turned = drawn(more_is_better=False)
    assert dots(turned, 0, 0) == [(-0.1, BLUE), (0.0, GREY), (0.2, ORANGE)]
    assert "left of 0 is better" in turned.get_supxlabel()


def test_the_mean_with_its_interval():
    _, interval, mean, alone = drawn().axes[0].lines  # the first is at 0
    assert list(interval.get_xdata()) == [-0.1, 0.15] and list(interval.get_ydata()) == [0, 0]
    assert list(mean.get_xdata()) == [0.05] and list(alone.get_xdata()) == [0.3]
    assert len(drawn().axes[1].lines) == 2  # the axis, and C's mean


@pytest.mark.parametrize(
    "name", ["$x^$", "a_b", "a very long name of a network that goes on and on"]
)
def test_any_name_can_be_drawn(name):
    result = {"one": {name: {}, f"{name}2": network([0.2, -0.1], 0.05, -0.1, 0.15)}}
    figure = paired_differences(result, title="DSC", reference=name, more_is_better=True)
    assert np.asarray(Image.open(io.BytesIO(png_bytes(figure)))).std() > 0
    assert f"DSC minus {name[:5]}".replace("$", r"\$")[:12] in figure.get_supxlabel()


def test_networks_that_do_not_differ_have_a_readable_axis():
    """Matplotlib leaves shared axes of zeros alone 1e-17 wide."""
    same = {"A": {}, "B": network([0.0, 0.0], 0.0, 0.0, 0.0)}
    result = {"one": same, "two": same}
    figure = paired_differences(result, title="DSC", reference="A", more_is_better=True)
    assert [axes.get_xlim() for axes in figure.axes] == [(-1e-3, 1e-3)] * 2
