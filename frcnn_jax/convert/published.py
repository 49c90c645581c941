"""Published weights by name: `mmdet:r50_fpn_1x`, `torchvision:resnet50`.

`published.csv` is the table. Names of mmdetection rows are those of our configurations;
torchvision's are its own, IMAGENET1K_V1 unless they end in `_v2`. Every address ends in
`-` and the first eight hex digits of the file's sha256, as both projects publish it.
"""

import csv
import difflib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

_NAME = re.compile(r"(?!hf:)([A-Za-z]\w+):([\w.-]*)")


class Published(NamedTuple):
    """A row of the table."""

    name: str  # peer:name
    config: str  # name of our configuration of this detector; "" for a trunk
    address: str
    note: str

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.address.rpartition("/")[2]

    @property
    def digest(self) -> str:
        """The first hex digits of the file's sha256."""
        return Path(self.file).stem.rpartition("-")[2]

    @property
    def secret(self) -> Mapping[str, str]:
        """No headers: everyone may have them."""
        return {}


@cache
def table() -> Mapping[str, Published]:
    """Every row by name."""
    with open(Path(__file__).with_suffix(".csv"), newline="") as file:
        rows = [Published(**row) for row in csv.DictReader(file)]
    return MappingProxyType({row.name: row for row in rows})


def is_name(text: str | Path) -> bool:
    """Whether this names published weights; an existing file wins."""
    return bool(_NAME.fullmatch(str(text))) and not Path(text).exists()


def find(name: str) -> Published:
    """The row of a name.

    Errors: ValueError with the nearest names, or after a bare `peer:` with all of them.
    """
    rows = table()
    if name in rows:
        return rows[name]
    peer, _, rest = name.partition(":")
    peers = list(dict.fromkeys(row.partition(":")[0] for row in rows))
    there = [row for row in rows if row.startswith(f"{peer}:")]
    if there and not rest:
        raise ValueError(
            f"{name} is a peer without a name; there are\n" + _listed(there)
        )
    near = difflib.get_close_matches(
        name, there or rows, 3, cutoff=0.0 if there else 0.6
    )
    hint = f"; nearest: {', '.join(near)}" if near else ""
    if not there:
        known = ", ".join(f"{peer}:" for peer in peers)
        raise ValueError(f"{name}: no published weights of {peer!r} ({known}){hint}")
    raise ValueError(f"{name}: no such published weights{hint}; {peer}: lists all")


def _listed(names: list[str]) -> str:
    """A line for each name: its configuration, or that it is a trunk, and its note."""
    lines = []
    for row in map(table().__getitem__, names):
        use = f"configs/{row.config}.py" if row.config else "ImageNet trunk"
        lines.append(f"  {row.name}: {use}" + (f" ({row.note})" if row.note else ""))
    return "\n".join(lines)
