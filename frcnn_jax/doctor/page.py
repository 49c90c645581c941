"""The check as one page: numbers, plots, findings and their pictures, all in one file.

The file needs no network and no script, is readable on a phone, in the dark and
printed. All names that come from the data are escaped.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from frcnn_jax import vis
from frcnn_jax.data import sources, transforms
from frcnn_jax.data.annotations import is_number
from frcnn_jax.data.findings import FAULTS, Finding
from frcnn_jax.data.records import Record
from frcnn_jax.doctor import plots, report
from frcnn_jax.doctor.check import Checked, Report
from frcnn_jax.doctor.statistics import Statistics

SHOWN = 6  # pictures of each fault
PLACES = 20  # places named of each fault
SIDE = 360  # pixels of the longer side of a picture
CLASSES = 30  # bars

STYLE = """
:root{--ink:#1d2430;--soft:#5c6675;--line:#d9dde3;--paper:#fff;--bar:#3b74b8;
--error:#b3261e;--warn:#8f5b00;--fix:#2f6b3a}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--line:#343c48;
--paper:#14181e;--bar:#6fa3dd;--error:#ff8a80;--warn:#e8b04a;--fix:#7fc98c}}
@media print{:root{--ink:#000;--soft:#444;--line:#bbb;--paper:#fff;--bar:#3b74b8;
--error:#b3261e;--warn:#8f5b00;--fix:#2f6b3a}figure,section{break-inside:avoid}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:1000px;margin:0 auto;padding:16px}
h1{font-size:1.4rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.15rem;
margin:2rem 0 .5rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1rem 0 .2rem}p{margin:.3rem 0}.soft,.places{color:var(--soft)}
.verdict{border-left:5px solid;padding:.4rem .8rem;margin:1rem 0;font-weight:600}
.error{color:var(--error)}.warn{color:var(--warn)}.fix{color:var(--fix)}
.wide{overflow-x:auto}table{border-collapse:collapse}
td,th{padding:.1rem .9rem .1rem 0;text-align:right;white-space:pre;
font-variant-numeric:tabular-nums}td:first-child{text-align:left}
tr{border-bottom:1px solid var(--line)}
.grid{display:grid;gap:8px 28px;
grid-template-columns:repeat(auto-fill,minmax(290px,1fr))}
.shots{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:10px;
margin:.5rem 0}
figure{margin:0}figcaption{font-size:.8rem;color:var(--soft);overflow-wrap:anywhere}
img{width:100%;display:block}svg{width:100%;height:auto}
svg rect{fill:var(--bar)}svg text{font:11px system-ui,sans-serif;fill:var(--ink)}
svg .label{fill:var(--soft)}svg .axis{stroke:var(--line)}
.places{font-size:.85rem;margin:.2rem 0;padding-left:1.1rem;overflow-wrap:anywhere}
"""


def html(found: Report) -> str:
    """Return the page."""
    title = f"{sources.TITLES[found.kind]} in {found.run.data.root}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict {_worst(found)}">{escape(report.verdict(found))}</p>',
    ]
    if found.unseen:
        told = escape(", ".join(found.unseen))
        parts.append(f'<p class="soft">splits not looked at: {told}</p>')
    numbers = [split.numbers for split in found.splits if split.numbers]
    if found.advice:
        parts.append("<h2>Advice</h2>")
        parts += [f"<p>{escape(text)}</p>" for text in found.advice]
    parts += _findings(found)
    if numbers:
        parts += ["<h2>Numbers</h2>", _table(numbers)]
    for one in numbers:
        parts += [f"<h2>{escape(one.name)}</h2>", _plots(one)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


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


def _findings(found: Report) -> Iterator[str]:
    for policy, title in report.POLICIES.items():
        if not found.count(policy):
            continue
        yield f'<h2 class="{policy}">{escape(title.capitalize())}</h2>'
        for split in found.splits:
            for fault in split.findings.with_policy(policy):
                yield _finding(split, fault)


def _finding(split: Checked, fault: str) -> str:
    count, places = split.findings.counts[fault], split.findings.of(fault)
    kind = FAULTS[fault]
    texts = report.places(split, fault, PLACES)
    listed = "".join(f"<li>{escape(text)}</li>" for text in texts)
    remedy = f"<p>Remedy: {escape(kind.remedy)}.</p>" if kind.remedy else ""
    return (
        f"<section><h3>{escape(split.name)}: {count:,}"
        f" {escape(kind.text)}</h3>{remedy}"
        f"{_shots(split, places)}"
        f'<details><summary class="soft">places</summary>'
        f'<ul class="places">{listed}</ul></details></section>'
    )


def _shots(split: Checked, places: Sequence[Finding]) -> str:
    """Show the pictures of the first findings that have one, boxes marked."""
    if split.examined.dataset is None:
        return ""
    by_id = {record.source_id: record for record in split.examined.dataset.records}
    listed = {_id(a): a for a in split.examined.raw.content["annotations"]}
    shots = []
    for place in places:
        if len(shots) == SHOWN:
            break
        record = by_id.get(place.image) if _plain(place.image) else None
        if record is None:
            continue
        entry = listed.get(place.annotation) if place.annotation is not None else None
        picture = _picture(record, entry)
        if picture:
            told = escape(f"{record.path.name}: {place.detail}"[:160])
            alt = escape(f"picture {record.path.name}")
            shots.append(
                f'<figure><img alt="{alt}" src="data:image/jpeg;base64,{picture}">'
                f"<figcaption>{told}</figcaption></figure>"
            )
    return f'<div class="shots">{"".join(shots)}</div>' if shots else ""


def _id(annotation: Any) -> Any:
    key = annotation.get("id") if isinstance(annotation, dict) else None
    return key if _plain(key) else None


def _plain(key: Any) -> bool:
    return isinstance(key, int | str)


def _picture(record: Record, entry: dict | None) -> str:
    """Return a small JPEG of a record in base64, "" for one that cannot be read.

    The box of the annotation is drawn, or else all boxes of the record.
    """
    try:
        image = transforms.read_pixels(record).image
    except transforms.BadImage:
        return ""
    boxes = record.boxes
    if entry is not None:
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            boxes = np.zeros((0, 4))
        else:
            x, y, w, h = box
            boxes = np.array(
                [[min(x, x + w), min(y, y + h), max(x, x + w), max(y, y + h)]]
            )
    scale = min(1.0, SIDE / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    drawn = _marked(np.asarray(small), boxes * scale, single=entry is not None)
    stream = io.BytesIO()
    Image.fromarray(drawn).save(stream, "JPEG", quality=80)
    return base64.b64encode(stream.getvalue()).decode()


def _marked(image: np.ndarray, boxes: np.ndarray, *, single: bool) -> np.ndarray:
    """Draw frames; a single one is made large enough to be found."""
    if single and len(boxes):
        centre, half = (
            (boxes[:, :2] + boxes[:, 2:]) / 2,
            (boxes[:, 2:] - boxes[:, :2]) / 2,
        )
        half = np.maximum(half, 6.0)
        boxes = np.concatenate([centre - half, centre + half], 1)
    return vis.outline(image, boxes)
