"""Colours and resolution of all figures, and their conversion to PNG.

Figures are drawn on their own Agg canvas, not with pyplot, so that they share no state.
"""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, QUIET, GRID = "#1b1b1b", "#666666", "#e3e3e3"
DPI = 160


def png_bytes(figure: Figure) -> bytes:
    """Render a figure as PNG.

    Args:
        figure: that belongs to no pyplot window.

    Returns:
        The bytes of the file.
    """
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
