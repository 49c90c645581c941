"""Numbers of a run as a CSV table that grows in rows and, seldom, in columns."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO


class Table:
    """Appends rows to a CSV file; its columns are the names seen so far, in order.

    A name that appears later, such as the first AP, is a new last column: the file is
    written anew, once, with empty cells above. None is an empty cell too.
    """

    def __init__(self, path: str | Path, rows: Sequence[Mapping[str, Any]]):
        """Replaces the file by these rows."""
        self._path = Path(path)
        self._columns = list(dict.fromkeys(name for row in rows for name in row))
        self._file = self._anew([[_cell(r, c) for c in self._columns] for r in rows])

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a row; it is in the file when this returns."""
        new = [name for name in row if name not in self._columns]
        if new:
            self.close()
            with open(self._path, newline="") as file:  # not kept in memory
                old = list(csv.reader(file))[1:]
            self._columns += new
            self._file = self._anew([cells + [""] * len(new) for cells in old])
        csv.writer(self._file, lineterminator="\n").writerow(
            [_cell(row, name) for name in self._columns]
        )
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _anew(self, rows: Sequence[Sequence[Any]]) -> TextIO:
        """The file with header and rows, open for more; a kill leaves old or new."""
        made = self._path.with_name(self._path.name + ".tmp")
        with open(made, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([self._columns, *rows] if self._columns else [])
        made.replace(self._path)
        return open(self._path, "a", newline="")


def _cell(row: Mapping[str, Any], name: str) -> Any:
    value = row.get(name)
    return "" if value is None else value
