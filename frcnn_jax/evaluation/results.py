"""Detections as arrays to COCO result dictionaries, and back.

Boxes are xyxy in original pixels as arrays, (x, y, width, height) in results, without
"+1". No judgement here: `coco.evaluate` refuses what must not be scored.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


def to_results(
    detections: Any,
    image_rows: np.ndarray,
    source_ids: Sequence[Any],
    category_ids: Sequence[Any],
) -> list[dict]:
    """Turn padded detections of a batch into COCO result dicts, in the same order.

    Args:
      detections: a `types.Detections` of numpy arrays: boxes [B, D, 4] xyxy in original
        pixels, scores [B, D], labels [B, D] with 0 = empty row.
      image_rows: [B] row of each image in its data set; -1 = filler image, left out.
      source_ids: the COCO image id of each row of the data set.
      category_ids: the COCO category id of label 1, of label 2, ...; detections of
        labels without one (None) are left out, as pycocotools does.

    Raises ValueError for a row or label that the two tables do not hold. Values are
    not judged here: `evaluate` refuses non-finite ones with the image's and class's
    name.
    """
    boxes, scores = np.asarray(detections.boxes), np.asarray(detections.scores)
    labels, rows = np.asarray(detections.labels), np.asarray(image_rows)
    _check_range("image_rows", rows, low=-1, high=len(source_ids) - 1)
    _check_range("labels", labels, low=0, high=len(category_ids))
    results = []
    for i, d in zip(*np.nonzero((labels > 0) & (rows >= 0)[:, None]), strict=True):
        category = category_ids[labels[i, d] - 1]
        if category is None:
            continue
        x1, y1, x2, y2 = boxes[i, d].tolist()
        results.append(
            {
                "image_id": source_ids[rows[i]],
                "category_id": category,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(scores[i, d]),
            }
        )
    return results


class Found(NamedTuple):
    """Detections of one image, best first as given."""

    boxes: np.ndarray  # [N, 4] xyxy, original pixels
    labels: np.ndarray  # [N] 1..C
    scores: np.ndarray  # [N]


def from_results(
    results: Sequence[Mapping[str, Any]], image_id: Any, category_ids: Sequence[Any]
) -> Found:
    """Turn the result dicts of one image back into arrays."""
    own = [row for row in results if row["image_id"] == image_id]
    boxes = np.asarray([row["bbox"] for row in own], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    label_of = {category: label for label, category in enumerate(category_ids, 1)}
    labels = np.asarray([label_of[row["category_id"]] for row in own], int)
    return Found(boxes, labels, np.asarray([row["score"] for row in own], float))


def _check_range(name: str, values: np.ndarray, *, low: int, high: int) -> None:
    if values.size and (values.min() < low or values.max() > high):
        raise ValueError(
            f"{name} hold {values.min()}..{values.max()}, outside {low}..{high}; "
            "detections and data set do not belong together"
        )
