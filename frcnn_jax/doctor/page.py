"""The check as one page: numbers, plots, findings and their pictures, all in one file.

The file needs no network and no script, is readable on a phone, in the dark and
printed. All names that come from the data are escaped.
"""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from frcnn_jax import vis
from frcnn_jax.data import sources, transforms
from frcnn_jax.data.annotations import is_number
from frcnn_jax.data.findings import FAULTS, Finding
from frcnn_jax.data.records import Record
from frcnn_jax.doctor import pictures, report
from frcnn_jax.doctor.check import Checked, Report
from frcnn_jax.doctor.statistics import Statistics
from frcnn_jax.pages import frame, plots

SHOWN = 6  # pictures of each fault
PLACES = 20  # places named of each fault
SIDE = 360  # pixels of the longer side of a picture
CONTEXT = 160  # pixels shown around a small box, at least
OTHERS, MARKED = 2, 5  # colours: blue, vermilion
LEAST = 12  # pixels of a marked box as it is drawn
CLASSES = 30  # bars


def html(found: Report) -> str:
    """Return the page."""
    title = f"{sources.TITLES[found.kind]} in {found.run.data.root}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict {_worst(found)}">{escape(report.verdict(found))}</p>',
    ]
    if found.config:
        told = escape(f"sizes and anchors as in {found.config}")
        parts.append(f'<p class="soft">{told}</p>')
    if found.unseen:
        told = escape(", ".join(found.unseen))
        parts.append(f'<p class="soft">splits not looked at: {told}</p>')
    numbers = [split.numbers for split in found.splits if split.numbers]
    if found.advice:
        parts.append("<h2>Advice</h2>")
        parts += [f"<p>{escape(text)}</p>" for text in found.advice]
    with pictures.standard_error():  # damage is told on the page, not once more
        parts += _findings(found)
    if numbers:
        parts += ["<h2>Numbers</h2>", _table(numbers)]
    for one in numbers:
        parts += [f"<h2>{escape(one.name)}</h2>", _plots(one)]
    return frame.document(title, parts)


def _worst(found: Report) -> str:
    words = ("error", "warn", "fix")
    return next((word for word in words if found.count(word)), "fix")


# ---- numbers -----------------------------------------------------------------------


def _table(splits: Sequence[Statistics]) -> str:
    head = "".join(f"<th>{escape(s.name)}</th>" for s in splits)
    rows = [f"<tr><th></th>{head}</tr>"]
    for label, cells in report.number_rows(splits):
        cells = cells or [""] * len(splits)
        tail = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f"<tr><td>{escape(label)}</td>{tail}</tr>")
    note = "three numbers: least, median, most" + report.footnote(splits)
    return (
        f'<div class="wide"><table>{"".join(rows)}</table></div>'
        f'<p class="soft">{escape(note)}</p>'
    )


def _plots(one: Statistics) -> str:
    order = np.argsort(-one.per_class, kind="stable")[:CLASSES]
    counts = [int(one.per_class[k]) for k in order]
    names = [one.class_names[k] for k in order]
    sizes, count = np.unique(one.sizes, axis=0, return_counts=True)
    often = np.argsort(-count, kind="stable")[:8]
    labels = [f"{w}x{h}" for w, h in sizes[often]]
    octaves = 2.0 ** np.arange(1, 10.25, 0.25)
    ratios = 2.0 ** np.arange(-3, 3.1, 0.25)
    most = max(int(one.per_image.max(initial=0)), 1)
    step = max(1, -(-most // 40))
    edges = np.arange(0, most + 2 * step, step) - 0.5
    marks = sorted({0, most // 2, most})
    at, sides = one.at[-1], (2, 8, 32, 96, 512)
    drawn = [
        (
            "objects of each class",
            plots.bars(names, counts, [f"{c:,}" for c in counts]),
        ),
        (
            "sizes of the pictures",
            plots.bars(labels, count[often], [f"{c:,}" for c in count[often]]),
        ),
        (
            "side of the objects (sqrt of area), pixels of the file",
            plots.histogram(one.side, octaves, sides, log=True),
        ),
        (
            f"the same at short side {at.short_side}, as the network sees them",
            plots.histogram(at.side, octaves, sides, log=True),
        ),
        (
            "height / width",
            plots.histogram(at.ratio, ratios, (0.125, 0.5, 1, 2, 8), log=True),
        ),
        (
            "objects in an image",
            plots.histogram(one.per_image, edges, marks, log=False),
        ),
        (
            f"best IoU with an anchor at short side {at.short_side}",
            plots.histogram(
                at.best_iou, np.linspace(0, 1, 21), (0, 0.3, 0.5, 0.7, 1), log=False
            ),
        ),
    ]
    return (
        '<div class="grid">'
        + "".join(
            f"<figure><h3>{escape(title)}</h3>{svg}</figure>" for title, svg in drawn
        )
        + "</div>"
    )


# ---- findings ----------------------------------------------------------------------


class _Lookup(NamedTuple):
    """A split's records and annotations by id."""

    records: dict[Any, Record]
    annotations: dict[Any, Any]
    max_pixels: int


def _lookup(split: Checked, max_pixels: int) -> _Lookup:
    dataset = split.examined.dataset
    records = {r.source_id: r for r in dataset.records} if dataset else {}
    listed = split.examined.raw.content["annotations"]
    return _Lookup(records, {_id(a): a for a in listed}, max_pixels)


def _findings(found: Report) -> Iterator[str]:
    limit = found.run.data.max_image_pixels
    lookups = [_lookup(split, limit) for split in found.splits]
    for policy, title in report.POLICIES.items():
        if not found.count(policy):
            continue
        yield f'<h2 class="{policy}">{escape(title.capitalize())}</h2>'
        for split, lookup in zip(found.splits, lookups, strict=True):
            for fault in split.findings.with_policy(policy):
                yield _finding(split, fault, lookup)


def _finding(split: Checked, fault: str, lookup: _Lookup) -> str:
    kind, count = FAULTS[fault], split.findings.counts[fault]
    texts = report.places(split, fault, PLACES)
    listed = "".join(f"<li>{escape(text)}</li>" for text in texts)
    remedy = f"<p>Remedy: {escape(kind.remedy)}.</p>" if kind.remedy else ""
    return (
        f"<section><h3>{escape(split.name)}: {escape(kind.text)}: {count:,}</h3>"
        f"{remedy}"
        f"{_shots(split.findings.of(fault), lookup)}"
        '<details><summary class="soft">places</summary>'
        f'<ul class="places">{listed}</ul></details></section>'
    )


def _shots(places: Sequence[Finding], lookup: _Lookup) -> str:
    """Show the pictures of the first findings that have one, boxes marked."""
    shots: dict[Any, str] = {}
    for place in places:
        if len(shots) == SHOWN:
            break
        record = lookup.records.get(place.image) if _plain(place.image) else None
        if record is None or place.image in shots:
            continue
        entry = lookup.annotations.get(place.annotation)
        entry = None if place.annotation is None else entry
        if picture := _picture(record, entry, lookup.max_pixels):
            name = record.path.name
            told = escape(f"{name}: {place.detail}"[:160] if place.detail else name)
            shots[place.image] = (
                f'<figure><img alt="picture {escape(name)}"'
                f' src="{picture}">'
                f"<figcaption>{told}</figcaption></figure>"
            )
    return f'<div class="shots">{"".join(shots.values())}</div>' if shots else ""


def _id(annotation: Any) -> Any:
    key = annotation.get("id") if isinstance(annotation, dict) else None
    return key if _plain(key) else None


def _plain(key: Any) -> bool:
    return isinstance(key, int | str)


def _picture(record: Record, entry: dict | None, max_pixels: int) -> str:
    """Return the address of a small JPEG of a record, "" for one that cannot be read.

    With an annotation, the surroundings of its box, which has another colour than the
    others.
    """
    try:
        image = transforms.read_pixels(record, max_pixels).image
    except transforms.BadImage:
        return ""
    marked = _corners(entry.get("bbox")) if entry else np.zeros((0, 4))
    x1, y1, x2, y2 = _around(marked, image.shape[1], image.shape[0])
    image = image[y1:y2, x1:x2]
    scale = SIDE / max(image.shape[:2])
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    drawn = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    for boxes, label, least in ((record.boxes, OTHERS, 0), (marked, MARKED, LEAST)):
        boxes = _grown((boxes - [x1, y1, x1, y1]) * scale, least)
        seen = (boxes[:, 2:] > 0).all(1) & (boxes[:, :2] < size).all(1)
        drawn = vis.outline(drawn, boxes[seen], label)
    return frame.data_uri(drawn)


def _grown(boxes: np.ndarray, least: float) -> np.ndarray:
    """Give boxes sides of `least` pixels or more, so that none is overlooked."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = np.maximum(boxes[:, 2:] - boxes[:, :2], least) / 2
    return np.concatenate([centre - half, centre + half], 1)


def _corners(box: Any) -> np.ndarray:
    """Return [1, 4] xyxy of a bbox of the file, [0, 4] for one that is none."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return np.zeros((0, 4))
    x, y, w, h = box
    return np.array([[min(x, x + w), min(y, y + h), max(x, x + w), max(y, y + h)]])


def _around(marked: np.ndarray, width: int, height: int) -> tuple[int, ...]:
    """Return the part of a picture, xyxy, that shows the box and what is around it."""
    if not len(marked):
        return 0, 0, width, height
    (x1, y1, x2, y2) = marked[0]
    half = max(1.5 * (x2 - x1), 1.5 * (y2 - y1), CONTEXT / 2)
    ends = []
    for low, high, limit in ((x1, x2, width), (y1, y2, height)):
        centre = min(max((low + high) / 2, 0), limit)
        start = int(max(0, min(centre - half, limit - 2 * half)))
        ends.append((start, int(max(start + 1, min(limit, start + 2 * half)))))
    return ends[0][0], ends[1][0], ends[0][1], ends[1][1]
