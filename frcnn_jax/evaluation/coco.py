"""The COCO box metric: pycocotools' own figures, guarded against its silent traps.

Conventions: boxes come in as xyxy in ORIGINAL image pixels and leave as COCO's
(x, y, width, height), continuous, nothing added or taken away. Labels are 1..C; COCO's
category ids appear only here and in the data readers. A figure pycocotools reports as
-1 (no ground truth of that kind) is None here, `null` in JSON and "n/a" in tables.

pycocotools 2.0.11 alone would let the following pass: a NaN box scores as a match, an
annotation with id 0 never matches, annotations sharing an id replace each other, an
unknown category is ignored, an empty result list crashes. Each is caught here, by an
error or by a copy of the annotations put in order. Nothing given by the caller is ever
changed.

Not here: running the network (see `infer.py`), masks, other metrics.
"""

import contextlib
import io
import json
import logging
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

log = logging.getLogger(__name__)

PRECISIONS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
RECALLS = ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
SIZES = ("all", "s", "m", "l")  # pycocotools' order of area ranges
NAMED = 5  # offenders listed in one message


def evaluate(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    max_detections: int = 100,
) -> dict[str, Any]:
    """Score COCO results against COCO annotations with pycocotools.

    Returns AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl (float, or
    None without ground truth of that kind) and `per_class`: {class name: {AP, AP50,
    AR100, ground_truth, detections}}, where ground_truth counts objects that are not
    crowds. With the default `max_detections` the twelve figures are those of
    `COCOeval.summarize`, bit for bit. Another value counts that many detections per
    image and class in all but AR1, AR10 and AR100, whose names say their number.

    Missing `area` (width * height) and `iscrowd` (0) are filled in and annotation ids
    are renumbered, in a copy. No detections give figures of 0.0 and a logged sentence;
    images holding more objects, or more detections of one class, than
    `max_detections` are logged with their numbers.

    Raises ValueError naming the image and class for boxes or scores that are no finite
    numbers, negative sizes, unknown images or categories, and ambiguous class names.
    """
    if max_detections < 1:
        raise ValueError(f"max_detections is {max_detections}; it must be at least 1")
    names = _class_names(annotations)
    files = {i["id"]: i.get("file_name", "") for i in annotations["images"]}
    truth = _ground_truth(annotations.get("annotations", ()), names=names, files=files)
    found = _detections(results, names=names, files=files)
    _log_limits(truth, found, files=files, max_detections=max_detections)
    images = [{"id": key} for key in files]
    categories = [{"id": key, "name": name} for key, name in names.items()]
    scored = _accumulate(
        _dataset(images, categories, truth),
        _dataset(images, categories, found),
        max_detections=max_detections,
    )
    metrics: dict[str, Any] = _figures(scored, max_detections)
    metrics["per_class"] = _per_class(scored, max_detections, truth, found, names=names)
    return metrics


def table(metrics: Mapping[str, Any]) -> str:
    """Lay out the figures of `evaluate` as aligned plain text, without a last newline.

    Twelve figures in two lines, then one line per class; three decimals, "n/a" where
    there is no ground truth.
    """
    lines = []
    for keys in (PRECISIONS, RECALLS):
        lines += _aligned([keys, [_shown(metrics[key]) for key in keys]], left=0)
    lines += ["(IoU 0.50:0.95; s, m, l: area below 32^2, up to 96^2, above, in pixels)"]
    head = ("class", "AP", "AP50", "AR100", "objects", "detections")
    rows: list[Sequence[str]] = [head]
    for name, row in metrics["per_class"].items():
        shown = [_shown(row[key]) for key in head[1:4]]
        rows.append((name, *shown, str(row["ground_truth"]), str(row["detections"])))
    return "\n".join([*lines, "", *_aligned(rows, left=1)])


def save(metrics: Mapping[str, Any], path: str | Path) -> None:
    """Write the figures of `evaluate` as JSON (None as null), making the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


# ---- what goes in ------------------------------------------------------------------


def _class_names(annotations: Mapping[str, Any]) -> dict[Any, str]:
    """{category id: name}, in the order of the file."""
    for key in ("images", "categories"):
        if not annotations.get(key):
            raise ValueError(f"the annotations hold no {key}: nothing to evaluate")
    names: dict[Any, str] = {}
    for category in annotations["categories"]:
        name = str(category.get("name", category["id"]))
        if category["id"] in names or name in names.values():
            raise ValueError(
                f"category {category['id']} ({name!r}) repeats an id or a name; "
                "give every category its own"
            )
        names[category["id"]] = name
    return names


def _ground_truth(
    annotations: Sequence[Mapping[str, Any]], *, names: Mapping, files: Mapping
) -> list[dict]:
    truth = []
    for ann in annotations:
        what = f"annotation {ann.get('id', '(no id)')}"
        box = _checked_box(ann, what, names=names, files=files)
        area = ann.get("area")
        if area is None:
            area = box[2] * box[3]
        _check_finite(area, f"{what}: area")
        crowd = int(ann.get("iscrowd") or 0)
        truth.append(_entry(ann, box, area=area, iscrowd=crowd, id=len(truth) + 1))
    return truth


def _detections(
    results: Sequence[Mapping[str, Any]], *, names: Mapping, files: Mapping
) -> list[dict]:
    found = []
    for row, result in enumerate(results):
        what = f"detection {row}"
        box = _checked_box(result, what, names=names, files=files)
        place = _place(result, what, names=names, files=files)
        _check_finite(result.get("score"), f"{place}: score")
        extra = {"score": float(result["score"]), "area": box[2] * box[3]}
        found.append(_entry(result, box, **extra, iscrowd=0, id=row + 1))
    return found


def _entry(source: Mapping[str, Any], box: list[float], **extra: Any) -> dict:
    """A fresh dict with the fields pycocotools reads (it writes into what it gets)."""
    keys = {key: source[key] for key in ("image_id", "category_id")}
    return {**keys, "bbox": box, **extra}


def _checked_box(
    row: Mapping[str, Any], what: str, *, names: Mapping, files: Mapping
) -> list[float]:
    for key, known in (("image_id", files), ("category_id", names)):
        if row.get(key) not in known:
            raise ValueError(
                f"{what} has {key} {row.get(key)!r}, which is not among the "
                f"{len(known)} of the annotation file; was it made for another file?"
            )
    place = _place(row, what, names=names, files=files)
    box = row.get("bbox")
    if box is None or len(box) != 4:
        raise ValueError(f"{place}: bbox is {box!r}, not (x, y, width, height)")
    for value in box:
        _check_finite(value, f"{place}: bbox {list(box)} holds")
    if box[2] < 0 or box[3] < 0:
        raise ValueError(f"{place}: bbox {list(box)} has a negative width or height")
    return [float(value) for value in box]


def _place(row: Mapping[str, Any], what: str, *, names: Mapping, files: Mapping) -> str:
    image, name = row["image_id"], names[row["category_id"]]
    return f"{what} (image {image} {files[image]}, class {name!r})".replace(" ,", ",")


def _check_finite(value: Any, what: str) -> None:
    try:
        finite = math.isfinite(value)
    except TypeError:
        finite = False
    if not finite:
        raise ValueError(f"{what} {value!r}, which is no finite number")


def _log_limits(
    truth: list[dict], found: list[dict], *, files: Mapping, max_detections: int
) -> None:
    """Say in numbers where `max_detections` alone lowers the score."""
    if truth and not found:
        log.warning("no detections at all: AP and AR are 0")
    if not truth:
        log.warning("no ground truth at all: AP and AR do not exist (n/a)")
    objects = Counter(ann["image_id"] for ann in truth if not ann["iscrowd"])
    dense = [(i, n) for i, n in objects.most_common() if n > max_detections]
    if dense:
        listed = ", ".join(f"{i} {files[i]} ({n})" for i, n in dense[:NAMED])
        log.warning(
            "%d of %d images hold more than max_detections = %d objects, so some must "
            "be missed; the fullest: %s",
            *(len(dense), len(files), max_detections, listed),
        )
    rows = Counter((d["image_id"], d["category_id"]) for d in found).values()
    if dropped := sum(max(0, n - max_detections) for n in rows):
        log.warning(
            "%d of %d detections lie beyond max_detections = %d per image and class "
            "and do not count",
            *(dropped, len(found), max_detections),
        )


# ---- pycocotools -------------------------------------------------------------------


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _dataset(images: list, categories: list, rows: list[dict]) -> COCO:
    coco = COCO()
    coco.dataset = {"images": images, "categories": categories, "annotations": rows}
    with _silence():
        coco.createIndex()
    return coco


def _accumulate(truth: COCO, found: COCO, *, max_detections: int) -> COCOeval:
    scored = COCOeval(truth, found, iouType="bbox")
    scored.params.maxDets = sorted({1, 10, 100, max_detections})
    with _silence():
        scored.evaluate()
        scored.accumulate()
    return scored


def _figures(scored: COCOeval, cap: int) -> dict[str, float | None]:
    """The twelve figures, as `COCOeval.summarize` forms them from its two arrays."""
    return {
        "AP": _precision(scored, cap),
        "AP50": _precision(scored, cap, iou=0.5),
        "AP75": _precision(scored, cap, iou=0.75),
        **{f"AP{s}": _precision(scored, cap, size=s) for s in SIZES[1:]},
        **{f"AR{n}": _recall(scored, n) for n in (1, 10, 100)},
        **{f"AR{s}": _recall(scored, cap, size=s) for s in SIZES[1:]},
    }


def _per_class(
    scored: COCOeval,
    cap: int,
    truth: list[dict],
    found: list[dict],
    *,
    names: Mapping[Any, str],
) -> dict[str, dict]:
    objects = Counter(ann["category_id"] for ann in truth if not ann["iscrowd"])
    detections = Counter(d["category_id"] for d in found)
    axis = {key: [k] for k, key in enumerate(scored.params.catIds)}
    return {
        name: {
            "AP": _precision(scored, cap, classes=axis[key]),
            "AP50": _precision(scored, cap, iou=0.5, classes=axis[key]),
            "AR100": _recall(scored, 100, classes=axis[key]),
            "ground_truth": objects[key],
            "detections": detections[key],
        }
        for key, name in names.items()
    }


def _precision(
    scored: COCOeval,
    cap: int,
    *,
    iou: float | None = None,
    size: str = "all",
    classes: Any = slice(None),
) -> float | None:
    """Mean over [iou, recall, class]; -1 marks classes without ground truth."""
    values = scored.eval["precision"][
        :, :, :, SIZES.index(size), scored.params.maxDets.index(cap)
    ][:, :, classes]
    if iou is not None:
        values = values[np.flatnonzero(scored.params.iouThrs == iou)]
    return _mean(values)


def _recall(
    scored: COCOeval, cap: int, *, size: str = "all", classes: Any = slice(None)
) -> float | None:
    """Mean over [iou, class] of the highest recall reached."""
    values = scored.eval["recall"][
        :, :, SIZES.index(size), scored.params.maxDets.index(cap)
    ]
    return _mean(values[:, classes])


def _mean(values: np.ndarray) -> float | None:
    present = values[values > -1]
    return float(np.mean(present)) if present.size else None


# ---- what comes out ----------------------------------------------------------------


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _aligned(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Rows of equal length as lines: the first `left` columns flush left."""
    widths = [max(max(map(_width, column)), 5) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for k, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - _width(cell))
            cells.append(cell + space if k < left else space + cell)
        lines.append("  ".join(cells).rstrip())
    return lines


def _width(text: str) -> int:
    """Columns of a terminal that the text takes (wide letters two, marks none)."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )
