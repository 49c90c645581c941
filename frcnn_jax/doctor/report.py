"""The check in words: a table of numbers, the findings by policy, a verdict."""

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from frcnn_jax.data import sources
from frcnn_jax.data.findings import FAULTS
from frcnn_jax.data.records import COCO_MAX_DETECTIONS
from frcnn_jax.doctor.check import Checked, Report
from frcnn_jax.doctor.statistics import IOUS, Statistics, shares
from frcnn_jax.terminal import Part, Rows

PLACES = 5  # named of each fault
CLASSES = 20  # lines of the table of classes
POLICIES = {  # in the order of the report
    "error": "errors (training stops, or learns what is wrong)",
    "warn": "warnings (left as it is)",
    "fix": "repaired in memory, or left out",
}

Row = tuple[str, list[str]]


def parts(report: Report) -> Iterator[Part]:
    """Yield the whole report."""
    yield f"{sources.TITLES[report.kind]} in {report.run.data.root}"
    if report.config:
        yield f"sizes and anchors as in {report.config}"
    if report.unseen:
        told = ",".join(report.unseen)
        yield f"not looked at: {told} (--split={told})"
    numbers = [split.numbers for split in report.splits if split.numbers]
    if numbers:
        names = ["", *(n.name for n in numbers)]
        rows = [*number_rows(numbers), ("", []), *class_rows(numbers)]
        yield ""
        none = [""] * len(numbers)
        yield Rows([names, *([label, *(cells or none)] for label, cells in rows)])
        yield f"(three numbers: least, median, most{footnote(numbers)})"
    for policy, title in POLICIES.items():
        if report.count(policy):
            yield ""
            yield f"{title}:"
            for split in report.splits:
                yield from _findings(split, policy)
    if report.advice:
        yield ""
        yield "advice:"
        yield from (_wrapped(text, "- ") for text in report.advice)
    yield ""
    yield _wrapped(verdict(report), "")


def verdict(report: Report) -> str:
    """Say in one sentence how things stand and what to do."""
    errors, rest = report.count("error"), report.count("warn") + report.count("fix")
    if errors:
        return (
            f"verdict: not ready, errors found: {errors}. Correct them, or write a"
            " repaired copy with --split=NAME --fix=OUT.json, before you train"
        )
    if rest:
        return f"verdict: ready for training; oddities worth a look: {rest}"
    return "verdict: ready for training; nothing odd was found"


def number_rows(splits: Sequence[Statistics]) -> list[Row]:
    """Return the table of numbers: a label and a cell for each split."""
    rows: list[Row] = [
        ("images", [_count(len(s.sizes)) for s in splits]),
        ("  without objects", [_count((s.per_image == 0).sum()) for s in splits]),
        ("  sizes (WxH)", [_sizes(s.sizes) for s in splits]),
        ("objects", [_count(len(s.side)) for s in splits]),
        ("crowds", [_count(s.crowds) for s in splits]),
        ("objects per image", [_spread(s.per_image) for s in splits]),
        ("side (sqrt of area), pixels", [_spread(s.side) for s in splits]),
        ("height / width", [_spread(s.at[0].ratio, 2) for s in splits]),
        ("small, medium, large %", [_shares(s.side) for s in splits]),
    ]
    if _crowded(splits):
        over = [_count((s.per_image > COCO_MAX_DETECTIONS).sum()) for s in splits]
        rows.append((f"images of over {COCO_MAX_DETECTIONS} objects*", over))
    for k, at in enumerate(splits[0].at):
        title = f"at short side {at.short_side}:"
        rows.append((title, []))
        rows.append(("  side, pixels", [_spread(s.at[k].side) for s in splits]))
        rows.append(
            ("  small, medium, large %", [_shares(s.at[k].side) for s in splits])
        )
        for iou in IOUS:
            cells = [_percent(s.at[k].recall(iou)) for s in splits]
            rows.append((f"  with an anchor of IoU {iou}", cells))
    return rows


def footnote(splits: Sequence[Statistics]) -> str:
    """Explain the star of the table where there is one."""
    if not _crowded(splits):
        return ""
    return f"; * the COCO metric counts {COCO_MAX_DETECTIONS} detections per image"


def _crowded(splits: Sequence[Statistics]) -> bool:
    return any(s.per_image.max(initial=0) > COCO_MAX_DETECTIONS for s in splits)


def class_rows(splits: Sequence[Statistics]) -> list[Row]:
    """Return the objects of each class, the most frequent of the first split first."""
    first = splits[0]
    order = np.argsort(-first.per_class, kind="stable")
    counts = [dict(zip(s.class_names, s.per_class, strict=True)) for s in splits]
    names = [first.class_names[k] for k in order]
    names += [n for c in counts[1:] for n in c if n not in names]
    shown = names if len(names) <= CLASSES else names[: CLASSES - 5] + names[-5:]
    rows: list[Row] = [("objects per class", [])]
    for place, name in enumerate(shown):
        if len(shown) < len(names) and place == CLASSES - 5:
            rows.append((f"  ... {len(names) - len(shown)} more", []))
        rows.append((f"  {name}", [_count(c.get(name, 0)) for c in counts]))
    return rows


def places(split: Checked, fault: str, most: int) -> list[str]:
    """Return the first places of a fault, with the names of their images."""
    found, dataset = split.findings, split.examined.dataset
    records = dataset.records if dataset else ()
    names = {r.source_id: r.path.name for r in records}
    source = split.examined.raw.source
    listed = [
        place.text(source, names if place.where == source else None)
        for place in found.of(fault)[:most]
    ]
    if (more := found.counts[fault] - len(listed)) > 0:
        listed.append(f"... and {more:,} more")
    return listed


def _findings(split: Checked, policy: str) -> Iterator[str]:
    for fault in split.findings.with_policy(policy):
        kind, count = FAULTS[fault], split.findings.counts[fault]
        remedy = f" ({kind.remedy})" if kind.remedy else ""
        yield _wrapped(f"{split.name}: {kind.text}: {count:,}{remedy}", "  ")
        yield from (f"    {text}" for text in places(split, fault, PLACES))


def _wrapped(text: str, mark: str) -> str:
    return textwrap.fill(
        text, 88, initial_indent=mark, subsequent_indent=" " * len(mark)
    )


def _count(number: int) -> str:
    return f"{int(number):,}"


def _percent(share: float) -> str:
    return "n/a" if np.isnan(share) else f"{100 * share:.1f} %"


def _shares(side: np.ndarray) -> str:
    if not len(side):
        return "n/a"
    return " ".join(f"{100 * share:.0f}" for share in shares(side))


def _spread(values: np.ndarray, digits: int = 0) -> str:
    """Give the least, the median and the most."""
    if not len(values):
        return "n/a"
    points = np.quantile(values, (0, 0.5, 1))
    return " ".join(f"{p:.{digits}f}" for p in points)


def _sizes(sizes: np.ndarray) -> str:
    if not len(sizes):
        return "n/a"
    (w, h), (w2, h2) = sizes.min(0), sizes.max(0)
    return f"{w}x{h}" if (w, h) == (w2, h2) else f"{w}x{h}..{w2}x{h2}"
