"""The records that travel between rooms of the house.

Boxes are xyxy in absolute pixels, continuous (width = x2 - x1), in the frame of the
padded network input unless a field says otherwise. Labels are 1..C; 0 is background or
an empty row. Every padded row is told by its label or mask, never by its coordinates.
Fields carry shape comments instead of checked annotations, because `vmap` and
`eval_shape` rebuild these records with other leaves.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Variables = dict[str, Any]  # {"params": ..., "batch_stats": ...}, nested by module name


class Batch(NamedTuple):
    """One batch of images with their ground truth, padded to fixed shapes."""

    images: Array  # [B, H, W, 3] uint8 RGB, resized, padded right and bottom with 0
    image_hw: Array  # [B, 2] float32, valid height and width in pixels
    scale_xy: Array  # [B, 2] float32, network pixels per original pixel
    boxes: Array  # [B, G, 4] float32
    labels: Array  # [B, G] int32, 1..C, 0 = empty row
    crowd: Array  # [B, G] bool, ignored in training
    image_id: Array  # [B] int32, row of the image in its data set, -1 = filler image


class Proposals(NamedTuple):
    """Output of the region proposal network for one image, best first."""

    boxes: Array  # [K, 4]
    scores: Array  # [K] objectness in 0..1
    valid: Array  # [K] bool


class RoISamples(NamedTuple):
    """RoIs drawn for training the box head; positives first, then negatives."""

    boxes: Array  # [S, 4]
    labels: Array  # [S] int32, 0 = background
    gt_index: Array  # [S] int32, matched ground-truth row (meaningless where label 0)
    gt_boxes: Array  # [S, 4] matched ground-truth boxes
    valid: Array  # [S] bool


class Detections(NamedTuple):
    """Final boxes, best first."""

    boxes: Array  # [B, D, 4] in ORIGINAL image pixels
    scores: Array  # [B, D]
    labels: Array  # [B, D] int32, 1..C, 0 = empty row


class Detector(NamedTuple):
    """A detector is three pure functions; training and evaluation know nothing else.

    `init(key, batch) -> variables`.
    `loss(variables, batch, key, axis_name=None) -> (scalar, (metrics, updates))`: with
    an axis name the scalar and the metrics are this device's share of the global batch
    (their sum over the axis is the whole); `updates` are new non-trained collections.
    `predict(variables, batch) -> Detections`.
    """

    init: Callable[..., Variables]
    loss: Callable[..., tuple[Array, tuple[dict[str, Array], Variables]]]
    predict: Callable[..., Detections]
