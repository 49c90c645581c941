"""What is legal and may still be a slip: boxes nearly the same or tiny, or none."""

from collections.abc import Container, Iterator, Sequence
from itertools import groupby

import numpy as np

from frcnn_jax.data.annotations import box_text
from frcnn_jax.data.findings import Finding, Findings
from frcnn_jax.data.records import Dataset

ALIKE = 0.8  # IoU above which two boxes of a class are probably one object
TINY = 4.0  # pixels


def note(
    dataset: Dataset,
    source: str,
    findings: Findings,
    unread: Container[int | str] = (),
) -> None:
    """Add images without objects, near duplicates and tiny boxes.

    Crowds, boxes of no size and images in `unread` (ids) are left alone.
    """
    for record in dataset.records:
        if not len(record.boxes) and record.source_id not in unread:
            findings.add("background", source, image=record.source_id)
    listed = [a for a in dataset.annotations["annotations"] if not a["iscrowd"]]
    boxes = np.array([a["bbox"] for a in listed], np.float64).reshape(-1, 4)
    real = np.all(boxes[:, 2:] > 0, axis=1)
    listed, boxes = [a for a, r in zip(listed, real, strict=True) if r], boxes[real]

    def tiny(k: int) -> Finding:
        a = listed[k]
        return Finding("tiny", source, a["image_id"], a["id"], box_text(a["bbox"]))

    findings.add_where("tiny", (boxes[:, 2:] < TINY).any(1), tiny)
    for one, other, iou in alike(listed, boxes):
        findings.add(
            *("near-duplicate", source),
            image=one["image_id"],
            annotation=one["id"],
            detail=f"IoU {iou:.2f} with annotation {other['id']!r}",
        )


def alike(
    listed: Sequence[dict], boxes: np.ndarray
) -> Iterator[tuple[dict, dict, float]]:
    """Yield (annotation, an earlier one, IoU) of near duplicates, one for each.

    `boxes` [N, 4] are xywh in pixels, those of `listed`. Equal boxes are another fault.
    """
    keys = [(str(a["image_id"]), a["category_id"]) for a in listed]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for _, group in groupby(order, key=keys.__getitem__):
        rows = np.array(list(group))
        if len(rows) == 1:
            continue
        iou = np.tril(_iou(boxes[rows]), -1)  # with earlier ones
        iou[(boxes[rows][:, None] == boxes[rows][None]).all(2)] = 0
        for k in np.flatnonzero(iou.max(1) > ALIKE):
            best = int(iou[k].argmax())
            yield listed[rows[k]], listed[rows[best]], float(iou[k, best])


def _iou(boxes: np.ndarray) -> np.ndarray:
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    sides = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    shared = sides.clip(0).prod(2)
    area = boxes[:, 2:].prod(1)
    return shared / (area[:, None] + area - shared)
