"""Tables as CSV files: rows of columns, whose texts no spreadsheet takes for formulas."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.files import ESCAPED, encodable, write_bytes

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is computed by a spreadsheet


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, completely or not at all.

    Columns are in the order in which they first appear. None and absent entries become empty
    cells. A nested mapping becomes one column for each of its entries (`standard.dsc`). A text that
    a spreadsheet would compute as a formula gets an apostrophe before it, and bytes of names that
    are not UTF-8 are written as `encodable` returns them; `read_table` undoes both.

    Args:
        path: the file; missing folders are made.
        rows: one mapping from column to value for each row.

    Raises:
        OSError: the file cannot be written.
    """
    flat = [_flatten(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    lines = [_line(columns), *(_line([row.get(name) for name in columns]) for row in flat)]
    write_bytes(path, "".join(lines).encode("utf-8"))


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a table that `write_table` wrote; its texts are those that it was given.

    Args:
        path: the file.

    Returns:
        A mapping from column to text for each row; empty cells are empty texts.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: _text(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def _line(values: Sequence[Any]) -> str:
    """Return one line of a table; the module csv quotes what its own line ends hold, so both."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow([_cell(value) for value in values])
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: Any) -> Any:
    """Return a cell's value as it is written: no text begins as a formula, all are UTF-8."""
    if not isinstance(value, str):
        return value
    return f"'{encodable(value)}" if _is_formula(value) else encodable(value)


def _text(cell: str) -> str:
    """Return the text for which `_cell` returned a cell."""
    if cell.startswith("'") and _is_formula(cell):
        cell = cell[1:]
    return ESCAPED.sub(lambda found: chr(0xDC00 + int(found[1], 16)), cell)


def _is_formula(text: str) -> bool:
    """Say whether a text, after any apostrophes, begins as a formula and is no plain number."""
    if not text.lstrip("'").startswith(FORMULA):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def _flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the row with dotted names in place of nested mappings."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
