"""Tables and progress: by rich on a terminal, as plain lines for grep elsewhere."""

import functools
import os
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from rich import box, progress
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

PLAIN = 60.0  # seconds between lines of progress where there is no terminal
MEMORY = 600.0  # seconds of the past that the time left is guessed from

T = TypeVar("T")


class Rows(NamedTuple):
    """A table of text, its head first."""

    rows: Sequence[Sequence[str]]  # of equal length
    left: int = 1  # so many columns are flush left, the others flush right


Part = str | Rows  # of what is shown: lines, or a table


def show(parts: Iterable[Part]) -> None:
    """Prints lines and tables, one after the other."""
    console, parts = _console(), list(parts)
    if not _interactive(console):
        print(text(parts), flush=True)
        return
    for part in parts:
        console.print(_drawn(part) if isinstance(part, Rows) else Text(part))


def text(parts: Iterable[Part]) -> str:
    """Lines and tables as plain text, without a last newline."""
    lines = [
        "\n".join(aligned(*part)) if isinstance(part, Rows) else part for part in parts
    ]
    return "\n".join(lines)


def track(
    items: Iterable[T],
    what: str,
    total: int | None,
    *,
    done: int = 0,
    every: float = PLAIN,
) -> Iterator[T]:
    """Hands items on, with a bar below all else that is printed meanwhile.

    Where there is no terminal, a line at most `every` seconds; 0 = none, for those who
    print lines of their own. `total` items, None if nobody knows, of which `done` were
    there before. The bar goes when the items end, or with `close`.
    """
    console = _console()
    if not _interactive(console):
        yield from _told(items, what, total, done, every) if every else items
        return
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    bar = progress.Progress(
        *columns,
        console=console,
        transient=True,
        refresh_per_second=2,
        speed_estimate_period=MEMORY,
    )
    with bar:
        task = bar.add_task(what, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)


def _told(items: Iterable[T], what: str, total: int | None, done: int, every: float):
    """The same in lines."""
    start = last = time.perf_counter()
    of = "" if total is None else f"/{total}"
    for count, item in enumerate(items, start=1):
        yield item
        now = time.perf_counter()
        if now - last >= every:
            eta = ""
            if total is not None:
                left = (now - start) / count * (total - done - count)
                eta = f"  eta {duration(left)}"
            print(f"{what} {done + count}{of}{eta}", flush=True)
            last = now


def figure(value: float | None) -> str:
    """A figure with three decimals, "n/a" for None."""
    return "n/a" if value is None else f"{value:.3f}"


def duration(seconds: float) -> str:
    """3725 -> "1h02m", 65 -> "1m05s", 5 -> "5s"."""
    seconds = int(max(seconds, 0))
    hours, minutes = divmod(seconds // 60, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds % 60:02d}s" if minutes else f"{seconds}s"


@functools.cache
def _console() -> Console:
    """The one of this process: a bar makes room for what others print through it."""
    return Console(highlight=False)


def _interactive(console: Console) -> bool:
    # A shell command of a notebook has a terminal that cannot move its cursor.
    return console.is_interactive and "JPY_PARENT_PID" not in os.environ


def _drawn(table: Rows) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, name in enumerate(table.rows[0]):
        flush: JustifyMethod = "left" if place < table.left else "right"
        made.add_column(Text(name), justify=flush)
    for row in table.rows[1:]:
        made.add_row(*map(Text, row))
    return made


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Rows of equal length as lines, the first `left` columns flush left."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - _width(cell))
            cells.append(cell + space if place < left else space + cell)
        lines.append("  ".join(cells).rstrip())
    return lines


def _width(text: str) -> int:
    """Columns of a terminal that the text takes (wide letters two, marks none)."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )
