"""Region proposals for one image: which boxes, their targets, their losses.

Follows mmdetection 3.3.0 (`RPNHead`) number for number. Per-level inputs are tuples,
finest level first; anchors are those of `ops.anchors`. Fields of the section turn to
torchvision's, detectron2's and jwyang's rules.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from frcnn_jax import config
from frcnn_jax.losses import classes
from frcnn_jax.losses.boxes import box_loss
from frcnn_jax.ops import anchors as anchor_ops
from frcnn_jax.ops import boxes as box_ops
from frcnn_jax.ops import canvas, matching, nms, sampling
from frcnn_jax.types import Proposals


class Grid(NamedTuple):
    """The anchors of one canvas, constants while tracing."""

    boxes: tuple[np.ndarray, ...]  # per level [n, 4]
    cells: tuple[np.ndarray, ...]  # per level [n, 2] row and column of the anchor
    spec: anchor_ops.AnchorSpec
    rule: str  # which cells belong to an image, see `ops.canvas.cells`


class RPNTargets(NamedTuple):
    """The sampled anchors of one image; index counts over all levels."""

    # [S] int32
    index: Array  # type: ignore[assignment]
    valid: Array  # [S] bool
    positive: Array  # [S] bool
    gt_boxes: Array  # [S, 4] matched ground truth, meaningful where positive


def grid(
    spec: anchor_ops.AnchorSpec, feature_hw: Sequence[tuple[int, int]], rule: str
) -> Grid:
    """Anchors and their cells for maps of these sizes."""
    boxes = anchor_ops.pyramid_anchors(spec, feature_hw)
    return Grid(boxes, anchor_ops.cell_index(feature_hw, spec.per_cell), spec, rule)


def anchors_exist(
    grid: Grid, image_hw: Float[Array, "2"]
) -> tuple[Bool[Array, "_"], ...]:
    """Which anchors have their cell in the image's own area, per level."""
    return tuple(
        (canvas.cells(image_hw, stride, grid.rule) > cells).all(-1)
        for cells, stride in zip(grid.cells, grid.spec.strides, strict=True)
    )


def anchors_of(
    grid: Grid, image_hw: Float[Array, "2"]
) -> tuple[Float[Array, "_ 4"], ...]:
    """Anchor boxes per level, which in the "rounded" style depend on the image.

    torchvision 0.29 (exact) takes as stride of a level the padded size divided by the
    cells of each axis, rounded down: 61 by 64 pixels on P6 of an image of 800x1216.
    """
    if grid.spec.style != "rounded":
        return tuple(map(jnp.asarray, grid.boxes))
    levels = []
    counts = [cells.max(0) + 1 for cells in grid.cells]
    size = jnp.asarray(counts[0] * grid.spec.strides[0], jnp.float32)
    if grid.rule != "canvas":
        size = canvas.padded_hw(image_hw)
    for boxes, cells, stride, count in zip(
        grid.boxes, grid.cells, grid.spec.strides, counts, strict=True
    ):
        if grid.rule != "canvas":
            count = canvas.cells(image_hw, stride, grid.rule)
        shift = (jnp.floor(size / count) - stride) * cells
        levels.append(jnp.tile(shift[:, ::-1], 2) + boxes)
    return tuple(levels)


def propose(
    logits: Sequence[Float[Array, "_"]],
    deltas: Sequence[Float[Array, "_ 4"]],
    exist: Sequence[Bool[Array, "_"]],
    anchors: Sequence[Float[Array, "_ 4"]],
    image_hw: Float[Array, "2"],
    section: config.RPN,
    convention: str,
    *,
    train: bool,
) -> Proposals:
    """The best boxes over all levels after suppression within each level.

    Boxes are clipped to `image_hw`; those without area are dropped, and those below the
    section's score or side. Scores are sigmoids. `convention` is that of
    `ops.boxes.BoxCoder`. No gradient flows back.
    """
    logits, deltas = jax.lax.stop_gradient((logits, deltas))
    pre_nms = section.pre_nms_train if train else section.pre_nms_test
    post_nms = section.post_nms_train if train else section.post_nms_test
    width = min(pre_nms, max(level.shape[0] for level in logits))
    levels = [
        _best_of_level(*level, image_hw, section, convention, width)
        for level in zip(logits, deltas, exist, anchors, strict=True)
    ]
    boxes, scores, valid = (jnp.stack(part) for part in zip(*levels, strict=True))
    keep = min(post_nms, width)
    suppress = jax.vmap(
        lambda b, s, v: nms.nms(b, s, v, iou=section.nms_iou, keep=keep)
    )
    kept = suppress(boxes, scores, valid)
    boxes = jnp.take_along_axis(boxes, kept.index[..., None], 1).reshape(-1, 4)
    scores = jnp.take_along_axis(scores, kept.index, 1)
    scores = jnp.where(kept.valid, scores, -1.0).reshape(-1)
    count = min(post_nms, scores.shape[0])
    scores, index = jax.lax.top_k(scores, count)
    valid = scores >= 0
    boxes = jnp.where(valid[:, None], boxes[index], 0.0)
    return Proposals(boxes, jnp.where(valid, scores, 0.0), valid)


def _best_of_level(
    logits, deltas, exist, anchors, image_hw, section: config.RPN, convention, width
):
    """Decoded candidates of one level, padded to `width`."""
    scores = jnp.where(exist, jax.nn.sigmoid(logits), -1.0)
    scores, index = jax.lax.top_k(scores, min(width, logits.shape[0]))
    coder = box_ops.BoxCoder(convention=convention)
    boxes = box_ops.decode(deltas[index], anchors[index], coder)
    boxes = box_ops.clip(boxes, image_hw, convention)
    valid = (scores >= section.score_threshold) & box_ops.at_least(
        boxes, section.min_side
    )
    padding = width - scores.shape[0]
    return (
        jnp.pad(boxes, ((0, padding), (0, 0))),
        jnp.pad(scores, (0, padding)),
        jnp.pad(valid, (0, padding)),
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
        rematch=section.rescue_rematches,
    )
    drawn = sampling.sample(
        match.label,
        priority,
        count=section.samples,
        positive_fraction=section.positive_fraction,
    )
    matched = gt_boxes[match.index[drawn.index]]
    return RPNTargets(drawn.index, drawn.valid, drawn.positive, matched)


def inside_border(
    anchors: Float[Array, "n 4"],
    image_hw: Float[Array, "2"],
    border: float,
    convention: str,
) -> Bool[Array, "n"]:
    """Which anchors leave the image by less than `border` pixels; negative: all.

    mmdetection 3.3.0 `allowed_border` (exact): x2 < w + border, so an anchor that ends
    on the edge is out. Under "caffe" its last pixel must lie inside.
    """
    if border < 0:
        return jnp.ones(anchors.shape[0], bool)
    last = anchors[:, 2:] - (1.0 if convention == "caffe" else 0.0)
    starts = (anchors[:, :2] >= -border).all(-1)
    return starts & (last < image_hw[::-1] + border).all(-1)


def loss(
    logits: Float[Array, "n"],
    deltas: Float[Array, "n 4"],
    anchors: Float[Array, "n 4"],
    targets: RPNTargets,
    section: config.RPN,
) -> tuple[Array, Array, Array]:
    """Sums of objectness and box losses, and the count that both are divided by.

    The box loss looks at positives only. Counts add up over the images of a batch:
    "mmdet" is max(positives, 1) + max(negatives, 1), "sampled" the anchors drawn
    (torchvision), "slots" as many as could be drawn (detectron2).
    """
    objectness = classes.binary_cross_entropy(
        logits[targets.index], targets.positive.astype(jnp.float32)
    )
    positive = targets.positive[:, None]
    sampled = anchors[targets.index]
    # Where nothing is matched both boxes are the anchor: finite values and gradients.
    wanted = box_ops.encode(
        jnp.where(positive, targets.gt_boxes, sampled), sampled, box_ops.BoxCoder()
    )
    distance = box_loss(section.box_loss, section.box_loss_beta).function
    box = distance(deltas[targets.index], wanted)
    return (
        jnp.where(targets.valid, objectness, 0.0).sum(),
        jnp.where(targets.positive, box, 0.0).sum(),
        _count(targets, section).astype(jnp.float32),
    )


def _count(targets: RPNTargets, section: config.RPN):
    positives = targets.positive.sum()
    negatives = targets.valid.sum() - positives
    match section.loss_count:
        case "mmdet":
            return jnp.maximum(positives, 1) + jnp.maximum(negatives, 1)
        case "sampled":
            return positives + negatives
        case "slots":
            return jnp.asarray(section.samples)
    raise ValueError(f"no count {section.loss_count!r}")
