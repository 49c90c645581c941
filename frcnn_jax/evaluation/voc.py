"""Pascal VOC's metric: average precision of each class at one IoU.

The rule is that of the VOC development kit: detections of a class in order of score;
each belongs to the object of its image that it overlaps most; at the threshold or above
it is a hit if the object was not hit before, else a false alarm. Objects marked
"ignore" (VOC's `difficult`) are neither missed nor hit. AP averages precision at eleven
recalls (2007), or is the area under the precision made monotonous (2010 on).

VOC counts pixels, the last one included, so its widths are x2 - x1 + 1. Boxes read with
`data.voc_inclusive` end after the last pixel, so plain widths give the same overlaps;
`plus_one` is for boxes that end on it. The kit compares with >=; py-faster-rcnn and
jwyang's code with >, which differs for exact ties only.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from frcnn_jax.evaluation import checked
from frcnn_jax.terminal import Part, Rows, figure

POINTS = {"eleven": "11 recalls, VOC 2007", "area": "area, VOC 2010 on"}


def evaluate(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    points: str = "area",
    iou: float = 0.5,
    plus_one: bool = False,
) -> dict[str, Any]:
    """Score COCO results against COCO annotations by VOC's rule.

    Boxes are (x, y, width, height) in original pixels; `points` is "eleven" or "area".
    Returns "AP" (the mean over classes with objects; None without any), "points",
    "iou", and `per_class`: {name: {AP, ground_truth, detections}}, where ground_truth
    counts objects that are not ignored. Raises ValueError as `coco.evaluate` does.
    """
    names = checked.class_names(annotations)
    files = {i["id"]: i.get("file_name", "") for i in annotations["images"]}
    truth = checked.ground_truth(annotations, names=names, files=files)
    found = checked.detections(results, names=names, files=files)
    checked.log_empty(truth, found)
    objects_of, found_of = _by("category_id", truth), _by("category_id", found)
    per_class = {}
    for key, name in names.items():
        objects, own = objects_of.get(key, []), found_of.get(key, [])
        counted = sum(not _ignored(a) for a in objects)
        hits = _hits(objects, own, iou=iou, extra=float(plus_one))
        per_class[name] = {
            "AP": average_precision(hits, counted, points) if counted else None,
            "ground_truth": counted,
            "detections": len(own),
        }
    values = [row["AP"] for row in per_class.values() if row["AP"] is not None]
    mean = float(np.mean(values)) if values else None
    return {"AP": mean, "points": points, "iou": iou, "per_class": per_class}


def average_precision(hits: np.ndarray, objects: int, points: str) -> float:
    """AP of detections in order of score: `hits` [D] bool, of so many objects."""
    true = np.cumsum(hits)
    recall = true / objects
    precision = true / np.arange(1, len(hits) + 1)
    # The best precision at this recall or any higher.
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if points == "eleven":
        reached = [recall >= level - 1e-9 for level in np.linspace(0, 1, 11)]
        return float(np.mean([best[at].max(initial=0.0) for at in reached]))
    return float(np.sum(np.diff(recall, prepend=0.0) * best))


def table(metrics: Mapping[str, Any]) -> list[Part]:
    """Lay out the figures of `evaluate`."""
    how = f"({POINTS[metrics['points']]}; IoU {metrics['iou']:g})"
    rows: list[Sequence[str]] = [("class", "AP", "objects", "detections")]
    for name, row in metrics["per_class"].items():
        counts = str(row["ground_truth"]), str(row["detections"])
        rows.append((name, figure(row["AP"]), *counts))
    head = f"mAP  {figure(metrics['AP'])}  {how}"
    return [head, "", Rows(rows)]


def _ignored(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation["ignore"] or annotation["iscrowd"])


def _by(field: str, rows: list[dict]) -> dict[Any, list[dict]]:
    groups: dict[Any, list[dict]] = {}
    for row in rows:
        groups.setdefault(row[field], []).append(row)
    return groups


def _hits(
    objects: list[dict], found: list[dict], *, iou: float, extra: float
) -> np.ndarray:
    """Say of each detection, best first, whether it is a hit; without ignored ones."""
    by_image = _by("image_id", objects)
    boxes = {
        key: np.array([a["bbox"] for a in own], float) for key, own in by_image.items()
    }
    taken: Counter = Counter()
    hits = []
    for d in sorted(found, key=lambda d: -d["score"]):
        own = by_image.get(d["image_id"])
        overlaps = _overlaps(boxes[d["image_id"]], d["bbox"], extra) if own else [0.0]
        best = int(np.argmax(overlaps))
        if not own or overlaps[best] < iou:
            hits.append(False)
        elif not _ignored(own[best]):
            hits.append(not taken[own[best]["id"]])
            taken[own[best]["id"]] += 1
    return np.array(hits, bool)


def _overlaps(boxes: np.ndarray, one: Sequence[float], extra: float) -> np.ndarray:
    """IoU of boxes [N, 4] with one box, xywh, sides longer by `extra`."""
    low, side = boxes[:, :2], boxes[:, 2:] + extra
    own_low, own_side = np.asarray(one[:2]), np.asarray(one[2:]) + extra
    shared = np.minimum(low + side, own_low + own_side) - np.maximum(low, own_low)
    shared = shared.clip(0).prod(1)
    union = side.prod(1) + own_side.prod() - shared
    return np.divide(shared, union, out=np.zeros(len(boxes)), where=union > 0)
