"""Colours and resolution of all figures, and their conversion to PNG.

Figures are drawn on their own Agg canvas, not with pyplot, so that they share no state.
"""

import io
import warnings

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, QUIET, GRID = "#1b1b1b", "#666666", "#e3e3e3"
DPI = 160


def png_bytes(figure: Figure) -> bytes:
    """Render a figure as PNG; characters that the font lacks become boxes, without a warning.

    Args:
        figure: that belongs to no pyplot window.

    Returns:
        The bytes of the file.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
