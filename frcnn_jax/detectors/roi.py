"""The second stage for one image: sampled RoIs, their losses, final detections.

Follows mmdetection 3.3.0 (`StandardRoIHead`, `Shared2FCBBoxHead`) number for number;
class logits are [background, 1..C] here, background last there. Fields of the section
turn to the other peers' rules.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from frcnn_jax import config
from frcnn_jax.losses import classes
from frcnn_jax.losses.boxes import box_loss
from frcnn_jax.ops import boxes as box_ops
from frcnn_jax.ops import matching, nms, sampling
from frcnn_jax.types import Detections, Proposals, RoISamples


def sample(
    proposals: Proposals,
    gt_boxes: Float[Array, "g 4"],
    gt_labels: Int[Array, "g"],
    gt_valid: Bool[Array, "g"],
    priority: Float[Array, "g+{len(proposals.valid)}"],
    section: config.RoI,
) -> RoISamples:
    """RoIs to train on: ground truth boxes first, then proposals, sampled by IoU.

    Ground truth is matched to itself and counts among the positives.
    """
    match = matching.match(
        box_ops.pairwise_iou(proposals.boxes, gt_boxes),
        proposals.valid,
        gt_valid,
        positive_iou=section.positive_iou,
        negative_iou=section.positive_iou,
        rescue_iou=None,
    )
    own = jnp.where(gt_valid, matching.POSITIVE, matching.IGNORED)
    rows = jnp.arange(gt_boxes.shape[0], dtype=jnp.int32)
    boxes = jnp.concatenate([gt_boxes, proposals.boxes])
    index = jnp.concatenate([rows, match.index])
    drawn = sampling.sample(
        jnp.concatenate([own, match.label]),
        priority,
        count=section.samples,
        positive_fraction=section.positive_fraction,
    )
    gt_index = index[drawn.index]
    return RoISamples(
        boxes=jnp.where(drawn.valid[:, None], boxes[drawn.index], 0.0),
        labels=jnp.where(drawn.positive, gt_labels[gt_index], 0),
        gt_index=gt_index,
        gt_boxes=gt_boxes[gt_index],
        valid=drawn.valid,
    )


def loss(
    logits: Float[Array, "s c"],
    deltas: Float[Array, "s c-1 4"],
    samples: RoISamples,
    section: config.RoI,
    convention: str,
) -> tuple[Array, Array, Array, Array]:
    """Sums of class and box losses, sampled RoIs (which divide both), correct ones.

    The box loss looks at the deltas of the ground-truth class of each positive.
    """
    cross_entropy = classes.cross_entropy(logits, samples.labels)
    positive = samples.valid & (samples.labels > 0)
    own_class = jnp.maximum(samples.labels - 1, 0)
    own = jnp.take_along_axis(deltas, own_class[:, None, None], 1)[:, 0]
    coder = box_ops.BoxCoder(section.box_stds, convention)
    box = _box_loss(own, samples, positive, coder, section) * section.box_loss_weight
    correct = (logits.argmax(-1) == samples.labels) & samples.valid
    return (
        jnp.where(samples.valid, cross_entropy, 0.0).sum(),
        jnp.where(positive, box, 0.0).sum(),
        samples.valid.sum().astype(jnp.float32),
        correct.sum().astype(jnp.float32),
    )


def _box_loss(deltas, samples: RoISamples, positive, coder, section: config.RoI):
    """Per RoI, on deltas or on decoded (unclipped) boxes as the loss wants."""
    # Rows that do not count compare a unit box with itself: no NaN can leak back.
    unit = jnp.asarray([0.0, 0.0, 1.0, 1.0])
    boxes = jnp.where(positive[:, None], samples.boxes, unit)
    gt_boxes = jnp.where(positive[:, None], samples.gt_boxes, unit)
    function, compares = box_loss(section.box_loss, section.box_loss_beta)
    if compares == "deltas":
        return function(deltas, box_ops.encode(gt_boxes, boxes, coder))
    return function(box_ops.decode(deltas, boxes, coder), gt_boxes)


def detect(
    logits: Float[Array, "k c"],
    deltas: Float[Array, "k c-1 4"],
    proposals: Proposals,
    image_hw: Float[Array, "2"],
    scale_xy: Float[Array, "2"],
    section: config.RoI,
    convention: str,
) -> Detections:
    """The best detections after class-wise suppression, in original image pixels.

    All (RoI, class) pairs above the score threshold take part; boxes are clipped to the
    resized image and scaled back before suppression, as the peer does. `convention` is
    that of `ops.boxes.BoxCoder`.
    """
    num_classes = deltas.shape[1]
    scores = jax.nn.softmax(logits)[:, 1:].reshape(-1)
    coder = box_ops.BoxCoder(section.box_stds, convention)
    boxes = box_ops.decode(deltas, proposals.boxes[:, None], coder)
    boxes = box_ops.clip(boxes, image_hw, convention).reshape(-1, 4)
    candidates = jnp.repeat(proposals.valid, num_classes)
    candidates &= scores > section.score_threshold
    if section.min_side > 0:
        candidates &= box_ops.at_least(boxes, section.min_side)
    boxes = box_ops.rescale(boxes, 1.0 / scale_xy, convention)
    labels = jnp.tile(jnp.arange(1, num_classes + 1, dtype=jnp.int32), logits.shape[0])
    kept = nms.nms(
        boxes,
        scores,
        candidates,
        iou=section.nms_iou,
        keep=section.max_detections,
        group=labels,
    )
    return Detections(
        jnp.where(kept.valid[:, None], boxes[kept.index], 0.0),
        jnp.where(kept.valid, scores[kept.index], 0.0),
        jnp.where(kept.valid, labels[kept.index], 0),
    )
