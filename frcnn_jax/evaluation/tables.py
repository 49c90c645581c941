"""Figures as aligned plain text."""

import unicodedata
from collections.abc import Sequence


def shown(value: float | None) -> str:
    """Return a figure with three decimals, "n/a" for None."""
    return "n/a" if value is None else f"{value:.3f}"


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Return rows of equal length as lines, the first `left` columns flush left."""
    widths = [max(max(map(_width, column)), 5) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for k, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - _width(cell))
            cells.append(cell + space if k < left else space + cell)
        lines.append("  ".join(cells).rstrip())
    return lines


def _width(text: str) -> int:
    """Columns of a terminal that the text takes (wide letters two, marks none)."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )
