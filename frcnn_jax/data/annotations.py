"""The annotations of a COCO file: checked, stacked into columns, filtered, made safe.

Conventions: boxes are COCO's (x, y, width, height) in original pixels throughout.
`source` is the file, for messages; `images` and `categories` are the checked lists of
`coco.load`, the categories with their "label" (0 = left out). Counts go into `skipped`.

Not here: files and images (see `coco`), masks, keypoints.
"""

import math
from collections import Counter
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from frcnn_jax import config

NAMED = 20  # offenders listed in one message
LEAVING = 0.05  # share of boxes leaving their image that asks for an explanation


class Columns(NamedTuple):
    """All annotations of a file, column by column."""

    xywh: np.ndarray  # [M, 4] float64
    image: np.ndarray  # [M] row of the image
    label: np.ndarray  # [M] 1..C, 0 = a class left out
    crowd: np.ndarray  # [M] bool
    ignore: np.ndarray  # [M] bool


def stack(
    annotations: list[Any], images: list[dict], categories: list[dict], source: Path
) -> Columns:
    """Check every annotation by itself and stack them.

    Raises ValueError, naming the annotation id, for a bbox that is not four finite
    numbers and for an image_id or category_id that the file does not define.
    """
    image_row = {image["id"]: row for row, image in enumerate(images)}
    label = {c["id"]: c["label"] for c in categories}
    boxes, rows, labels = [], [], []
    for number, a in enumerate(annotations):
        try:
            boxes.append(_bbox(a))
            rows.append(_lookup(image_row, a, "image_id"))
            labels.append(_lookup(label, a, "category_id"))
        except ValueError as error:
            name = a.get("id") if isinstance(a, dict) else None
            name = f"number {number}" if name is None else repr(name)
            raise ValueError(f"{source}: annotation {name} {error}") from None
    return Columns(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(rows, np.int64),
        np.array(labels, np.int64),
        np.array([bool(a.get("iscrowd")) for a in annotations], bool),
        np.array([bool(a.get("ignore")) for a in annotations], bool),
    )


def _bbox(annotation: Any) -> list[float | int]:
    if not isinstance(annotation, dict):
        raise ValueError("is not an object")
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise ValueError(
            f"has the bbox {box!r}; expected four finite numbers [x, y, width, height]"
            " in pixels"
        )
    return box


def is_number(value: Any) -> bool:
    """Say whether a JSON value is a finite number (true and false are none)."""
    return type(value) in (int, float) and math.isfinite(value)


def _lookup(table: dict, annotation: dict, name: str) -> int:
    key = annotation.get(name)
    try:
        return table[key]
    except (KeyError, TypeError):
        known = [repr(k) for k in table]
        near = get_close_matches(repr(key), known, n=1, cutoff=0.0)
        list_name = "images" if name == "image_id" else "categories"
        raise ValueError(
            f"has the {name} {key!r}, which is not among the {len(known)}"
            f" {list_name} ({', '.join(known[:NAMED])}"
            f"{', ...' if len(known) > NAMED else ''}); did you mean {near[0]}?"
        ) from None


def image_sizes(images: list[dict]) -> np.ndarray:
    """Return (width, height) of every image, [I, 2] float64."""
    return np.array([(i["width"], i["height"]) for i in images], np.float64)


def check_geometry(
    columns: Columns, images: list[dict], annotations: list[dict], source: Path
) -> None:
    """Raise ValueError for boxes in another unit or format, judged over the whole file.

    Negative sizes always; corners instead of sizes when more than 5 % of the boxes
    leave their image and all make sense as corners; shares of the image when all lie
    between 0 and 1.
    """
    if not len(columns.xywh):
        return
    xywh, size = columns.xywh, image_sizes(images)[columns.image]
    first, second = xywh[:, :2], xywh[:, 2:]
    # Half a pixel of slack: rounded labels at the border are not a sign of anything.
    leaves = (first + second > size + 0.5).any(1) | (first < -0.5).any(1)
    xyxy_fits = (second > first) & (first >= 0) & (second <= size + 0.5)
    many = leaves.mean() > LEAVING
    hint = (
        f"; {leaves.sum()} of {len(xywh)} boxes leave their image, so they are probably"
        " stored as [x1, y1, x2, y2]: write [x, y, width, height]"
    )
    negative = np.flatnonzero((second < 0).any(1))
    if len(negative):
        ids = [annotations[row].get("id", row) for row in negative[:NAMED]]
        raise ValueError(
            f"{source}: {len(negative)} boxes have a negative width or height"
            f" (annotation ids {', '.join(map(repr, ids))}, the first"
            f" {xywh[negative[0]].tolist()}){hint if many else ''}"
        )
    if many and leaves.sum() > 2 and xyxy_fits.all():
        raise ValueError(f"{source}: the boxes read as [x, y, width, height]{hint}")
    if 0 < xywh.max() <= 1 and xywh.min() >= 0 and (size > 2).all():
        raise ValueError(
            f"{source}: all {len(xywh)} boxes lie between 0 and 1, so they are"
            " probably relative to the image: multiply x and width by the image's"
            " width, y and height by its height"
        )


def box_filter(
    columns: Columns,
    images: list[dict],
    data: config.Data,
    *,
    training: bool,
    skipped: Counter,
) -> np.ndarray:
    """Say which annotations become boxes of records ([M] bool), counting the others.

    Dropped are left-out classes, boxes wholly outside their image and, in training,
    boxes with a side under `data.min_box_side` (before clipping) or of no size, and
    those marked "ignore". Crowds stay.
    """
    low, side = columns.xywh[:, :2], columns.xywh[:, 2:]
    size = image_sizes(images)[columns.image]
    visible = np.minimum(low + side, size) - np.maximum(low, 0)
    # A box of no size has nothing visible wherever it is: outside only if beyond.
    outside = ((visible < 0) | ((visible == 0) & (side > 0))).any(1)
    small = (side < data.min_box_side).any(1) | (side <= 0).any(1)
    keep = np.ones(len(side), bool)
    reasons = [
        ("boxes of classes left out dropped", columns.label == 0),
        ("boxes outside their image dropped", outside),
    ]
    if training:
        px = f"{data.min_box_side:g}"
        reasons += [
            (f"boxes with a side under {px} pixel dropped from training", small),
            ("boxes marked 'ignore' dropped from training", columns.ignore),
        ]
    for reason, hit in reasons:
        count(skipped, reason, keep & hit)
        keep &= ~hit
    count(skipped, "boxes clipped to their image", keep & (visible < side).any(1))
    return keep


def count(skipped: Counter, reason: str, hits: np.ndarray) -> None:
    """Add the number of true entries of `hits` to a reason, unless it is zero."""
    if hits.any():
        skipped[reason] += int(hits.sum())


def scoring_dictionary(
    content: dict,
    images: list[dict],
    categories: list[dict],
    columns: Columns,
    *,
    keep: np.ndarray,
    skipped: Counter,
) -> dict[str, Any]:
    """Build the dictionary pycocotools reads: the file's boxes, complete and safe.

    Holds the kept images ([I] bool) and classes; boxes are not clipped and none is
    dropped for its size. Missing areas become width * height, missing iscrowd 0;
    annotation ids change as `_annotation_ids` says.
    """
    rows = np.flatnonzero(keep[columns.image] & (columns.label > 0))
    annotations = [content["annotations"][row] for row in rows]
    no_area = np.array([not is_number(a.get("area")) for a in annotations])
    no_crowd = np.array([a.get("iscrowd") is None for a in annotations])
    count(skipped, "annotations without area, filled with width * height", no_area)
    count(skipped, "annotations without iscrowd, filled with 0", no_crowd)
    ids = _annotation_ids(annotations, skipped)
    fields = ("id", "file_name", "width", "height")
    return {
        "info": content.get("info") or {},
        "images": [
            {f: images[i][f] for f in fields if f in images[i]}
            for i in np.flatnonzero(keep)
        ],
        "categories": [
            {k: v for k, v in c.items() if k != "label"}
            for c in categories
            if c["label"]
        ],
        "annotations": [
            {
                "id": key,
                "image_id": a["image_id"],
                "category_id": a["category_id"],
                "bbox": list(a["bbox"]),
                "area": a["bbox"][2] * a["bbox"][3] if empty else a["area"],
                "iscrowd": int(bool(a.get("iscrowd"))),
            }
            for key, a, empty in zip(ids, annotations, no_area, strict=True)
        ],
    }


def _annotation_ids(annotations: list[dict], skipped: Counter) -> list[int]:
    """Keep the ids, or number all from 1 when pycocotools would stumble over one.

    pycocotools 2.0.11 takes id 0 for "no match" and keeps one annotation per id.
    """
    ids = [a.get("id") for a in annotations]
    whole = all(type(i) is int and i > 0 for i in ids)
    if whole and len(set(ids)) == len(ids):
        return ids
    skipped["annotations renumbered from 1 (an id was 0, missing or used twice)"] = len(
        ids
    )
    return list(range(1, len(ids) + 1))
