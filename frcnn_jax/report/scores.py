"""The sections of a report on figures: AP, classes, curves, errors, confusion."""

from collections.abc import Mapping
from html import escape
from typing import Any

from frcnn_jax.evaluation.errors import TYPES
from frcnn_jax.pages import charts, plots
from frcnn_jax.report import figures
from frcnn_jax.report.tables import shown, sortable, table

CELLS = 25  # rows of a confusion matrix that a page can show
PAIRS = 20  # confused pairs listed
MEANING = {
    "classification": "on an object of another class",
    "localisation": "near an object of its class, IoU 0.1 to 0.5",
    "both": "near an object of another class, IoU 0.1 to 0.5",
    "duplicate": "on an object that a better score found",
    "background": "on nothing",
    "missed": "an object that nothing found or meant",
}
TILES = ("AP", "AP50", "AP75", "AR100")
RULE = {
    "coco": "COCO: AP is the mean over IoU 0.50 to 0.95",
    "voc07": "Pascal VOC 2007: IoU 0.5, 11 recalls",
    "voc": "Pascal VOC: IoU 0.5, area under the curve",
}
Figures = Mapping[str, Any]


def headline(metrics: Figures) -> str:
    """The figures of the metric: large ones, then all."""
    flat = {k: v for k, v in metrics.items() if v is None or isinstance(v, float)}
    tiles = "".join(
        f"<div><b>{escape(shown(flat[key]))}</b><span>{key}</span></div>"
        for key in TILES
        if key in flat
    )
    kind = RULE.get(metrics["metric"], metrics["metric"])
    step = metrics.get("step")
    told = kind if step is None else f"{kind}; checkpoint of step {step:,}"
    rest = [(k, v) for k, v in flat.items() if k not in TILES and k != "iou"]
    rows = table([k for k, _ in rest], [[v for _, v in rest]]) if rest else ""
    return f'<div class="tiles">{tiles}</div><p class="soft">{escape(told)}</p>{rows}'


def classes(metrics: Figures | None, found: Figures | None) -> str:
    """One row for each class, sorted by a click on a head."""
    scored = metrics["per_class"] if metrics else {}
    typed = found["per_class"] if found else {}
    rows: list[dict[str, Any]] = []
    for name in [*scored, *(n for n in typed if n not in scored)]:
        one, own = scored.get(name, {}), typed.get(name, {})
        row = {"class": name, "AP": one.get("AP")}
        row |= {k: own.get(k, one.get(k)) for k in ("AP50", "AP75")}
        row["objects"] = own.get("objects", one.get("ground_truth"))
        row["detections"] = own.get("detections", one.get("detections"))
        row |= {f"best {k}": v for k, v in own.get("best", {}).items()}
        rows.append(row | own.get("errors", {}))
    if not rows:
        return ""
    head = [k for k in rows[0] if any(row.get(k) is not None for row in rows)]
    first = next(key for key in ("AP", "AP50", "class") if key in head)
    note = (
        "Click a head to sort. best: the score with the highest F1 at IoU 0.5."
        if found
        else "Click a head to sort."
    )
    drawn = sortable(head, [[row.get(k) for k in head] for row in rows], first)
    return f'{drawn}<p class="soft">{note}</p>'


def curves(found: Figures) -> str:
    """Precision over recall at both IoUs."""
    drawn = [
        f"<figure><h3>{escape(chart.title)}</h3>{charts.svg(chart)}</figure>"
        for chart in figures.precision_recall(found)
    ]
    return (
        f'<div class="grid charts">{"".join(drawn)}</div>' if drawn else _none("curve")
    )


def errors(found: Figures) -> str:
    """The six types, what each means, how often it is, what it costs."""
    rows = [
        (name, MEANING[name], found["errors"][name]["count"], _cost(found, name))
        for name in TYPES
    ]
    cost = [found["errors"][name]["dAP50"] or 0.0 for name in TYPES]
    bars = plots.bars(TYPES, cost, [_cost(found, name) for name in TYPES])
    totals, missed = found["totals"], found["errors"]["missed"]["count"]
    touched = totals["objects"] - totals["true_positives"] - missed
    told = (
        f"{totals['objects']:,} objects: {totals['true_positives']:,} found,"
        f" {missed:,} missed, {touched:,} met by false detections only;"
        f" {totals['false_positives']:,} false detections of any score."
        " The cost of a type is AP50 after its repair alone minus AP50; costs do not"
        " add up to 1 - AP50."
    )
    return (
        f'<div class="grid meaning"><div>{table(_ERRORS, rows)}</div>'
        f"<figure><h3>AP50 that each type costs</h3>{bars}</figure></div>"
        f'<p class="soft">{told}</p>'
    )


_ERRORS = ("error", "a detection", "count", "costs AP50")


def _cost(found: Figures, name: str) -> str:
    return shown(found["errors"][name]["dAP50"])


def sizes(metrics: Figures | None, found: Figures) -> str:
    """AP, recall and precision of small, medium and large objects."""
    score = found["settings"]["score"]
    rows: list[tuple[Any, ...]] = []
    for size, row in found["sizes"].items():
        key = "AP" if size == "all" else f"AP{size[0]}"
        ap = (metrics or {}).get(key)
        rows.append((size, row["objects"], ap, *list(row.values())[1:]))
    head: tuple[str, ...] = ("size", "objects", "AP", "AP50", "recall")
    head += (f"recall from {score:g}", f"precision from {score:g}")
    if (metrics or {}).get("metric") != "coco":  # other metrics have no sizes
        head, rows = (*head[:2], *head[3:]), [(*r[:2], *r[3:]) for r in rows]
    names = [size for size in found["sizes"] if size != "all"]
    values = [found["sizes"][size]["AP50"] for size in names]
    bars = plots.bars(names, [v or 0.0 for v in values], [shown(v) for v in values])
    told = (
        "small: below 32 x 32 pixels, large: above 96 x 96. The last two columns are at"
        f" IoU 0.5, detections from score {score:g} on, all classes together."
    )
    return (
        f'{table(head, rows)}<div class="grid">'
        f"<figure><h3>AP50</h3>{bars}</figure></div>"
        f'<p class="soft">{told}</p>'
    )


def calibration(found: Figures) -> str:
    """Scores beside the share of true detections."""
    bins, chart = found["calibration"]["bins"], figures.calibration(found)
    counts = [b["detections"] for b in bins]
    names = [f"{b['low']:.1f} to {b['high']:.1f}" for b in bins]
    bars = plots.bars(names, counts, [f"{n:,}" for n in counts])
    told = (
        "Expected calibration error: "
        f"{shown(found['calibration']['error'])}. Below the dashed line scores promise"
        " more than they keep."
    )
    return (
        f'<div class="grid charts"><figure><h3>{escape(chart.title)}</h3>'
        f"{charts.svg(chart)}</figure>"
        f"<figure><h3>detections by score</h3>{bars}</figure></div>"
        f'<p class="soft">{told}</p>'
    )


def confusion(found: Figures) -> str:
    """A coloured matrix where it fits, and the pairs confused most."""
    names, matrix = found["confusion"]["names"], found["confusion"]["matrix"]
    last, score = len(names) - 1, found["settings"]["score"]
    pairs = [
        (names[i], names[j], count, count / max(sum(row), 1))
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if count and i != j and last not in (i, j)
    ]
    pairs = sorted(pairs, key=lambda pair: -pair[2])[:PAIRS]
    parts = []
    if len(names) <= CELLS:
        parts.append(_matrix(names, matrix))
    if pairs:
        head = ("object", "taken for", "times", "share of its objects")
        parts.append(f"<h3>confused most</h3>{table(head, pairs)}")
    else:
        parts.append(f"<p>No class is taken for another from score {score:g} on.</p>")
    told = (
        f"Detections from score {score:g} on. Rows are true classes, columns detected"
        " ones; the column background counts objects not found, the row background"
        " detections on nothing."
    )
    return "".join(parts) + f'<p class="soft">{told}</p>'


def _matrix(names: list[str], matrix: list[list[int]]) -> str:
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in names)
    lines = []
    for i, (name, row) in enumerate(zip(names, matrix, strict=True)):
        most, cells = max(*row, 1), []
        for j, count in enumerate(row):
            kind = "right" if i == j else "wrong"
            tip = escape(f"{name} as {names[j]}: {count}")
            share = f' style="--s:{count / most:.2f}"' if count else ""
            text = f"{count:,}" if count else ""
            cells.append(f'<td class="{kind}"{share} title="{tip}">{text}</td>')
        lines.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    return (
        f'<div class="wide"><table class="matrix"><thead><tr><th></th>{head}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _none(what: str) -> str:
    return f"<p>There are no objects, and so no {what}.</p>"
