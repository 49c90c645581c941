"""Numbers about the pictures and boxes of a split, for tables, plots and advice."""

from typing import NamedTuple

import numpy as np

from frcnn_jax import config
from frcnn_jax.data.records import Dataset
from frcnn_jax.doctor import anchors

SMALL, MEDIUM = 32.0, 96.0  # COCO's bounds: sqrt(area) in pixels
IOUS = (0.5, 0.7)


class AtSide(NamedTuple):
    """The objects of a split at one short side of the network's pictures."""

    short_side: int
    side: np.ndarray  # [N] sqrt(area), network pixels
    ratio: np.ndarray  # [N] height / width
    best_iou: np.ndarray  # [N] with any anchor
    factor: np.ndarray  # [N] network pixels per original pixel

    def recall(self, iou: float) -> float:
        """Share of the objects with an anchor of at least this IoU; NaN without any."""
        return float((self.best_iou >= iou).mean()) if len(self.side) else float("nan")


class Statistics(NamedTuple):
    """A split in numbers; objects are boxes that are no crowds."""

    name: str
    class_names: tuple[str, ...]
    sizes: np.ndarray  # [I, 2] (width, height) of the pictures
    per_image: np.ndarray  # [I] objects
    per_class: np.ndarray  # [C] objects
    crowds: int
    side: np.ndarray  # [N] sqrt(area), original pixels
    at: tuple[AtSide, ...]  # the smallest and the largest short side


def of(dataset: Dataset, run: config.Run) -> Statistics:
    """Count, measure and match with the run's anchors, at its extreme short sides."""
    records, data = dataset.records, run.data
    at = []
    for short_side in sorted({min(data.short_sides), max(data.short_sides)}):
        found = anchors.resized(records, data, short_side)
        w, h = (found.boxes[:, 2:] - found.boxes[:, :2]).T
        best = anchors.best_iou(found, run.model)
        ratio = h / np.maximum(w, 1e-9)
        at.append(AtSide(short_side, np.sqrt(w * h), ratio, best, found.factor))
    counts = np.bincount(found.labels, minlength=len(dataset.class_names) + 1)
    return Statistics(
        name=dataset.name,
        class_names=dataset.class_names,
        sizes=np.array([(r.width, r.height) for r in records], int).reshape(-1, 2),
        per_image=np.array([(~r.crowd).sum() for r in records], int),
        per_class=counts[1:],
        crowds=sum(int(r.crowd.sum()) for r in records),
        side=_sides(dataset),
        at=tuple(at),
    )


def _sides(dataset: Dataset) -> np.ndarray:
    none = np.zeros((0, 4), np.float32)
    boxes = np.concatenate([none, *(r.boxes[~r.crowd] for r in dataset.records)])
    return np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))


def shares(side: np.ndarray) -> tuple[float, float, float]:
    """Return the shares of small, medium and large objects by COCO's bounds."""
    if not len(side):
        return (float("nan"),) * 3
    small, large = (side < SMALL).mean(), (side >= MEDIUM).mean()
    return float(small), float(1 - small - large), float(large)
