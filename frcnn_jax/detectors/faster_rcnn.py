"""Faster R-CNN (Ren et al. 2015): from a model section to a `Detector`.

`make` is the only place where stages are mapped over the batch and where counts are
summed over devices.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from frcnn_jax import config
from frcnn_jax.detectors import roi, rpn
from frcnn_jax.detectors.network import (
    Network,
    anchor_spec,
    cells,
    normalise,
    roi_strides,
)
from frcnn_jax.models.initialise import initialise
from frcnn_jax.ops import boxes as box_ops
from frcnn_jax.ops import sampling
from frcnn_jax.ops.roi_align import Pooling, roi_align
from frcnn_jax.ops.roi_pool import roi_pool
from frcnn_jax.types import Batch, Detections, Detector, Variables

__all__ = ["Network", "anchor_spec", "make", "normalise"]

EPS = 1.1920929e-07  # float32 epsilon: mmdetection adds it to every loss denominator


def make(
    model: config.FasterRCNN,
    priority: Callable[[Array, int], Array] = sampling.random_priority,
) -> Detector:
    """The three functions of a Faster R-CNN.

    `priority(key, n)` ranks candidates when there are more than are sampled; comparing
    with recorded targets of a peer takes `sampling.first_priority`.
    """
    spec = anchor_spec(model)
    network = Network(model)

    def init(key: Array, batch: Batch) -> Variables:
        inputs = batch.images[:1], batch.image_hw[:1]
        shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
        return initialise(key, shapes, model.initial_values)

    def loss(variables: Variables, batch: Batch, key: Array, axis_name=None):
        apply = _applier(Network(model, axis_name))
        features, variables = apply(
            variables, "extract", batch.images, batch.image_hw, train=True
        )
        (logits, deltas), _ = apply(variables, "propose_raw", features, batch.image_hw)
        grid = rpn.grid(spec, [f.shape[1:3] for f in features], model.cells)
        rpn_terms, samples, dropout = jax.vmap(
            partial(stage_one, grid=grid, model=model, key=key, priority=priority)
        )(logits, deltas, batch)
        crops = crop(features, samples.boxes, batch.image_hw, model)
        valid, dropout = jax.tree.map(_all_images, (samples.valid, dropout))
        outputs, variables = apply(
            variables, "classify", crops, valid, dropout=dropout, train=True
        )
        classes, boxes = _per_image(outputs, samples.valid.shape)
        roi_terms = jax.vmap(
            partial(roi.loss, section=model.roi, convention=model.box_coder)
        )(classes, boxes, samples)
        real = (batch.image_id >= 0).astype(jnp.float32)
        sums = [(term * real).sum() for term in (*rpn_terms, *roi_terms)]
        losses = _normalise_losses(sums, axis_name)
        updates = {k: v for k, v in variables.items() if k != "params"}
        return sum(losses[name] for name in LOSSES), (losses, updates)

    def predict(variables: Variables, batch: Batch) -> Detections:
        apply = _applier(network)
        features, _ = apply(variables, "extract", batch.images, batch.image_hw)
        (logits, deltas), _ = apply(variables, "propose_raw", features, batch.image_hw)
        grid = rpn.grid(spec, [f.shape[1:3] for f in features], model.cells)
        proposals = jax.vmap(partial(propose, grid=grid, model=model, train=False))(
            logits, deltas, batch.image_hw
        )
        crops = crop(features, proposals.boxes, batch.image_hw, model)
        outputs, _ = apply(variables, "classify", crops)
        classes, boxes = _per_image(outputs, proposals.valid.shape)
        return jax.vmap(
            partial(roi.detect, section=model.roi, convention=model.box_coder)
        )(classes, boxes, proposals, batch.image_hw, batch.scale_xy)

    return Detector(init, loss, predict)


LOSSES = ("loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox")


def _applier(network: Network):
    """Calls one method of the network; also returns variables with new statistics."""

    def apply(variables, method, *args, train=False, **kwargs):
        if not train:
            return network.apply(variables, *args, method=method, **kwargs), variables
        out, updates = network.apply(
            variables, *args, method=method, train=True, mutable="batch_stats", **kwargs
        )
        return out, {**variables, **updates}

    return apply


def propose(logits, deltas, image_hw, grid, model: config.FasterRCNN, *, train: bool):
    """`rpn.propose` of one image on the anchors of a grid that exist in it."""
    exist: Sequence[Array] = [jnp.ones(level.shape, bool) for level in logits]
    if model.mask_padding:
        exist = rpn.anchors_exist(grid, image_hw)
    return rpn.propose(
        logits,
        deltas,
        exist,
        rpn.anchors_of(grid, image_hw),
        image_hw,
        model.rpn,
        model.box_coder,
        train=train,
    )


def stage_one(logits, deltas, image: Batch, grid, model, key, priority):
    """RPN losses, sampled RoIs and dropout masks of one image.

    The key depends on the image alone, so chance does not change with the number of
    devices or the place in the batch.
    """
    key = jax.random.fold_in(key, image.image_id)
    key_rpn, key_roi = jax.random.split(key)
    gt_valid = (image.labels > 0) & ~image.crowd
    gt_boxes = _gt_boxes(image, model.box_coder)
    anchors = jnp.concatenate(rpn.anchors_of(grid, image.image_hw))
    exist = jnp.concatenate(rpn.anchors_exist(grid, image.image_hw))
    exist &= rpn.inside_border(
        anchors, image.image_hw, model.rpn.allowed_border, model.box_coder
    )
    targets = rpn.targets(
        anchors,
        exist,
        gt_boxes,
        gt_valid,
        priority(key_rpn, anchors.shape[0]),
        model.rpn,
    )
    terms = rpn.loss(
        jnp.concatenate(logits), jnp.concatenate(deltas), anchors, targets, model.rpn
    )
    proposals = propose(logits, deltas, image.image_hw, grid, model, train=True)
    candidates = gt_boxes.shape[0] + proposals.boxes.shape[0]
    samples = roi.sample(
        proposals,
        gt_boxes,
        image.labels,
        gt_valid,
        priority(key_roi, candidates),
        model.roi,
    )
    return terms, samples, _dropout(key, samples.valid.shape[0], model.roi)


def _gt_boxes(image: Batch, convention: str):
    """Ground truth under the convention: Caffe scales first and last pixels."""
    original = image.boxes / jnp.tile(image.scale_xy, 2)
    if convention != "caffe":
        return image.boxes
    return box_ops.rescale(original, image.scale_xy, convention)


def _dropout(key: Array, rois: int, section: config.RoI) -> tuple[Array, ...]:
    """For each fully connected layer 0 or 1 / (1 - rate) per RoI and feature."""
    if not section.dropout:
        return ()
    keep = 1.0 - section.dropout
    keys = jax.random.split(jax.random.fold_in(key, 2), len(section.fc))
    return tuple(
        jax.random.bernoulli(key, keep, (rois, features)) / keep
        for key, features in zip(keys, section.fc, strict=True)
    )


def pooling(model: config.FasterRCNN) -> Pooling:
    """How the model cuts its crops."""
    section = model.roi
    return Pooling(
        section.pool_size,
        section.sampling_ratio,
        section.aligned,
        roi_strides(model),
        section.finest_scale,
        section.pooling == "point_align",
    )


def crop(features, boxes: Float[Array, "b k 4"], image_hw, model: config.FasterRCNN):
    """Crops of all images in one list, [B * K, S, S, C].

    jwyang's operators read the corners of a box as its first and last pixel.
    """
    how = pooling(model)
    if model.box_coder == "caffe":
        boxes = boxes - jnp.asarray([0.0, 0.0, 1.0, 1.0])

    def one(features, boxes, image_hw):
        valid_hw = None
        if model.mask_padding:
            valid_hw = jnp.stack([cells(model, image_hw, s) for s in how.strides])
            sizes = jnp.asarray([f.shape[:2] for f in features], jnp.float32)
            valid_hw = jnp.minimum(valid_hw, sizes)
        if model.roi.pooling == "max":
            hw = None if valid_hw is None else valid_hw[0]
            return roi_pool(features[0], boxes, how.strides[0], how.size, hw)
        return roi_align(features, boxes, how, valid_hw)

    return _all_images(jax.vmap(one)(features[: len(how.strides)], boxes, image_hw))


def _all_images(x: Array) -> Array:
    """[B, K, ...] as one list [B * K, ...]."""
    return x.reshape(-1, *x.shape[2:])


def _per_image(outputs, shape):
    return tuple(x.reshape(*shape, *x.shape[1:]) for x in outputs)


def _normalise_losses(sums, axis_name) -> dict[str, Array]:
    """Divides by counts over the global batch; each value is this device's share.

    mmdetection divides by the counts of one worker and averages over workers; with one
    worker both are the same.
    """
    objectness, rpn_box, rpn_count, cross_entropy, box, rois, correct = sums
    if axis_name is not None:
        rpn_count, rois = jax.lax.psum((rpn_count, rois), axis_name)
    return {
        "loss_rpn_cls": objectness / (rpn_count + EPS),
        "loss_rpn_bbox": rpn_box / (rpn_count + EPS),
        "loss_cls": cross_entropy / (jnp.maximum(rois, 1.0) + EPS),
        "loss_bbox": box / (rois + EPS),
        "accuracy": correct / jnp.maximum(rois, 1.0),
    }
