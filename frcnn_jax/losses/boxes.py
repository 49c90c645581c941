"""Box regression losses.

A loss compares either deltas or decoded boxes; `BOX_LOSSES` says which. Nothing is
reduced or weighted here.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from frcnn_jax.ops import boxes as box_ops


class BoxLoss(NamedTuple):
    """A loss and what it compares: encoded "deltas" or decoded "boxes"."""

    function: Callable[[Array, Array], Array]
    compares: str


def l1(pred: Float[Array, "*b 4"], target: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """Sum of absolute differences; gradient 0 at equality."""
    return _absolute(pred - target).sum(-1)


def iou(pred: Float[Array, "*b 4"], target: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """-ln(IoU), IoU at least 1e-6 (Yu et al. 2016; mmdetection 3.3.0 IoULoss "log")."""
    return -jnp.log(box_ops.clamp(box_ops.iou(pred, target), 1e-6, jnp.inf))


def giou(
    pred: Float[Array, "*b 4"], target: Float[Array, "*b 4"]
) -> Float[Array, "*b"]:
    """1 - GIoU (Rezatofighi et al. 2019; mmdetection 3.3.0 GIoULoss)."""
    return 1.0 - box_ops.giou(pred, target)


def diou(
    pred: Float[Array, "*b 4"], target: Float[Array, "*b 4"]
) -> Float[Array, "*b"]:
    """1 - IoU + (distance of centres / diagonal of the enclosing box)^2.

    Distance-IoU (Zheng et al. 2020, eq. 7), with mmdetection 3.3.0's epsilon of 1e-7.
    """
    return 1.0 - jnp.clip(_iou(pred, target) - _centre_penalty(pred, target), -1.0, 1.0)


def ciou(
    pred: Float[Array, "*b 4"], target: Float[Array, "*b 4"]
) -> Float[Array, "*b"]:
    """DIoU loss plus a penalty on the aspect ratio (Zheng et al. 2020, eq. 10).

    As mmdetection 3.3.0 has it: the trade-off is a constant for the gradient and zero
    up to an IoU of one half.
    """
    iou = _iou(pred, target)
    _, wh = _centre_and_size(pred)
    _, target_wh = _centre_and_size(target)
    angle = jnp.arctan(target_wh[..., 0] / (target_wh[..., 1] + 1e-7))
    angle -= jnp.arctan(wh[..., 0] / (wh[..., 1] + 1e-7))
    ratio = 4.0 / jnp.pi**2 * angle**2
    share = jnp.where(iou > 0.5, ratio / jnp.maximum(1.0 - iou + ratio, 1e-7), 0.0)
    penalty = _centre_penalty(pred, target) + jax.lax.stop_gradient(share) * ratio
    return 1.0 - jnp.clip(iou - penalty, -1.0, 1.0)


def bounded_iou(
    pred: Float[Array, "*b 4"], target: Float[Array, "*b 4"]
) -> Float[Array, "*b"]:
    """Bounded IoU summed over x, y, w, h (Tychsen-Smith & Petersson 2018).

    mmdetection 3.3.0 BoundedIoULoss: smooth L1 with beta 0.2, eps 1e-3; no gradient
    reaches the target.
    """
    pred_xy, pred_wh = _centre_and_size(pred)
    xy, wh = _centre_and_size(jax.lax.stop_gradient(target))
    offset = 2.0 * _absolute(xy - pred_xy)
    centre = 1.0 - jnp.maximum((wh - offset) / (wh + offset + 1e-3), 0.0)
    ratio = jnp.minimum(wh / (pred_wh + 1e-3), pred_wh / (wh + 1e-3))
    return smooth_l1(jnp.concatenate([centre, 1.0 - ratio], -1), 0.2).sum(-1)


def smooth_l1(difference: Float[Array, "*b"], beta: float) -> Float[Array, "*b"]:
    """Quadratic below `beta`, absolute value minus beta / 2 from there on."""
    size = jnp.abs(difference)
    return jnp.where(size < beta, 0.5 * size**2 / beta, size - 0.5 * beta)


def _absolute(x):
    """|x| with gradient 0 at 0, as in torch; that of `jnp.abs` is 1 there."""
    return x * jnp.sign(x)


def _centre_and_size(boxes):
    return (boxes[..., :2] + boxes[..., 2:]) * 0.5, boxes[..., 2:] - boxes[..., :2]


def _iou(pred, target):
    inter = box_ops.intersection(pred, target)
    return inter / (box_ops.area(pred) + box_ops.area(target) - inter + 1e-7)


def _centre_penalty(pred, target):
    """Squared distance of centres by the squared diagonal of the enclosing box."""
    top_left = jnp.minimum(pred[..., :2], target[..., :2])
    wh = jnp.maximum(jnp.maximum(pred[..., 2:], target[..., 2:]) - top_left, 0.0)
    offset = _centre_and_size(pred)[0] - _centre_and_size(target)[0]
    return (offset**2).sum(-1) / ((wh**2).sum(-1) + 1e-7)


BOX_LOSSES = {
    "l1": BoxLoss(l1, "deltas"),
    "iou": BoxLoss(iou, "boxes"),
    "giou": BoxLoss(giou, "boxes"),
    "diou": BoxLoss(diou, "boxes"),
    "ciou": BoxLoss(ciou, "boxes"),
    "bounded_iou": BoxLoss(bounded_iou, "boxes"),
}


def box_loss(name: str, beta: float) -> BoxLoss:
    """The loss of a name; "smooth_l1" is quadratic below `beta` and compares deltas."""
    if name == "smooth_l1":
        return BoxLoss(
            lambda pred, target: smooth_l1(pred - target, beta).sum(-1), "deltas"
        )
    return BOX_LOSSES[name]
