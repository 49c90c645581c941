"""Assigning ground truth to anchors or proposals by IoU."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


class Match(NamedTuple):
    """What each of N boxes was assigned to."""

    # [N] int32 row of the ground truth; meaningful where positive
    index: Array  # type: ignore[assignment]
    label: Array  # [N] int32: 1 positive, 0 negative, -1 ignored


def match(
    iou: Float[Array, "n g"],
    box_valid: Bool[Array, "n"],
    gt_valid: Bool[Array, "g"],
    *,
    positive_iou: float,
    negative_iou: float,
    rescue_iou: float | None,
    rematch: bool = True,
) -> Match:
    """Max-IoU assignment of N boxes to G ground-truth rows.

    A box below `negative_iou` is negative, from `positive_iou` on positive (first row
    wins a tie), between them ignored. With `rescue_iou` every ground truth then takes
    all boxes that reach its best IoU, if that is at least `rescue_iou`. With `rematch`
    it takes them even from another ground truth, later rows overwriting earlier ones;
    without, they become positive for the ground truth they overlap best. Invalid boxes
    are ignored and rescue nothing; without valid ground truth every valid box is
    negative.

    With `rematch` equals mmdetection 3.3.0 `MaxIoUAssigner` exactly (crowd handling
    off, as in every published configuration), without torchvision's and detectron2's
    `Matcher`. The equality test needs the very same float32 IoUs.
    """
    overlap = jnp.where(gt_valid[None], iou, 0.0)
    best, index = overlap.max(1), overlap.argmax(1).astype(jnp.int32)
    label = jnp.where(best < negative_iou, NEGATIVE, IGNORED)
    label = jnp.where(best >= positive_iou, POSITIVE, label)
    if rescue_iou is not None:
        taken_by = _rescue(overlap, box_valid, gt_valid, rescue_iou)
        if rematch:
            index = jnp.where(taken_by >= 0, taken_by, index)
        label = jnp.where(taken_by >= 0, POSITIVE, label)
    return Match(index, jnp.where(box_valid, label, IGNORED))


def _rescue(
    overlap: Float[Array, "n g"],
    box_valid: Bool[Array, "n"],
    gt_valid: Bool[Array, "g"],
    rescue_iou: float,
) -> Int[Array, "n"]:
    """The last ground truth that claims each box by its own best IoU, or -1."""
    best = jnp.where(box_valid[:, None], overlap, -1.0).max(0)
    claims = (overlap == best) & gt_valid & (best >= rescue_iou)
    rows = jnp.arange(overlap.shape[1], dtype=jnp.int32)
    return jnp.where(claims, rows, -1).max(1)
