"""Which detection belongs to which object, for every analysis beside the metric.

Boxes are COCO's (x, y, width, height) in original pixels, classes count from 0 in the
order of the annotation file. Overlaps and matches follow pycocotools 2.0.11 to the bit
(the tests compare): a crowd is compared by intersection over the detection's area, and
of equal overlaps the later object wins. numpy only.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from frcnn_jax.evaluation import checked

FOREGROUND = 0.5  # IoU from which a detection finds an object
BACKGROUND = 0.1  # IoU below which it has nothing to do with one
# pycocotools' ranges of area, both ends inside.
SIZES = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}


class Objects(NamedTuple):
    """Ground truth, by image, within an image as in the file."""

    image: np.ndarray  # [G] place of the image, from 1
    label: np.ndarray  # [G] 0..C-1
    box: np.ndarray  # [G, 4] xywh
    area: np.ndarray  # [G]
    crowd: np.ndarray  # [G] bool


class Detected(NamedTuple):
    """Detections that count, by image, within an image best first."""

    image: np.ndarray  # [D]
    label: np.ndarray  # [D] 0..C-1
    box: np.ndarray  # [D, 4] xywh
    area: np.ndarray  # [D]
    score: np.ndarray  # [D]


class Pairs(NamedTuple):
    """Detections and objects of one image whose IoU is BACKGROUND or more.

    Crowds are paired with detections of their own class only.
    """

    detection: np.ndarray  # [P] row of Detected
    object: np.ndarray  # [P] row of Objects
    iou: np.ndarray  # [P]
    own: np.ndarray  # [P] bool, of the same class


class Sets(NamedTuple):
    """A data set and what was found in it."""

    names: tuple[str, ...]  # [C]
    objects: Objects
    found: Detected
    pairs: Pairs
    dropped: int  # detections beyond the cap


class Matches(NamedTuple):
    """The object of each detection, by one IoU and one range of sizes."""

    object: np.ndarray  # [D] row of Objects, -1 = none
    counted: np.ndarray  # [D] bool, neither on a crowd nor out of the range
    true: np.ndarray  # [D] bool, counted and with an object
    objects: np.ndarray  # [G] bool, objects that are to be found

    def objects_of(self, label: np.ndarray, classes: int) -> np.ndarray:
        """Return [C], the objects to be found of each class; `label` [G]."""
        return np.bincount(label[self.objects], minlength=classes)


def read(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    max_detections: int = 100,
) -> Sets:
    """Turn COCO annotations and results into arrays with all overlaps.

    Of each image and class the best `max_detections` are kept, as pycocotools does.
    Raises ValueError as `coco.evaluate` does, for `max_detections` below 1 too.
    """
    if max_detections < 1:
        raise ValueError(f"max_detections is {max_detections}; it must be at least 1")
    names = checked.class_names(annotations)
    files = {i["id"]: i.get("file_name", "") for i in annotations["images"]}
    known = {"names": names, "files": files}
    places = checked.places(files)
    labels = {key: label for label, key in enumerate(names)}
    truth = _columns(checked.ground_truth(annotations, **known), places, labels)
    rows = _columns(checked.detections(results, **known), places, labels)
    objects = Objects(
        *(column[np.argsort(truth[0], kind="stable")] for column in truth)
    )
    objects = objects._replace(crowd=objects.crowd.astype(bool))
    # lexsort is stable: equal scores stay in the order of the results.
    order = np.lexsort((-rows[4], rows[0]))
    found = Detected(*(column[order] for column in rows))
    kept = _ranks(found.image * len(names) + found.label) < max_detections
    found = Detected(*(column[kept] for column in found))
    pairs = _pairs(objects, found)
    dropped = int(len(kept) - kept.sum())
    return Sets(tuple(names.values()), objects, found, pairs, dropped)


def match(sets: Sets, iou: float = FOREGROUND, size: str = "all") -> Matches:
    """Give each detection an object of its class, best scores first.

    Each takes the free object that it overlaps most, from `iou` on (at least
    BACKGROUND); crowds and objects out of the range of `size` come last, do not count,
    and a crowd takes any number. Equal to pycocotools' `evaluateImg`.
    """
    low, high = SIZES[size]
    objects, pairs = sets.objects, sets.pairs
    outside = (objects.area < low) | (objects.area > high)
    ignored = objects.crowd | outside
    use = np.flatnonzero(pairs.own & (pairs.iou >= iou))
    order = (-pairs.object[use], -pairs.iou[use], ignored[pairs.object[use]])
    use = use[np.lexsort((*order, pairs.detection[use]))]
    taken = greedy(sets, use)
    alone = taken < 0
    own_outside = (sets.found.area < low) | (sets.found.area > high)
    counted = np.where(alone, ~own_outside, ~np.append(ignored, False)[taken])
    return Matches(taken, counted, counted & ~alone, ~ignored)


def greedy(sets: Sets, use: np.ndarray) -> np.ndarray:
    """Return [D], the object each detection takes, -1 for none.

    `use` [N] are rows of pairs in order of preference, all of one detection together:
    the first pair whose object is free, or a crowd, decides.
    """
    free = [True] * len(sets.objects.image)
    crowd = sets.objects.crowd.tolist()
    taken = np.full(len(sets.found.image), -1)
    rows, wanted = sets.pairs.detection[use].tolist(), sets.pairs.object[use].tolist()
    last = -1
    for row, one in zip(rows, wanted, strict=True):
        if row != last and (free[one] or crowd[one]):
            taken[row], free[one], last = one, False, row
    return taken


def _columns(rows: list[dict], places: Mapping, labels: Mapping) -> list[np.ndarray]:
    """Columns image, label, box, area and score (of ground truth: crowd)."""
    last = "score" if rows and "score" in rows[0] else "iscrowd"
    count = len(rows)
    return [
        np.fromiter((places[r["image_id"]] for r in rows), int, count),
        np.fromiter((labels[r["category_id"]] for r in rows), int, count),
        np.array([r["bbox"] for r in rows], float).reshape(-1, 4),
        np.fromiter((r["area"] for r in rows), float, count),
        np.fromiter((r[last] for r in rows), float, count),
    ]


def _ranks(group: np.ndarray) -> np.ndarray:
    """Return [N], how many earlier rows are of the same group."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    ranks = np.empty(len(group), int)
    ranks[order] = np.arange(len(group)) - starts
    return ranks


def _pairs(objects: Objects, found: Detected) -> Pairs:
    """Compare within each image: all its detections with all its objects."""
    images = np.intersect1d(objects.image, found.image)
    limits = [
        np.searchsorted(image, images, side=side).tolist()
        for image in (found.image, objects.image)
        for side in ("left", "right")
    ]
    parts = []
    for first, last, start, stop in zip(*limits, strict=True):
        crowd = objects.crowd[start:stop]
        overlap = iou_matrix(found.box[first:last], objects.box[start:stop], crowd)
        own = found.label[first:last, None] == objects.label[start:stop]
        near = (overlap >= BACKGROUND) & (own | ~crowd)
        d, g = np.nonzero(near)
        parts.append((d + first, g + start, overlap[near], own[near]))
    empty = (np.empty(0, int), np.empty(0, int), np.empty(0), np.empty(0, bool))
    return Pairs(*map(np.concatenate, zip(empty, *parts, strict=True)))


def iou_matrix(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Return [D, G], the IoU of boxes [D, 4] and [G, 4], xywh in pixels.

    Where `crowd` [G] the denominator is the area of the first box, as in pycocotools.
    Boxes that share no area have 0.
    """
    low, high = boxes[:, None, :2], boxes[:, None, :2] + boxes[:, None, 2:]
    sides = np.minimum(high, others[:, :2] + others[:, 2:])
    sides -= np.maximum(low, others[:, :2])
    shared = np.where((sides > 0).all(-1), sides[..., 0] * sides[..., 1], 0.0)
    area = (boxes[:, 2] * boxes[:, 3])[:, None]
    # In pycocotools' order of operations, so that the last bit is the same.
    whole = np.where(crowd, area, area + others[:, 2] * others[:, 3] - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)
