"""The annotations of a data set: checked, stacked into columns, filtered, made safe.

Conventions: boxes are COCO's (x, y, width, height) in original pixels throughout.
`images` and `categories` are the checked lists of `contents`, the categories with their
"label" (0 = left out). What is odd is added to the findings; an annotation with an
error is left out of the columns.

Not here: files and images (see `sources`), masks, keypoints.
"""

import math
from collections.abc import Hashable, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from frcnn_jax import config
from frcnn_jax.data.findings import NAMED, Finding, Findings

ROUNDING = 0.01  # pixels by which a box may leave its image without a word
LEAVING = 0.05  # share of boxes leaving their image that asks for an explanation


class Columns(NamedTuple):
    """The good annotations of a file, column by column."""

    row: np.ndarray  # [M] place in the file's list
    xywh: np.ndarray  # [M, 4] float64
    image: np.ndarray  # [M] row of the image
    label: np.ndarray  # [M] 1..C, 0 = a class left out
    crowd: np.ndarray  # [M] bool
    ignore: np.ndarray  # [M] bool


def stack(
    annotations: list[Any],
    images: list[dict],
    categories: list[dict],
    *,
    source: str,
    findings: Findings,
) -> Columns:
    """Check every annotation by itself and stack the good ones.

    Findings: a bbox that is not four finite numbers, an image_id or category_id that
    the file does not define.
    """
    image_row = {image["id"]: row for row, image in enumerate(images)}
    label = {c["id"]: c["label"] for c in categories}
    good, boxes, rows, labels = [], [], [], []
    for number, a in enumerate(annotations):
        fault = _fault(a, image_row, label)
        if fault:
            findings.add(
                *(fault[0], source),
                image=a.get("image_id") if isinstance(a, dict) else None,
                annotation=annotation_id(a, number),
                detail=fault[1],
            )
            continue
        good.append(number)
        boxes.append(a["bbox"])
        rows.append(image_row[a["image_id"]])
        labels.append(label[a["category_id"]])
    kept = [annotations[number] for number in good]
    return Columns(
        np.array(good, np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(rows, np.int64),
        np.array(labels, np.int64),
        np.array([bool(a.get("iscrowd")) for a in kept], bool),
        np.array([bool(a.get("ignore")) for a in kept], bool),
    )


def annotation_id(annotation: Any, number: int) -> Any:
    """Return the id of an annotation, or "number N" of one without."""
    name = annotation.get("id") if isinstance(annotation, dict) else None
    return f"number {number}" if name is None else name


def _fault(annotation: Any, image_row: dict, label: dict) -> tuple[str, str] | None:
    """Return fault and detail of an annotation that cannot be used."""
    if not isinstance(annotation, dict):
        return "bbox", f"is not an object but {str(annotation)[:40]!r}"
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return "bbox", f"the bbox is {box!r}"
    for fault, name, table in (
        ("unknown-image", "image_id", image_row),
        ("unknown-category", "category_id", label),
    ):
        key = annotation.get(name)
        if not isinstance(key, Hashable) or key not in table:
            return fault, f"the {name} is {key!r}{_nearest(key, table)}"
    return None


def _nearest(key: Any, table: dict) -> str:
    known = [repr(k) for k in table]
    near = get_close_matches(repr(key), known, n=1, cutoff=0.0)
    listed = ", ".join(known[:NAMED]) + (", ..." if len(known) > NAMED else "")
    hint = f"; did you mean {near[0]}?" if near else ""
    return f", not one of the {len(known)} listed ({listed}){hint}"


def is_number(value: Any) -> bool:
    """Say whether a JSON value is a finite number (true and false are none)."""
    return type(value) in (int, float) and math.isfinite(value)


def image_sizes(images: list[dict]) -> np.ndarray:
    """Return (width, height) of every image, [I, 2] float64."""
    return np.array([(i["width"], i["height"]) for i in images], np.float64)


def check_geometry(
    columns: Columns,
    images: list[dict],
    annotations: list[dict],
    *,
    source: str,
    findings: Findings,
) -> None:
    """Find boxes in another unit or format, judged over the whole file.

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
    many = leaves.mean() > LEAVING
    fits = (second > first) & (first >= 0) & (second <= size + 0.5)
    hint = f"{leaves.sum()} of {len(xywh)} boxes leave their image"
    negative = (second < 0).any(1)
    findings.add_where(
        "negative-size",
        negative,
        lambda k: finding_of(
            "negative-size", columns, k, annotations=annotations, source=source
        ),
    )
    if many and leaves.sum() > 2 and (fits.all() or negative.any()):
        findings.add("corners", source, detail=hint)
    if 0 < xywh.max() <= 1 and xywh.min() >= 0 and (size > 2).all():
        findings.add("relative", source, detail=f"all {len(xywh)} boxes")


def finding_of(
    fault: str, columns: Columns, k: int, *, annotations: list[dict], source: str
) -> Finding:
    """Return the finding of row `k` of the columns, with its box."""
    row = int(columns.row[k])
    a = annotations[row]
    box = box_text(a["bbox"])
    return Finding(fault, source, a["image_id"], annotation_id(a, row), box)


def box_text(box: Sequence[float]) -> str:
    """Return a bbox for people: "bbox [595.2, 144, 64, 96]"."""
    return f"bbox [{', '.join(f'{side:.6g}' for side in box)}]"


def box_filter(
    columns: Columns,
    images: list[dict],
    data: config.Data,
    *,
    training: bool,
    annotations: list[dict],
    source: str,
    findings: Findings,
) -> np.ndarray:
    """Say which annotations become boxes of records ([M] bool), noting the others.

    Dropped are left-out classes, boxes wholly outside their image and, in training,
    boxes with a side under `data.min_box_side` (before clipping) or of no size, and
    those marked "ignore". Crowds stay.
    """

    def note(fault: str, hits: np.ndarray) -> None:
        findings.add_where(
            *(fault, hits),
            lambda k: finding_of(
                fault, columns, k, annotations=annotations, source=source
            ),
        )

    low, side = columns.xywh[:, :2], columns.xywh[:, 2:]
    size = image_sizes(images)[columns.image]
    visible = np.minimum(low + side, size) - np.maximum(low, 0)
    # A box of no size has nothing visible wherever it is: outside only if beyond.
    # A sliver would have no width in float32 after resizing, and a loss of NaN.
    sliver = (visible <= ROUNDING) & (side > ROUNDING)
    outside = ((visible < 0) | sliver).any(1)
    small = (side < data.min_box_side).any(1) | (side <= 0).any(1)
    keep = np.ones(len(side), bool)
    reasons = [("left-out", columns.label == 0), ("outside", outside)]
    if training:
        reasons += [("small", small), ("ignored", columns.ignore)]
    for fault, hit in reasons:
        note(fault, keep & hit)
        keep &= ~hit
    note("clipped", keep & (visible < side - ROUNDING).any(1))
    note("duplicate", keep & _repeated(columns))
    return keep


def _repeated(columns: Columns) -> np.ndarray:
    """Say which annotations ([M] bool) repeat an earlier one: image, class, and box."""
    if not len(columns.row):
        return np.zeros(0, bool)
    keys = np.column_stack([columns.image, columns.label, columns.xywh])
    _, first = np.unique(keys, axis=0, return_index=True)
    repeated = np.ones(len(keys), bool)
    repeated[first] = False
    return repeated


def scoring_dictionary(
    info: dict,
    annotations: list[dict],
    images: list[dict],
    categories: list[dict],
    columns: Columns,
    *,
    keep: np.ndarray,
    source: str,
    findings: Findings,
) -> dict[str, Any]:
    """Build the dictionary pycocotools reads: the file's boxes, complete and safe.

    Holds the kept images ([I] bool) and classes; boxes are not clipped and none is
    dropped for its size. Missing areas become width * height, missing iscrowd 0;
    annotation ids change as `_annotation_ids` says. "ignore" is kept where it is set.
    """
    chosen = np.flatnonzero(keep[columns.image] & (columns.label > 0))
    kept = [annotations[row] for row in columns.row[chosen]]
    no_area = np.array([not is_number(a.get("area")) for a in kept], bool)
    no_crowd = np.array([a.get("iscrowd") is None for a in kept], bool)

    def found(fault: str, k: int) -> Finding:
        named = annotation_id(kept[k], int(columns.row[chosen[k]]))
        return Finding(fault, source, kept[k]["image_id"], named)

    for fault, hits in (("no-area", no_area), ("no-crowd", no_crowd)):
        findings.add_where(fault, hits, partial(found, fault))
    ids = _annotation_ids(kept, source, findings)
    fields = ("id", "file_name", "width", "height")
    return {
        "info": info,
        "images": [
            {f: images[i][f] for f in fields if f in images[i]}
            for i in np.flatnonzero(keep)
        ],
        "categories": [
            {k: v for k, v in c.items() if k != "label"}
            for c in categories
            if c["label"]
        ],
        "annotations": [_complete(a, key) for key, a in zip(ids, kept, strict=True)],
    }


def _complete(a: dict, key: int) -> dict[str, Any]:
    area = a["area"] if is_number(a.get("area")) else a["bbox"][2] * a["bbox"][3]
    return {
        "id": key,
        "image_id": a["image_id"],
        "category_id": a["category_id"],
        "bbox": list(a["bbox"]),
        "area": area,
        "iscrowd": int(bool(a.get("iscrowd"))),
    } | ({"ignore": 1} if a.get("ignore") else {})


def _annotation_ids(
    annotations: list[dict], source: str, findings: Findings
) -> list[int]:
    """Keep the ids, or number all from 1 when pycocotools would stumble over one.

    pycocotools 2.0.11 takes id 0 for "no match" and keeps one annotation per id.
    """
    ids = [a.get("id") for a in annotations]
    good = [type(i) is int and i > 0 for i in ids]
    if all(good) and len(set(ids)) == len(ids):
        return ids
    seen: set = set()
    for number, (i, a) in enumerate(zip(ids, annotations, strict=True)):
        if not good[number] or i in seen:
            findings.add(
                *(
                    "annotation-id",
                    source,
                ),
                image=a["image_id"],
                annotation=annotation_id(a, number),
            )
        if good[number]:
            seen.add(i)
    return list(range(1, len(ids) + 1))
