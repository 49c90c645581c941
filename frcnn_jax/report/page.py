"""The report as one page: works when copied, offline, on a phone and printed."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np

from frcnn_jax import config
from frcnn_jax.data.records import Dataset
from frcnn_jax.evaluation.matching import SIZES
from frcnn_jax.pages import charts, frame, plots
from frcnn_jax.report import figures, scores
from frcnn_jax.report.material import Material, Shot
from frcnn_jax.report.tables import SCRIPT, table

CLASSES = 30  # bars
MISSING = (
    "This is a report for a run without evaluation: no predictions were scored. "
    "python eval.py --workdir=DIR --report adds figures, errors and pictures."
)
UNTYPED = (
    "There are figures, and no predictions to say why: python eval.py --workdir=DIR"
    " --report adds curves, errors, confusion, calibration and pictures."
)
STYLE = """
body{max-width:1180px}
nav{margin:.6rem 0;line-height:1.9}nav a{color:var(--bar);margin-right:.7rem;
white-space:nowrap}
.tiles{display:flex;flex-wrap:wrap;gap:10px;margin:.6rem 0}
.tiles div{border:1px solid var(--line);border-radius:6px;padding:.4rem .9rem;
flex:1 1 100px;max-width:180px}
.tiles b{display:block;font-size:1.6rem;line-height:1.2;
font-variant-numeric:tabular-nums}.tiles span{color:var(--soft);font-size:.85rem}
.sort{font-size:.85rem}
.sort th{white-space:normal;vertical-align:bottom;line-height:1.2}
.sort td,.sort th{padding-right:.5rem}
.sort button{font:inherit;font-weight:600;color:inherit;background:none;border:0;
padding:.25rem 0;cursor:pointer;text-align:inherit;
text-decoration:underline dotted;text-underline-offset:3px}
th[aria-sort=descending] button::after{content:"\\a0\\2193"}
th[aria-sort=ascending] button::after{content:"\\a0\\2191"}
.sort td:first-child,.sort th:first-child,.matrix th:first-child{position:sticky;left:0;
background:var(--paper);text-align:left}
.scroll{max-height:34rem;overflow:auto}.scroll thead th{position:sticky;top:0;
background:var(--paper);z-index:1}.scroll thead th:first-child{z-index:2}
.grid>div{flex:1 1 320px;min-width:0}.grid.charts figure{flex:1 1 340px}
.charts svg text{font-size:13px}.meaning th{white-space:normal}
.meaning td:nth-child(2),.meaning th:nth-child(2),th:first-child{text-align:left}
.meaning td:nth-child(2){white-space:normal;min-width:6rem;color:var(--soft)}
.matrix td{padding:.1rem .3rem;min-width:2.2rem;height:1.9rem;text-align:center;
border:1px solid var(--line);print-color-adjust:exact;-webkit-print-color-adjust:exact}
.matrix td:first-child{text-align:center}.matrix th{font-weight:400;color:var(--soft)}
.matrix thead span{writing-mode:vertical-rl;transform:rotate(180deg);
max-height:8rem;overflow:hidden}
.matrix thead th{vertical-align:bottom;text-align:center;padding:.2rem}
.matrix .right{background:rgba(59,116,184,calc(var(--s,0)*.6))}
.matrix .wrong{background:rgba(213,94,0,calc(var(--s,0)*.6))}
svg .grid-line{stroke:var(--line)}svg circle{stroke:none}
.legend{font-size:.8rem;color:var(--soft)}.legend span{margin-right:.7rem;
white-space:nowrap}.legend i{display:inline-block;width:14px;height:3px;
margin-right:5px;vertical-align:middle;print-color-adjust:exact;
-webkit-print-color-adjust:exact}
.worst{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));
gap:16px}.worst b{color:var(--ink)}
.settings td{white-space:pre-wrap;overflow-wrap:anywhere;text-align:left}
.settings th{text-align:left}
@media(max-width:500px){td,th{padding-right:.5rem}table{font-size:.9rem}}
summary{cursor:pointer;color:var(--bar)}
@media print{nav{display:none}.wide,.scroll{overflow:visible;max-height:none}
.sort{font-size:7px}.sort td,.sort th{padding-right:.2rem}
.grid.charts figure{flex-basis:280px}
.sort button::after{content:""!important}
.worst{grid-template-columns:1fr 1fr}.sort td,.sort th,.scroll thead th{
position:static!important}}
"""


def html(told: Material) -> str:
    """Return the page."""
    parts = [f"<h1>{escape(told.title)}</h1>"]
    sections = [(name, text) for name, text in _sections(told) if text]
    if told.metrics is None:
        parts.append(f'<p class="verdict warn" id="missing">{MISSING}</p>')
    elif told.found is None:
        parts.append(f'<p class="verdict warn" id="missing">{UNTYPED}</p>')
    links = [f'<a href="#{_key(name)}">{name}</a>' for name, _ in sections]
    parts.append(f"<nav>{' '.join(links)}</nav>")
    parts += [
        f'<section id="{_key(name)}"><h2>{name}</h2>\n{text}</section>'
        for name, text in sections
    ]
    return frame.document(told.title, parts, STYLE, SCRIPT)


def _key(name: str) -> str:
    return name.lower().replace(" ", "-")


def _sections(told: Material) -> Iterator[tuple[str, str]]:
    """Names, which need no escaping, and texts of the sections there may be."""
    metrics, found = told.metrics, told.found
    if metrics is not None:
        yield "Scores", scores.headline(metrics)
    if found is not None:
        yield "Errors", scores.errors(found)
    if metrics is not None or found is not None:
        rows = scores.classes(metrics, found)
        yield "Classes", rows.replace('class="wide"', 'class="wide scroll"', 1)
    if found is not None:
        yield "Precision and recall", scores.curves(found)
        yield "Sizes", scores.sizes(metrics, found)
        yield "Confusion", scores.confusion(found)
        yield "Calibration", scores.calibration(found)
    yield "Worst images", _worst(told.shots)
    yield "Training", _training(told.history)
    yield "Data", _data(told.data)
    yield "Settings", _settings(told)
    yield "Versions and hardware", _machine(told)


def _worst(shots: Sequence[Shot]) -> str:
    drawn = []
    for shot in shots:
        name, count = escape(shot.name), sum(shot.errors.values())
        listed = escape(", ".join(f"{n} {kind}" for kind, n in shot.errors.items()))
        image = "<p>The image cannot be read.</p>"
        if shot.picture is not None:
            address = frame.data_uri(shot.picture)
            alt = f"ground truth and predictions of {name}"
            image = f'<img alt="{alt}" src="{address}">'
        caption = f"<figcaption><b>{name}</b>: {count} errors ({listed})</figcaption>"
        drawn.append(f"<figure>{image}{caption}</figure>")
    return f'<div class="worst">{"".join(drawn)}</div>' if drawn else ""


def _training(history: Sequence[Any]) -> str:
    drawn = [
        f"<figure><h3>{escape(chart.title)}</h3>{charts.svg(chart)}</figure>"
        for chart in figures.training(history)
    ]
    if not drawn:
        return "<p>No metrics.jsonl of a training lies in this folder.</p>"
    return f'<div class="grid charts">{"".join(drawn)}</div>'


def _data(splits: Sequence[Dataset]) -> str:
    if not splits:
        return ""
    columns = [_numbers(split) for split in splits]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [(name, *(column.get(name, 0) for column in columns)) for name in names]
    last = splits[-1]
    counts = np.zeros(len(last.class_names) + 1, int)
    for record in last.records:
        np.add.at(counts, record.labels, 1)
    order = np.argsort(-counts[1:], kind="stable")[:CLASSES]
    values = counts[1:][order].tolist()
    labels = [last.class_names[k] for k in order]
    bars = plots.bars(labels, values, [f"{n:,}" for n in values])
    most = f", the {CLASSES} commonest" if len(last.class_names) > CLASSES else ""
    title = escape(f"objects of each class in {last.name}{most}")
    return (
        f'<div class="grid"><div>{table(["", *(s.name for s in splits)], rows)}</div>'
        f"<figure><h3>{title}</h3>{bars}</figure></div>"
    )


def _numbers(split: Dataset) -> dict[str, int]:
    counts = np.array([len(record.labels) for record in split.records], int)
    boxes = np.concatenate([np.zeros((0, 4)), *(r.boxes for r in split.records)])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    edges = [low for name, (low, _) in SIZES.items() if name != "all"]
    size = np.bincount(np.digitize(area, edges[1:]), minlength=len(edges)).tolist()
    crowds = sum(int(record.crowd.sum()) for record in split.records)
    return {
        "images": len(counts),
        "images without objects": int((counts == 0).sum()),
        "classes": len(split.class_names),
        "objects": int(counts.sum()),
        "objects in an image, most": int(counts.max(initial=0)),
        **{f"{k} objects": n for k, n in zip(list(SIZES)[1:], size, strict=True)},
        "crowds": crowds,
        **split.skipped,
    }


def _settings(told: Material) -> str:
    changed = config.differences(told.base.run, told.run)
    rows = [(name, repr(now), repr(before)) for name, (before, now) in changed.items()]
    whole = [(name, repr(value)) for name, value in config.flatten(told.run)]
    base = escape(told.base.name)
    head = ("field", "value", told.base.name)
    part = table(head, rows) if rows else f"<p>All fields are as in {base}.</p>"
    return (
        f'<div class="settings"><h3>{len(rows)} fields that differ from {base}</h3>'
        f"{part}<details><summary>all {len(whole)} fields</summary>"
        f"{table(('field', 'value'), whole)}</details></div>"
    )


def _machine(told: Material) -> str:
    trained = any(then for _, _, then in told.versions)
    rows = [
        (name, here, then or "") if trained else (name, here)
        for name, here, then in told.versions
    ]
    head = ("package", "this report", *(["the training"] if trained else []))
    return (
        f'<div class="grid settings"><div>{table(head, rows)}</div>'
        f"<div>{table(('hardware', 'of this report'), told.hardware)}</div></div>"
    )
