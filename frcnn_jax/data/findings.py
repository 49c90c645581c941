"""What is odd about a data set: each kind of fault, what is done about it, and where.

Every fault has one word of policy: "error" stops before the first step, "warn" is
counted and left as it is, "fix" is repaired in memory (or left out) and counted.
Readers add what they find and go on; `raise_errors` stops for all errors at once, and
the data check prints every finding instead.
"""

from collections import Counter
from typing import Any, NamedTuple

NAMED = 20  # findings listed in one message


class Fault(NamedTuple):
    """A kind of oddity."""

    policy: str  # "error", "warn" or "fix"
    text: str  # "{n} boxes ...", of n findings
    remedy: str = ""  # what the user can do, for errors and warnings


class Finding(NamedTuple):
    """One oddity, and where it is."""

    fault: str  # key of FAULTS
    where: str  # the file
    image: Any = None  # id of the image
    annotation: Any = None  # id of the annotation
    detail: str = ""  # what is there, in a few words

    def text(self) -> str:
        """Say where and what in one line."""
        ids = [f"image {self.image!r}"] if self.image is not None else []
        ids += (
            [f"annotation {self.annotation!r}"] if self.annotation is not None else []
        )
        place = f"{self.where} ({', '.join(ids)})" if ids else self.where
        return f"{place}: {self.detail}" if self.detail else place


FAULTS: dict[str, Fault] = {}


class Findings:
    """The findings of one reading, in the order they were made."""

    def __init__(self, skip: tuple[str, ...] = ()):
        """Start with none; faults named in `skip` are dropped instead of errors."""
        self.all: list[Finding] = []
        self._skip = skip

    def add(self, fault: str, where: Any, **more: Any) -> None:
        """Note a finding; `more` are fields of `Finding`. KeyError: unknown fault."""
        FAULTS[fault]
        self.all.append(Finding(fault, str(where), **more))

    def policy(self, fault: str) -> str:
        """Return the word for this fault in this reading."""
        return "fix" if fault in self._skip else FAULTS[fault].policy

    def counts(self) -> Counter[str]:
        """Return how many findings there are of each fault."""
        return Counter(finding.fault for finding in self.all)

    def raise_errors(self) -> None:
        """Raise ValueError naming all errors, each kind with its first places."""
        wrong = [f for f in self.all if self.policy(f.fault) == "error"]
        if wrong:
            raise ValueError("\n".join(self.report(wrong)))

    def report(self, chosen: list[Finding] | None = None) -> list[str]:
        """Return lines: each fault with its number, its remedy and its first places."""
        lines = []
        chosen = self.all if chosen is None else chosen
        for fault in dict.fromkeys(f.fault for f in chosen):
            places = [f.text() for f in chosen if f.fault == fault]
            kind = FAULTS[fault]
            remedy = f"; {kind.remedy}" if kind.remedy else ""
            lines.append(kind.text.format(n=len(places)) + remedy)
            lines += [f"  {place}" for place in places[:NAMED]]
            if len(places) > NAMED:
                lines.append(f"  ... and {len(places) - NAMED} more")
        return lines
