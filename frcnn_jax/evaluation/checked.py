"""Annotations and results as a metric may count them: complete, finite, known.

pycocotools 2.0.11 alone would let the following pass: a NaN box scores as a match, an
annotation with id 0 never matches, annotations sharing an id replace each other, an
unknown category is ignored. Each is an error here, or put in order in a copy: nothing
given by the caller is changed.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)


class Refused(ValueError):
    """Detections that must not be scored: a broken model, not broken data."""

    exit_code = 2  # of the scripts


def class_names(annotations: Mapping[str, Any]) -> dict[Any, str]:
    """Return {category id: name}, in the order of the file.

    Raises ValueError for no images or categories, and for a repeated id or name.
    """
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


def ground_truth(
    annotations: Mapping[str, Any], *, names: Mapping, files: Mapping
) -> list[dict]:
    """Return the annotations, checked and completed, with ids from 1.

    Raises ValueError naming the annotation for a box or area that is no finite number
    or negative, and for unknown images and categories.
    """
    truth: list[dict[str, Any]] = []
    for ann in annotations.get("annotations", ()):
        what = f"annotation {ann.get('id', '(no id)')}"
        box = _checked_box(ann, what, names=names, files=files)
        area = ann.get("area")
        if area is None:
            area = box[2] * box[3]
        if not _finite(area):
            raise ValueError(f"{what}: area {area!r}, which is no finite number")
        crowd = int(ann.get("iscrowd") or 0)
        extra = {"area": area, "iscrowd": crowd, "ignore": int(bool(ann.get("ignore")))}
        truth.append(_entry(ann, box, **extra, id=len(truth) + 1))
    return truth


def detections(
    results: Sequence[Mapping[str, Any]], *, names: Mapping, files: Mapping
) -> list[dict]:
    """Return the results, checked, with areas and ids from 1.

    Raises Refused naming image and class for a box or score that is no finite
    number, and ValueError for unknown images and categories.
    """
    found = []
    for row, result in enumerate(results):
        what = f"detection {row}"
        box = _checked_box(result, what, names=names, files=files, error=Refused)
        score = result.get("score")
        if not _finite(score):
            place = _place(result, what, names=names, files=files)
            raise Refused(f"{place}: score {score!r}, which is no finite number")
        extra = {"score": float(score), "area": box[2] * box[3]}
        found.append(_entry(result, box, **extra, iscrowd=0, id=row + 1))
    return found


def places(image_ids: Iterable[Any]) -> dict[Any, int]:
    """Return {id: its place from 1}, in order, which decides between equal scores.

    The faster backend takes whole numbers only, and pycocotools loses images where
    numbers and texts are mixed.
    """
    ordered = sorted(image_ids, key=lambda key: (isinstance(key, str), key))
    return {key: place for place, key in enumerate(ordered, 1)}


def log_empty(truth: Sequence, found: Sequence) -> None:
    """Say in a sentence why every figure is 0, or why there is none."""
    if truth and not found:
        log.warning("no detections at all: every figure is 0")
    if not truth:
        log.warning("no ground truth at all: the figures do not exist (n/a)")


def _entry(source: Mapping[str, Any], box: list[float], **extra: Any) -> dict:
    """A fresh dict with the fields pycocotools reads (it writes into what it gets)."""
    keys = {key: source[key] for key in ("image_id", "category_id")}
    return {**keys, "bbox": box, **extra}


def _checked_box(
    row: Mapping[str, Any],
    what: str,
    *,
    names: Mapping,
    files: Mapping,
    error: type[ValueError] = ValueError,
) -> list[float]:
    for key, known in (("image_id", files), ("category_id", names)):
        if row.get(key) not in known:
            raise ValueError(
                f"{what} has {key} {row.get(key)!r}, which is not among the "
                f"{len(known)} of the annotation file; was it made for another file?"
            )
    box = row.get("bbox")
    if box is not None and len(box) == 4 and all(map(_finite, box)):
        if box[2] >= 0 and box[3] >= 0:
            return [float(value) for value in box]
    # Only now the sentence: half a million rows are checked without one.
    place = _place(row, what, names=names, files=files)
    if box is None or len(box) != 4:
        raise ValueError(f"{place}: bbox is {box!r}, not (x, y, width, height)")
    for value in box:
        if not _finite(value):
            raise error(
                f"{place}: bbox {list(box)} holds {value!r}, which is no finite number"
            )
    raise ValueError(f"{place}: bbox {list(box)} has a negative width or height")


def _place(row: Mapping[str, Any], what: str, *, names: Mapping, files: Mapping) -> str:
    image, name = row["image_id"], names[row["category_id"]]
    return f"{what} (image {image} {files[image]}, class {name!r})".replace(" ,", ",")


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:
        return False
