"""Box arithmetic.

Boxes are [..., 4] xyxy in absolute pixels, continuous (width = x2 - x1, no "+1").
Everything is computed in float32 whatever comes in. Shapes broadcast; there is no batch
dimension of its own.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

MAX_LOG_SIZE = 4.135166556742356  # |ln(16 / 1000)|, mmdetection's wh_ratio_clip
LOG_SIZE_LIMITS = {
    "mmdet": (-MAX_LOG_SIZE, MAX_LOG_SIZE),
    "torchvision": (-math.inf, MAX_LOG_SIZE),
    "caffe": (-math.inf, math.inf),
}


class BoxCoder(NamedTuple):
    """Scale of the four deltas, and whose conventions decoding follows.

    "mmdet" limits log sizes both ways, "torchvision" (and detectron2) from above,
    "caffe" (py-faster-rcnn, jwyang) not at all.

    Caffe's boxes name their last pixel, so a width there is x2 - x1 + 1. Such a box is
    (x1, y1, x2 + 1, y2 + 1) here, and areas, overlaps, suppression and encoding come
    out the same. Only decoding differs: Caffe sets the last pixel where the edge is, so
    a decoded box is one pixel wider and higher than what was encoded.
    """

    stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    convention: str = "mmdet"


def area(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """Signed width times height; negative or zero for degenerate boxes."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(
    a: Float[Array, "*a 4"], b: Float[Array, "*b 4"]
) -> Float[Array, "*c"]:
    """Area common to both boxes; leading shapes broadcast."""
    top_left = jnp.maximum(a[..., :2], b[..., :2])
    bottom_right = jnp.minimum(a[..., 2:], b[..., 2:])
    wh = jnp.maximum(bottom_right - top_left, 0.0)
    return wh[..., 0] * wh[..., 1]


def pairwise_iou(a: Float[Array, "n 4"], b: Float[Array, "g 4"]) -> Float[Array, "n g"]:
    """Intersection over union of every pair; 0 where a union is empty.

    Equals mmdetection 3.3.0 `bbox_overlaps` (union at least 1e-6) bit for bit.
    """
    inter = intersection(a[:, None], b[None])
    union = area(b)[None] + area(a)[:, None] - inter
    return inter / jnp.maximum(union, 1e-6)


def iou(
    a: Float[Array, "*b 4"], b: Float[Array, "*b 4"], eps: float = 1e-6
) -> Float[Array, "*b"]:
    """Intersection over union of aligned boxes, union at least `eps`."""
    inter = intersection(a, b)
    return inter / jnp.maximum(area(a) + area(b) - inter, eps)


def giou(
    a: Float[Array, "*b 4"], b: Float[Array, "*b 4"], eps: float = 1e-7
) -> Float[Array, "*b"]:
    """Generalised IoU of aligned boxes, -1..1 (Rezatofighi et al. 2019, eq. 3).

    Union and enclosing area are at least `eps`, as in mmdetection 3.3.0.
    """
    inter = intersection(a, b)
    union = jnp.maximum(area(a) + area(b) - inter, eps)
    top_left = jnp.minimum(a[..., :2], b[..., :2])
    wh = jnp.maximum(jnp.maximum(a[..., 2:], b[..., 2:]) - top_left, 0.0)
    enclosing = jnp.maximum(wh[..., 0] * wh[..., 1], eps)
    return inter / union - (enclosing - union) / enclosing


def encode(
    boxes: Float[Array, "*b 4"], anchors: Float[Array, "*b 4"], coder: BoxCoder
) -> Float[Array, "*b 4"]:
    """Deltas (dx, dy, dw, dh) that turn `anchors` into `boxes` (Girshick 2014, C).

    Zero-area inputs give non-finite deltas: mask them before use in a loss.
    """
    anchors, boxes = anchors.astype(jnp.float32), boxes.astype(jnp.float32)
    anchor_xy, anchor_wh = _centre_and_size(anchors)
    box_xy, box_wh = _centre_and_size(boxes)
    deltas = [(box_xy - anchor_xy) / anchor_wh, jnp.log(box_wh / anchor_wh)]
    return jnp.concatenate(deltas, -1) / jnp.asarray(coder.stds, jnp.float32)


def decode(
    deltas: Float[Array, "*b 4"], anchors: Float[Array, "*#b 4"], coder: BoxCoder
) -> Float[Array, "*b 4"]:
    """Boxes that `deltas` make of `anchors`, the inverse of `encode`; not clipped.

    Log sizes are limited as the coder's convention says, with the gradient of torch's
    clamp (1 inside and on the bounds). Equals mmdetection 3.3.0 `delta2bbox` and
    torchvision 0.29 `BoxCoder` to 1e-6; under "caffe" it is not quite the inverse, see
    `BoxCoder`.
    """
    deltas = deltas.astype(jnp.float32) * jnp.asarray(coder.stds, jnp.float32)
    xy, wh = _centre_and_size(anchors.astype(jnp.float32))
    xy = xy + wh * deltas[..., :2]
    wh = wh * jnp.exp(clamp(deltas[..., 2:], *LOG_SIZE_LIMITS[coder.convention]))
    last = 1.0 if coder.convention == "caffe" else 0.0
    return jnp.concatenate([xy - wh * 0.5, xy + wh * 0.5 + last], -1)


def clip(
    boxes: Float[Array, "*b 4"], hw: Float[Array, "2"], convention: str = "mmdet"
) -> Float[Array, "*b 4"]:
    """Moves corners into [0, w] x [0, h] (inclusive: w itself, not w - 1).

    Under "caffe" first and last pixel stay in the image, so a box keeps a whole pixel.
    """
    low, high = jnp.zeros(4), jnp.tile(hw[::-1], 2)
    if convention == "caffe":
        low = jnp.asarray([0.0, 0.0, 1.0, 1.0])
        high = high - jnp.asarray([1.0, 1.0, 0.0, 0.0])
    return clamp(boxes, low, high)


def at_least(boxes: Float[Array, "*b 4"], side: float) -> Bool[Array, "*b"]:
    """Whether both sides are `side` pixels or more; for 0, above 0."""
    wh = boxes[..., 2:] - boxes[..., :2]
    return (wh >= side).all(-1) if side > 0 else (wh > 0).all(-1)


def rescale(
    boxes: Float[Array, "*b 4"], scale_xy: Float[Array, "2"], convention: str
) -> Float[Array, "*b 4"]:
    """Boxes in pixels that are `scale_xy` times as many.

    Under "caffe" it is first and last pixel that are multiplied.
    """
    factor = jnp.tile(scale_xy, 2)
    if convention != "caffe":
        return boxes * factor
    last = jnp.asarray([0.0, 0.0, 1.0, 1.0])
    return (boxes - last) * factor + last


def clamp(x: Array, low: float | Array, high: float | Array) -> Array:
    """Limits values; gradient 1 inside and on the bounds, 0 outside, as in torch."""
    inside = (x >= low) & (x <= high)
    return jnp.where(inside, x, jax.lax.stop_gradient(jnp.clip(x, low, high)))


def _centre_and_size(boxes: Array) -> tuple[Array, Array]:
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return (top_left + bottom_right) * 0.5, bottom_right - top_left
