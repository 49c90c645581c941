"""What a report says beside the metric: errors, curves, confusion, calibration.

One dictionary for `analysis.json`, three tables as CSV, the errors as plain lines. The
rules are COCO's whatever metric a run asks for; each is stated where it is computed.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frcnn_jax.evaluation import confusion, curves, errors, matching
from frcnn_jax.terminal import Part, Rows, figure

IOUS = (0.5, 0.75)  # of the precision-recall curves
FILES = (
    "analysis.json",
    "analysis_classes.csv",
    "analysis_errors.csv",
    "analysis_curves.csv",
)


def evaluate(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    max_detections: int = 100,
    score: float = 0.5,
) -> dict[str, Any]:
    """Analyse COCO results against COCO annotations, boxes in original pixels.

    `max_detections` is the cap per image and class, `score` the threshold of the
    confusion matrix and of the figures "at_score". Returns `settings`, `totals`,
    `errors` {type: {count, dAP50}}, `per_class` {name: figures}, `sizes`,
    `calibration`, `confusion` {names, matrix} and `curves` {recall, iou: {name:
    {precision, score}}}, all of plain Python values, None where a figure does not
    exist. AP50 and AP75 equal pycocotools' to 1e-12. Raises ValueError as
    `coco.evaluate` does.
    """
    sets = matching.read(annotations, results, max_detections)
    matches = matching.match(sets)
    typed = errors.classify(sets, matches)
    ranked = curves.ranking(sets, matches)
    drawn = {
        iou: curves.precision_recall(curves.ranking(sets, matching.match(sets, iou)))
        for iou in IOUS
    }
    true, counted = int(matches.true.sum()), int(matches.counted.sum())
    count, cost = errors.counts(typed), errors.costs(sets, matches, typed)
    return {
        "settings": {
            "max_detections": max_detections,
            "score": score,
            "foreground_iou": matching.FOREGROUND,
            "background_iou": matching.BACKGROUND,
        },
        "totals": {
            "AP50": curves.mean(drawn[0.5].precision.mean(1)),
            "AP75": curves.mean(drawn[0.75].precision.mean(1)),
            "objects": int(matches.objects.sum()),
            "true_positives": true,
            "false_positives": counted - true,
            "false_negatives": int(matches.objects.sum()) - true,
            "on_crowds": len(matches.counted) - counted,
            "beyond_max_detections": sets.dropped,
        },
        "errors": {t: {"count": count[t], "dAP50": cost[t]} for t in errors.TYPES},
        "per_class": _per_class(sets, ranked, drawn, errors.class_counts(sets, typed)),
        "sizes": curves.by_size(sets, score),
        "calibration": curves.calibration(ranked),
        "confusion": {
            "names": [*sets.names, "background"],
            "matrix": confusion.matrix(sets, score).tolist(),
        },
        "curves": _curves(sets.names, drawn),
    }


def table(found: Mapping[str, Any]) -> list[Part]:
    """Lay out the errors."""
    rows: list[Sequence[str]] = [("error", "count", "costs AP50")]
    for name, row in found["errors"].items():
        rows.append((name, str(row["count"]), figure(row["dAP50"])))
    totals = found["totals"]
    counts = "{objects} objects, {true_positives} found, {false_positives} false"
    head = f"AP50 {figure(totals['AP50'])}: {counts.format(**totals)} detections"
    return [head, Rows(rows)]


def save(found: Mapping[str, Any], folder: str | Path) -> None:
    """Write FILES, the figures of `evaluate`, into a folder; None is null or empty."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, ensure_ascii=False, allow_nan=False)
    whole, classes, types, points = (folder / name for name in FILES)
    whole.write_text(text + "\n", encoding="utf-8")
    flat = [_flat(name, row) for name, row in found["per_class"].items()]
    _write(classes, flat[0], (row.values() for row in flat))
    rows = ((name, *row.values()) for name, row in found["errors"].items())
    _write(types, ("error", "count", "dAP50"), rows)
    _write(points, ("class", "iou", "recall", "precision", "score"), _points(found))


def _per_class(
    sets: matching.Sets,
    ranked: curves.Ranking,
    drawn: Mapping[float, curves.Curves],
    counts: np.ndarray,
) -> dict[str, dict[str, Any]]:
    detections = np.bincount(ranked.label, minlength=len(sets.names))
    columns = {
        "AP50": _plain(drawn[0.5].precision.mean(1)),
        "AP75": _plain(drawn[0.75].precision.mean(1)),
        "objects": ranked.objects.tolist(),
        "detections": detections.tolist(),
        "best": curves.best_scores(ranked),
        "errors": [
            dict(zip(errors.TYPES, row, strict=True)) for row in counts.tolist()
        ],
    }
    rows = zip(*columns.values(), strict=True)
    return {
        name: dict(zip(columns, row, strict=True))
        for name, row in zip(sets.names, rows, strict=True)
    }


def _curves(
    names: Sequence[str], drawn: Mapping[float, curves.Curves]
) -> dict[str, Any]:
    """The curves of classes that have objects."""
    found: dict[str, Any] = {"recall": curves.RECALLS.tolist()}
    for iou, drawn_at in drawn.items():
        found[f"{iou:g}"] = {
            name: {"precision": precision.tolist(), "score": score.tolist()}
            for name, precision, score in zip(names, *drawn_at, strict=True)
            if not np.isnan(precision[0])
        }
    return found


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _flat(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table of classes, without dictionaries in it."""
    best = {f"best_{key}": value for key, value in row["best"].items()}
    rest = {k: v for k, v in row.items() if k not in ("best", "errors")}
    return {"class": name, **rest, **best, **row["errors"]}


def _points(found: Mapping[str, Any]) -> Iterable[tuple]:
    drawn = found["curves"]
    for iou in drawn:
        for name, curve in drawn[iou].items() if iou != "recall" else ():
            for point in zip(drawn["recall"], *curve.values(), strict=True):
                yield name, iou, *point


def _write(path: Path, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)
