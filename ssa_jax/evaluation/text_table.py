"""Tables as aligned plain text, Markdown and LaTeX: the only printer of them in the project."""

import re
from collections.abc import Sequence

_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_<|"})
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": "$<$", ">": "$>$", "|": "$|$"}
)
_SIGN = re.compile(r"(?<![\w.)])([+-])(?=\d)")  # of a number; an ordinary hyphen stays one


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


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    r"""Format a table in Markdown; characters that mean something there are escaped.

    Args:
        rows: of equally many cells, the header first.

    Returns:
        The lines.

    Example:
        >>> markdown_table([("class", "DSC"), ("a|b", "0.75")])
        ['| class | DSC |', '|---|---|', '| a\\|b | 0.75 |']
    """
    lines = [
        "| " + " | ".join(_one_line(c).translate(_MARKDOWN) for c in row) + " |" for row in rows
    ]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def latex_table(rows: Sequence[Sequence[str]], *, groups: bool = False) -> list[str]:
    """Format a table as a LaTeX `tabular` with the rules of booktabs.

    Args:
        rows: of equally many cells, the header first.
        groups: put a rule above each later row whose first cell is not empty.

    Returns:
        The lines; characters that LaTeX reads as commands are escaped.
    """
    head, *body = [" & ".join(map(latex_text, row)) + r" \\" for row in rows]
    lines = [rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}", r"\toprule", head, r"\midrule"]
    for number, line in enumerate(body):
        if groups and number and rows[number + 1][0]:
            lines.append(r"\midrule")
        lines.append(line)
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def latex_text(text: str) -> str:
    r"""Escape a text for LaTeX; signs of numbers are set as such.

    Args:
        text: of one line; line ends become spaces.

    Example:
        >>> latex_text("A_1 & B: -0.5")
        'A\\_1 \\& B: $-$0.5'
    """
    return _SIGN.sub(r"$\1$", _one_line(text).translate(_LATEX))


def _one_line(text: str) -> str:
    return " ".join(text.split())
