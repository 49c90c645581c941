"""Region proposals for one image: which boxes, their targets, their losses.

Follows mmdetection 3.3.0 (`RPNHead`) number for number. Per-level inputs are tuples,
finest level first; anchors are those of `ops.anchors`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from frcnn_jax import config
from frcnn_jax.losses import classes
from frcnn_jax.losses.boxes import BOX_LOSSES
from frcnn_jax.ops import anchors as anchor_ops
from frcnn_jax.ops import boxes as box_ops
from frcnn_jax.ops import canvas, matching, nms, sampling
from frcnn_jax.types import Proposals

CODER = box_ops.BoxCoder()


class Grid(NamedTuple):
    """The anchors of one canvas, constants while tracing."""

    boxes: tuple[np.ndarray, ...]  # per level [n, 4]
    cells: tuple[np.ndarray, ...]  # per level [n, 2] row and column of the anchor
    strides: tuple[int, ...]


class RPNTargets(NamedTuple):
    """The sampled anchors of one image; index counts over all levels."""

    index: Array  # [S] int32
    valid: Array  # [S] bool
    positive: Array  # [S] bool
    gt_boxes: Array  # [S, 4] matched ground truth, meaningful where positive


def grid(spec: anchor_ops.AnchorSpec, feature_hw: Sequence[tuple[int, int]]) -> Grid:
    """Anchors and their cells for maps of these sizes."""
    boxes = anchor_ops.pyramid_anchors(spec, feature_hw)
    cells = anchor_ops.cell_index(feature_hw, spec.per_cell)
    return Grid(boxes, cells, spec.strides)


def anchors_exist(
    grid: Grid, image_hw: Float[Array, "2"]
) -> tuple[Bool[Array, "_"], ...]:
    """Which anchors belong to the image's own 32-padded area, per level."""
    return tuple(
        (cells < canvas.cells(image_hw, stride)).all(-1)
        for cells, stride in zip(grid.cells, grid.strides, strict=True)
    )


def propose(
    logits: Sequence[Float[Array, "_"]],
    deltas: Sequence[Float[Array, "_ 4"]],
    exist: Sequence[Bool[Array, "_"]],
    grid: Grid,
    image_hw: Float[Array, "2"],
    *,
    pre_nms: int,
    post_nms: int,
    nms_iou: float,
) -> Proposals:
    """The best `post_nms` boxes over all levels after suppression within each level.

    Boxes are clipped to `image_hw`; those without area are dropped. Scores are
    sigmoids. No gradient flows back.
    """
    logits, deltas = jax.lax.stop_gradient((logits, deltas))
    width = min(pre_nms, max(level.shape[0] for level in logits))
    levels = [
        _best_of_level(*level, image_hw, width)
        for level in zip(logits, deltas, exist, grid.boxes, strict=True)
    ]
    boxes, scores, valid = (jnp.stack(part) for part in zip(*levels, strict=True))
    keep = min(post_nms, width)
    suppress = jax.vmap(lambda b, s, v: nms.nms(b, s, v, iou=nms_iou, keep=keep))
    kept = suppress(boxes, scores, valid)
    boxes = jnp.take_along_axis(boxes, kept.index[..., None], 1).reshape(-1, 4)
    scores = jnp.take_along_axis(scores, kept.index, 1)
    scores = jnp.where(kept.valid, scores, -1.0).reshape(-1)
    count = min(post_nms, scores.shape[0])
    scores, index = jax.lax.top_k(scores, count)
    valid = scores >= 0
    boxes = jnp.where(valid[:, None], boxes[index], 0.0)
    return Proposals(boxes, jnp.where(valid, scores, 0.0), valid)


def _best_of_level(logits, deltas, exist, anchors, image_hw, width):
    """Decoded candidates of one level, padded to `width`."""
    scores = jnp.where(exist, jax.nn.sigmoid(logits), -1.0)
    scores, index = jax.lax.top_k(scores, min(width, logits.shape[0]))
    boxes = box_ops.decode(deltas[index], jnp.asarray(anchors)[index], CODER)
    boxes = box_ops.clip(boxes, image_hw)
    has_area = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(-1)
    padding = width - scores.shape[0]
    return (
        jnp.pad(boxes, ((0, padding), (0, 0))),
        jnp.pad(scores, (0, padding)),
        jnp.pad((scores >= 0) & has_area, (0, padding)),
    )


def targets(
    anchors: Float[Array, "n 4"],
    exist: Bool[Array, "n"],
    gt_boxes: Float[Array, "g 4"],
    gt_valid: Bool[Array, "g"],
    priority: Float[Array, "n"],
    section: config.RPN,
) -> RPNTargets:
    """Anchors matched to ground truth of any class and sampled to a fixed number."""
    match = matching.match(
        box_ops.pairwise_iou(anchors, gt_boxes),
        exist,
        gt_valid,
        positive_iou=section.positive_iou,
        negative_iou=section.negative_iou,
        rescue_iou=section.min_positive_iou,
    )
    drawn = sampling.sample(
        match.label,
        priority,
        count=section.samples,
        positive_fraction=section.positive_fraction,
    )
    matched = gt_boxes[match.index[drawn.index]]
    return RPNTargets(drawn.index, drawn.valid, drawn.positive, matched)


def loss(
    logits: Float[Array, "n"],
    deltas: Float[Array, "n 4"],
    anchors: Float[Array, "n 4"],
    targets: RPNTargets,
) -> tuple[Array, Array, Array]:
    """Sums of objectness and box losses, and the count that both are divided by.

    The count is max(positives, 1) + max(negatives, 1), which mmdetection adds up over
    the images of a batch. L1 on deltas, positives only.
    """
    objectness = classes.binary_cross_entropy(
        logits[targets.index], targets.positive.astype(jnp.float32)
    )
    positive = targets.positive[:, None]
    sampled = anchors[targets.index]
    # Where nothing is matched both boxes are the anchor: finite values and gradients.
    wanted = box_ops.encode(
        jnp.where(positive, targets.gt_boxes, sampled), sampled, CODER
    )
    box = BOX_LOSSES["l1"].function(deltas[targets.index], wanted)
    negatives = (targets.valid & ~targets.positive).sum()
    count = jnp.maximum(targets.positive.sum(), 1) + jnp.maximum(negatives, 1)
    return (
        jnp.where(targets.valid, objectness, 0.0).sum(),
        jnp.where(targets.positive, box, 0.0).sum(),
        count.astype(jnp.float32),
    )
