"""Boxes of several views of a picture, brought together: class-wise suppression.

Boxes compete by score, within their class: one goes when its IoU with a better one that
stayed is above the threshold, as in the detector itself. A tile cuts objects at its
inner edges. A box that ends there counts with half of its score while boxes compete,
and goes as well when more than half of it lies in a better one: the neighbour shows an
object whole that is no larger than the overlap, and the view of the whole picture shows
the larger ones. A cut box that no other explains stays, with its own score.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from frcnn_jax.data.views import View

EDGE = 0.01  # of the tile's side: a box that comes so close to its edge is cut
CUT_WEIGHT = 0.5  # of a cut box's score against others
COVERED = 0.5  # share of a cut box in a better one from which on it goes


class Part(NamedTuple):
    """What was found in one view."""

    view: View
    boxes: np.ndarray  # [N, 4] xyxy, pixels of the view's part, mirrored as the view is
    scores: np.ndarray  # [N]
    labels: np.ndarray  # [N] 1..C


def merged(
    parts: Sequence[Part], hw: tuple[int, int], *, iou: float, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [N, 4] in pixels of a picture of (height, width), scores and labels [N].

    Best first, at most `most` for each tile and the whole. What one view of the whole
    shows is given as it is.
    """
    if len(parts) == 1:
        return parts[0][1:]
    boxes = np.concatenate([in_picture(part) for part in parts])
    cut = np.concatenate([is_cut(part, hw) for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    rank = scores * np.where(cut, CUT_WEIGHT, 1.0)
    kept = [
        rows[_survivors(boxes[rows], rank[rows], cut[rows], iou)]
        for rows in (np.flatnonzero(labels == label) for label in np.unique(labels))
    ]
    rows = np.concatenate([np.zeros(0, int), *kept])
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    rows = rows[: most * len({part.view.part for part in parts})]
    return boxes[rows], scores[rows], labels[rows]


def in_picture(part: Part) -> np.ndarray:
    """The boxes of a part [N, 4] in pixels of the picture, mirrored back."""
    x1, y1, x2, _ = part.view.part
    boxes = part.boxes
    if part.view.flip:
        left, top, right, bottom = boxes.T
        width = np.float32(x2 - x1)
        boxes = np.stack([width - right, top, width - left, bottom], axis=1)
    return boxes + np.array([x1, y1, x1, y1], np.float32)


def is_cut(part: Part, hw: tuple[int, int]) -> np.ndarray:
    """Which boxes [N] end at an edge of their tile inside the picture."""
    x1, y1, x2, y2 = part.view.part
    near_x, near_y = EDGE * (x2 - x1), EDGE * (y2 - y1)
    inner = np.array([x1 > 0, y1 > 0, x2 < hw[1], y2 < hw[0]])
    left, top, right, bottom = in_picture(part).T
    gaps = [left - x1 - near_x, top - y1 - near_y]
    gaps += [x2 - right - near_x, y2 - bottom - near_y]
    return ((np.stack(gaps, axis=1) <= 0) & inner).any(1)


def _survivors(
    boxes: np.ndarray, rank: np.ndarray, cut: np.ndarray, iou: float
) -> np.ndarray:
    """Rows that stay of one class, best first."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept: list[int] = []
    for row in np.argsort(-rank, kind="stable"):
        better = boxes[kept]
        low = np.maximum(better[:, :2], boxes[row, :2])
        high = np.minimum(better[:, 2:], boxes[row, 2:])
        shared = np.clip(high - low, 0, None).prod(1)
        # Products, not quotients, for boxes without area.
        hit = shared > iou * (area[kept] + area[row] - shared)
        if cut[row]:
            hit |= shared > COVERED * area[row]
        if not hit.any():
            kept.append(int(row))
    return np.array(kept, int)
