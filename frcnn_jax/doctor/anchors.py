"""How well the anchors of a configuration fit the boxes of a data set.

For every box the best IoU with any anchor, worked out instead of searched: anchors of
one shape sit on a regular grid, and of those the one whose centre is nearest overlaps
most. Cells are counted as ceil(side / stride) of the resized picture.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from frcnn_jax import config
from frcnn_jax.data import transforms
from frcnn_jax.data.records import Record
from frcnn_jax.detectors import network
from frcnn_jax.ops.anchors import AnchorSpec, base_anchors

BLOCK = 50_000  # boxes at a time, for the memory


class Resized(NamedTuple):
    """Objects (no crowds) as the network sees them."""

    boxes: np.ndarray  # [N, 4] xyxy, network pixels
    labels: np.ndarray  # [N] 1..C
    image_wh: np.ndarray  # [N, 2] of their resized picture
    factor: np.ndarray  # [N] network pixels per original pixel, the mean of both axes


def resized(records: Sequence[Record], data: config.Data, short_side: int) -> Resized:
    """Give the boxes of records at a short side, as `transforms.make_sample` does."""
    counts = [int((~r.crowd).sum()) for r in records]
    none = np.zeros((0, 4), np.float32)
    boxes = np.concatenate([none, *(r.boxes[~r.crowd] for r in records)])
    labels = np.concatenate([np.zeros(0, int), *(r.labels[~r.crowd] for r in records)])
    sizes = np.array([(r.width, r.height) for r in records], np.int64).reshape(-1, 2)
    unique, row = np.unique(sizes, axis=0, return_inverse=True)
    rule = (short_side, data.max_side, data.size_rule)
    changed = [transforms.resized_hw(int(h), int(w), *rule)[::-1] for w, h in unique]
    after = np.array(changed, np.float64).reshape(-1, 2)
    of_box = np.repeat(row.reshape(-1), counts)
    scale = (after / unique)[of_box]
    return Resized(
        boxes * np.tile(scale, 2), labels.astype(int), after[of_box], scale.mean(1)
    )


def best_iou(found: Resized, model: config.FasterRCNN) -> np.ndarray:
    """Return the best IoU of each box ([N]) with any anchor of the model.

    Anchors that `model.rpn.allowed_border` keeps out of training do not count.
    """
    spec, border = network.anchor_spec(model), model.rpn.allowed_border
    parts = [np.zeros(0)]
    for start in range(0, len(found.boxes), BLOCK):
        part = slice(start, start + BLOCK)
        boxes, wh = found.boxes[part], found.image_wh[part]
        parts.append(_best(boxes, wh, spec, border))
    return np.concatenate(parts)


def _best(
    boxes: np.ndarray, image_wh: np.ndarray, spec: AnchorSpec, border: float
) -> np.ndarray:
    best = np.zeros(len(boxes))
    for sizes, stride in zip(spec.sizes, spec.strides, strict=True):
        cells = np.ceil(image_wh / stride)
        for base in base_anchors(sizes, spec.ratios, spec.style).astype(np.float64):
            np.maximum(
                best,
                _iou_at_best(boxes, base, stride, (cells, image_wh, border)),
                out=best,
            )
    return best


def _iou_at_best(boxes, base, stride, room) -> np.ndarray:
    """Return each box's IoU with the nearest of the anchors of one shape."""
    cells, image_wh, border = room
    first, last = np.zeros_like(cells), cells - 1
    if border >= 0:
        first = np.maximum(first, np.ceil((-border - base[:2]) / stride))
        last = np.minimum(last, np.floor((image_wh + border - base[2:]) / stride))
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 - (base[:2] + base[2:]) / 2
    cell = np.clip(np.rint(centre / stride), first, np.maximum(first, last))
    low, high = base[:2] + cell * stride, base[2:] + cell * stride
    shared = np.minimum(high, boxes[:, 2:]) - np.maximum(low, boxes[:, :2])
    shared = shared.clip(0).prod(1) * (first <= last).all(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (base[2:] - base[:2]).prod()
    return shared / np.maximum(areas - shared, 1e-9)
