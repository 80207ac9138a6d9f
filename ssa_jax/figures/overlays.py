"""Figures of slices, predictions and attention maps, from NumPy arrays.

Ground-glass is red and consolidation green as in the paper's figure 1, in the vermilion and
bluish green of Okabe and Ito, which colour-blind readers can distinguish. A single class is blue
in the truth and vermilion in the prediction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from ssa_jax.figures.drawing import DPI, INK, QUIET

_CLASS_COLORS = ("#f04e23", "#00c08b", "#56b4e9", "#f0e442", "#cc79a7")
_SINGLE_TRUTH = "#3fa7f0"
_FILL = 0.35  # opacity of a class over the slice
_PANEL = 1.7  # width of a panel, inches
_GAP = 0.05
_CAPTION = 19  # characters


@dataclass(frozen=True)
class SlicePicture:
    """The contents of one row of a picture, on the slice's own grid.

    Attributes:
        image: `[H, W]`, float in [0, 1] or uint8.
        truth: class index `[H, W]`, 0 background; None where there is none.
        prediction: class index `[H, W]`.
        attention: attention maps `[h, w]`, shallow to deep, of any size, each covering exactly the
            slice (without the padding of the network grid).
        title: the slice's name, perhaps with its score.
    """

    image: np.ndarray
    truth: np.ndarray | None
    prediction: np.ndarray
    attention: Sequence[np.ndarray]
    title: str


def contact_sheet(rows: Sequence[SlicePicture], *, class_names: Sequence[str]) -> Figure:
    """Draw a row for each slice: slice, truth, prediction and attention maps (section 3.1.1).

    Truth and prediction are filled and outlined over the slice. Each attention map is resized to
    the slice bilinearly and its own range is stretched to [0, 1], so that only the shapes of maps
    can be compared; a thin outline repeats the truth (the prediction where there is none). If no
    row has a truth, there is no panel for it; if some have, it is empty in the others.

    Args:
        rows: one slice or more, all with equally many attention maps.
        class_names: names of the classes 1, 2, ..., five at most.

    Raises:
        ValueError: no rows, or rows with different numbers of maps; shapes that differ, labels
            outside 0..len(class_names), an image that is neither uint8 nor a float in [0, 1], or a
            map that is not finite.
    """
    maps = sorted({len(row.attention) for row in rows})
    if len(maps) != 1:
        raise ValueError(
            f"rows have {maps} attention maps, expected one row or more with equally many maps"
        )
    for row in rows:
        _check(row, len(class_names))
    with_truth = any(row.truth is not None for row in rows)
    captions = ["slice", *(["truth"] if with_truth else []), "prediction"]
    captions += [f"attention {stage}" for stage in range(1, maps[0] + 1)]
    panels = [_panels(row, len(class_names), with_truth) for row in rows]
    figure = _grid(panels, captions, [row.title for row in rows])
    _legend(figure, _class_colors(class_names, with_truth))
    outline = "truth (prediction where none)" if with_truth else "prediction"
    _note(
        figure, f"attention: each map from its least (black) to its most; white outline: {outline}"
    )
    return figure


def label_sheet(
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    ignored: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    class_names: Sequence[str],
) -> Figure:
    """Draw slices next to each other, each above its pseudo-labels.

    Args:
        images: `[H, W]` of each slice, float in [0, 1].
        labels: class index `[H, W]` of each slice.
        ignored: bool `[H, W]` of each slice, pixels whose label does not count; they are drawn in
            another colour.
        titles: a name for each slice.
        class_names: names of the classes 1, 2, ..., four at most.
    """
    grays = [np.repeat(image[..., None], 3, axis=-1) for image in images]
    extra = len(class_names) + 1
    drawn = [np.where(hidden, extra, mask) for hidden, mask in zip(ignored, labels, strict=True)]
    overlays = [
        _overlay(gray, mask, _CLASS_COLORS) for gray, mask in zip(grays, drawn, strict=True)
    ]
    short = [title if len(title) <= _CAPTION else f"...{title[-_CAPTION:]}" for title in titles]
    empty = sum(
        not (mask.astype(bool) & ~hidden).any()
        for hidden, mask in zip(ignored, labels, strict=True)
    )
    below = f"pseudo-label ({empty} of {len(drawn)} without lesion)" if empty else "pseudo-label"
    figure = _grid([[_Panel(gray) for gray in grays], overlays], short, ["slice", below])
    names = [*class_names, "ignored"] if any(hidden.any() for hidden in ignored) else class_names
    _legend(figure, dict(zip(names, _CLASS_COLORS, strict=False)))
    return figure


def _check(row: SlicePicture, classes: int) -> None:
    shape = row.image.shape
    if row.image.ndim != 2:
        raise ValueError(f"{row.title}: image has shape {list(shape)}, expected [H, W]")
    _unit_range(row)
    if not 1 <= classes <= len(_CLASS_COLORS):
        raise ValueError(f"class_names has {classes} names; expected 1 to {len(_CLASS_COLORS)}")
    for name, labels in (("truth", row.truth), ("prediction", row.prediction)):
        if labels is None:
            continue
        if labels.shape != shape:
            raise ValueError(
                f"{row.title}: {name} has shape {list(labels.shape)}, expected the image's "
                f"{list(shape)}; resample it to the slice's own grid"
            )
        if labels.min() < 0 or labels.max() > classes:
            raise ValueError(
                f"{row.title}: {name} has labels {labels.min()} to {labels.max()}, expected 0 to "
                f"{classes}"
            )
    for stage, weights in enumerate(row.attention, start=1):
        if weights.ndim != 2 or not np.isfinite(weights).all():
            raise ValueError(
                f"{row.title}: attention {stage} has shape {list(weights.shape)}, expected finite "
                "[h, w]"
            )


def _unit_range(row: SlicePicture) -> np.ndarray:
    """Return the image as float `[H, W]` in [0, 1]."""
    if row.image.dtype == np.uint8:
        return row.image / 255.0
    if not np.issubdtype(row.image.dtype, np.floating):
        raise ValueError(f"{row.title}: image is {row.image.dtype}, expected uint8 or float")
    low, high = float(row.image.min()), float(row.image.max())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ValueError(f"{row.title}: image spans {low:g} to {high:g}, expected 0 to 1")
    return row.image.astype(np.float64)


@dataclass(frozen=True)
class _Panel:
    """A picture and the outlines over it.

    Attributes:
        picture: RGB `[H, W, 3]` in [0, 1].
        outlines: (mask, colour, width in points) of each.
    """

    picture: np.ndarray
    outlines: Sequence[tuple[np.ndarray, str, float]] = ()


def _panels(row: SlicePicture, classes: int, with_truth: bool) -> list[_Panel | None]:
    gray = np.repeat(_unit_range(row)[..., None], 3, axis=-1)
    panels: list[_Panel | None] = [_Panel(gray)]
    if with_truth:
        colors = _truth_colors(classes)
        panels.append(None if row.truth is None else _overlay(gray, row.truth, colors))
    panels.append(_overlay(gray, row.prediction, _CLASS_COLORS))
    lesion = (row.prediction if row.truth is None else row.truth) > 0
    for weights in row.attention:
        heat = colormaps["inferno"](_stretch(weights, lesion.shape))[..., :3]
        panels.append(_Panel(heat, [(lesion, "white", 0.5)]))
    return panels


def _truth_colors(classes: int) -> Sequence[str]:
    return (_SINGLE_TRUTH,) if classes == 1 else _CLASS_COLORS


def _overlay(gray: np.ndarray, labels: np.ndarray, colors: Sequence[str]) -> _Panel:
    picture = gray.copy()
    outlines = []
    for index in range(1, int(labels.max()) + 1):
        mask, color = labels == index, colors[index - 1]
        picture[mask] = (1 - _FILL) * picture[mask] + _FILL * np.array(to_rgb(color))
        outlines.append((mask, color, 0.9))
    return _Panel(picture, outlines)


def _stretch(weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resize a map `[h, w]` to the slice's grid `[H, W]` and stretch its range to [0, 1]."""
    values = weights.astype(np.float64)
    span = np.ptp(values)
    values = (values - values.min()) / (span if span > 0 else 1.0)
    resized = Image.fromarray(values.astype(np.float32)).resize(
        (shape[1], shape[0]), Image.Resampling.BILINEAR
    )
    return np.clip(np.asarray(resized), 0, 1)


def _grid(
    rows: Sequence[Sequence[_Panel | None]], captions: Sequence[str], titles: Sequence[str]
) -> Figure:
    """Draw rows of equally wide panels, captions over the columns and a title over each row."""
    head, label, foot = 0.27, 0.22, 0.32
    ratios = [row[0].picture.shape[0] / row[0].picture.shape[1] for row in rows if row[0]]
    heights = [_PANEL * float(np.clip(ratio, 0.5, 1.5)) for ratio in ratios]
    width = len(captions) * (_PANEL + _GAP) + _GAP
    total = head + sum(heights) + len(rows) * label + foot
    figure = Figure(figsize=(width, total), dpi=DPI, facecolor="white")
    lefts = [_GAP + column * (_PANEL + _GAP) for column in range(len(captions))]
    for left, caption in zip(lefts, captions, strict=True):
        at = ((left + _PANEL / 2) / width, 1 - 0.16 / total)
        figure.text(*at, caption, ha="center", va="center", fontsize=9, color=INK)
    top = total - head
    for row, title, height in zip(rows, titles, heights, strict=True):
        at = (_GAP / width, (top - label / 2) / total)
        # A title holds a file's name: `$` in it is no formula, and a byte may be no character.
        shown = title.encode("utf-8", "backslashreplace").decode("utf-8")
        text = figure.text(*at, shown, ha="left", va="center", fontsize=7.5, color=QUIET)
        text.set_parse_math(False)
        top -= label + height
        for left, panel in zip(lefts, row, strict=True):
            box = (left / width, top / total, _PANEL / width, height / total)
            if panel is not None:
                _show(figure.add_axes(box), panel)
    return figure


def _show(axes: Axes, panel: _Panel) -> None:
    axes.set_axis_off()
    axes.imshow(panel.picture, interpolation="bilinear")
    for mask, color, width in panel.outlines:
        if mask.any() and not mask.all():
            axes.contour(mask.astype(float), levels=[0.5], colors=[color], linewidths=[width])


def _class_colors(class_names: Sequence[str], with_truth: bool) -> dict[str, str]:
    """Return the names and colours of the legend."""
    if len(class_names) > 1:
        return dict(zip(class_names, _CLASS_COLORS, strict=False))
    name = class_names[0]
    entries = {f"{name}, truth": _SINGLE_TRUTH} if with_truth else {}
    return entries | {f"{name}, prediction": _CLASS_COLORS[0]}


def _legend(figure: Figure, entries: Mapping[str, str]) -> None:
    handles = [
        Patch(facecolor=(*to_rgb(color), _FILL + 0.2), edgecolor=color, label=name)
        for name, color in entries.items()
    ]
    figure.legend(
        handles=handles,
        loc="lower left",
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        bbox_to_anchor=(0.0, 0.0),
        borderaxespad=0.2,
        handlelength=1.4,
    )


def _note(figure: Figure, text: str) -> None:
    """Add a line of text at the lower right."""
    figure.text(
        1 - _GAP / figure.get_figwidth(),
        0.16 / figure.get_figheight(),
        text,
        ha="right",
        va="center",
        fontsize=7.5,
        color=QUIET,
    )
