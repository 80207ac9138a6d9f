"""Aligned plain-text tables: the only printer of them in the project."""

from collections.abc import Sequence


def format_row(cells: Sequence[str], widths: Sequence[int], *, right: bool = False) -> str:
    """Format a line of cells, each padded to its column's width, two spaces between them.

    Args:
        cells: of one line.
        widths: of the columns, in characters; a longer cell keeps its length.
        right: align to the right instead of the left.

    Returns:
        The line, without spaces at the end.
    """
    padded = (
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width in zip(cells, widths, strict=True)
    )
    return "  ".join(padded).rstrip()


def format_rows(rows: Sequence[Sequence[str]], *, right: bool = False) -> list[str]:
    """Format a table, each column as wide as its longest cell.

    Args:
        rows: of equally many cells, a header first where there is one.
        right: align to the right instead of the left.

    Returns:
        The lines, without spaces at their ends.

    Example:
        >>> format_rows([("class", "DSC"), ("lesion", "0.75")])
        ['class   DSC', 'lesion  0.75']
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [format_row(row, widths, right=right) for row in rows]
