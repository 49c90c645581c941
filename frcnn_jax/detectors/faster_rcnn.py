"""Faster R-CNN (Ren et al. 2015) with a feature pyramid: network and `Detector`.

`make` is the only place where stages are mapped over the batch and where counts are
summed over devices.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from frcnn_jax import config
from frcnn_jax.detectors import roi, rpn
from frcnn_jax.models.box_heads import FCHead
from frcnn_jax.models.fpn import FPN
from frcnn_jax.models.initialise import initialise
from frcnn_jax.models.resnet import STRIDES, ResNet
from frcnn_jax.models.rpn_head import RPNHead
from frcnn_jax.ops import canvas, sampling
from frcnn_jax.ops.anchors import AnchorSpec
from frcnn_jax.ops.roi_align import Pooling, roi_align
from frcnn_jax.types import Batch, Detections, Detector, Variables

EPS = 1.1920929e-07  # float32 epsilon: mmdetection adds it to every loss denominator


class Network(nn.Module):
    """All parameters: pixels to maps, maps to raw proposals, crops to classes."""

    section: config.FasterRCNN
    axis_name: str | None = None

    def setup(self):
        """Declares backbone, pyramid, RPN head and box head."""
        model, dtype = self.section, jnp.dtype(self.section.dtype)
        trunk = model.backbone
        self.backbone = ResNet(
            trunk.depth,
            trunk.width,
            trunk.stride_in_1x1,
            trunk.stages,
            trunk.norm,
            trunk.norm_eps,
            dtype,
            self.axis_name,
        )
        self.fpn = FPN(model.fpn.channels, model.fpn.levels, dtype)
        per_cell = anchor_spec(model).per_cell
        self.rpn = RPNHead(model.rpn.channels, per_cell, dtype)
        self.box_head = FCHead(model.num_classes, model.roi.fc, dtype)

    def extract(
        self, images: Array, image_hw: Float[Array, "b 2"], train: bool = False
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """RGB pixels 0..255 to pyramid maps, finest first."""
        mask_hw = image_hw if self.section.mask_padding else None
        pixels = normalise(images, image_hw, self.section)
        return self.fpn(self.backbone(pixels, mask_hw, train), mask_hw)

    def propose_raw(self, features: Sequence[Array], image_hw: Float[Array, "b 2"]):
        """Objectness logits and deltas of every anchor, per level."""
        masks = [None] * len(features)
        if self.section.mask_padding:
            strides = anchor_spec(self.section).strides
            masks = [
                canvas.inside(feature.shape[1:3], canvas.cells(image_hw, stride))
                for feature, stride in zip(features, strides, strict=True)
            ]
        return self.rpn(features, masks)

    def classify(self, crops: Float[Array, "k s s c"]):
        """Class logits and deltas of crops."""
        return self.box_head(crops)

    def __call__(self, images: Array, image_hw: Float[Array, "b 2"]):
        """Touches every parameter once; only for initialisation."""
        features = self.extract(images, image_hw)
        size = self.section.roi.pool_size
        crops = jnp.zeros((1, size, size, self.section.fpn.channels))
        return self.propose_raw(features, image_hw), self.classify(crops)


def anchor_spec(model: config.FasterRCNN) -> AnchorSpec:
    """Anchor shapes with the strides that the pyramid has."""
    strides = [STRIDES[stage] for stage in sorted(model.backbone.stages)]
    while len(strides) < model.fpn.levels:
        strides.append(strides[-1] * 2)
    return AnchorSpec(model.rpn.anchor_sizes, model.rpn.anchor_ratios, tuple(strides))


def normalise(
    images: Array, image_hw: Float[Array, "b 2"], model: config.FasterRCNN
) -> Float[Array, "b h w 3"]:
    """(pixel - mean) / std in the weights' channel order, 0 outside the image."""
    if images.shape[1] % canvas.DIVISOR or images.shape[2] % canvas.DIVISOR:
        size = f"{images.shape[1]}x{images.shape[2]}"
        raise ValueError(f"canvas {size} is not a multiple of {canvas.DIVISOR} pixels")
    pixels = images.astype(jnp.float32)
    pixels = pixels[..., ::-1] if model.channel_order == "bgr" else pixels
    mean, std = jnp.asarray(model.pixel_mean), jnp.asarray(model.pixel_std)
    return jnp.where(
        canvas.inside(images.shape[1:3], image_hw), (pixels - mean) / std, 0
    )


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
        return initialise(key, shapes)

    def loss(variables: Variables, batch: Batch, key: Array, axis_name=None):
        apply = _applier(Network(model, axis_name), variables)
        features, updates = apply("extract", batch.images, batch.image_hw, train=True)
        raw, _ = apply("propose_raw", features, batch.image_hw)
        grid = rpn.grid(spec, [f.shape[1:3] for f in features])
        rpn_terms, samples = jax.vmap(
            lambda *one: _train_stage_one(*one, grid, model, key, priority)
        )(*raw, batch)
        crops = _crop(features, samples.boxes, batch.image_hw, model)
        (logits, deltas), _ = apply("classify", crops)
        roi_terms = jax.vmap(lambda *one: roi.loss(*one, model.roi))(
            *_per_image((logits, deltas), samples.valid.shape), samples
        )
        real = (batch.image_id >= 0).astype(jnp.float32)
        sums = [(term * real).sum() for term in (*rpn_terms, *roi_terms)]
        losses = _normalise_losses(sums, axis_name)
        return sum(losses[name] for name in LOSSES), (losses, updates)

    def predict(variables: Variables, batch: Batch) -> Detections:
        apply = _applier(network, variables)
        features, _ = apply("extract", batch.images, batch.image_hw)
        raw, _ = apply("propose_raw", features, batch.image_hw)
        grid = rpn.grid(spec, [f.shape[1:3] for f in features])
        proposals = jax.vmap(lambda *one: _propose(*one, grid, model, train=False))(
            *raw, batch.image_hw
        )
        crops = _crop(features, proposals.boxes, batch.image_hw, model)
        outputs, _ = apply("classify", crops)
        return jax.vmap(lambda *one: roi.detect(*one, model.roi))(
            *_per_image(outputs, proposals.valid.shape),
            proposals,
            batch.image_hw,
            batch.scale_xy,
        )

    return Detector(init, loss, predict)


LOSSES = ("loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox")


def _applier(network: Network, variables: Variables):
    """Calls one method of the network; also returns the updated batch statistics."""

    def apply(method, *args, train=False):
        kwargs = {"train": True} if train else {}
        mutable = ["batch_stats"] if train else False
        out = network.apply(variables, *args, method=method, mutable=mutable, **kwargs)
        return out if train else (out, {})

    return apply


def _propose(logits, deltas, image_hw, grid, model: config.FasterRCNN, *, train: bool):
    exist = [jnp.ones(level.shape, bool) for level in logits]
    if model.mask_padding:
        exist = rpn.anchors_exist(grid, image_hw)
    section = model.rpn
    return rpn.propose(
        logits,
        deltas,
        exist,
        grid,
        image_hw,
        pre_nms=section.pre_nms_train if train else section.pre_nms_test,
        post_nms=section.post_nms_train if train else section.post_nms_test,
        nms_iou=section.nms_iou,
    )


def _train_stage_one(logits, deltas, image: Batch, grid, model, key, priority):
    """RPN losses and sampled RoIs of one image.

    The key depends on the image alone, so sampling does not change with the number of
    devices or the place in the batch.
    """
    key_rpn, key_roi = jax.random.split(jax.random.fold_in(key, image.image_id))
    gt_valid = (image.labels > 0) & ~image.crowd
    anchors = jnp.concatenate(grid.boxes)
    exist = jnp.concatenate(rpn.anchors_exist(grid, image.image_hw))
    targets = rpn.targets(
        anchors,
        exist,
        image.boxes,
        gt_valid,
        priority(key_rpn, anchors.shape[0]),
        model.rpn,
    )
    terms = rpn.loss(jnp.concatenate(logits), jnp.concatenate(deltas), anchors, targets)
    proposals = _propose(logits, deltas, image.image_hw, grid, model, train=True)
    candidates = image.boxes.shape[0] + proposals.boxes.shape[0]
    samples = roi.sample(
        proposals,
        image.boxes,
        image.labels,
        gt_valid,
        priority(key_roi, candidates),
        model.roi,
    )
    return terms, samples


def _crop(features, boxes: Float[Array, "b k 4"], image_hw, model: config.FasterRCNN):
    """Crops of all images in one list, [B * K, S, S, C]."""
    levels = len(model.backbone.stages)
    strides = anchor_spec(model).strides[:levels]
    section = model.roi
    pooling = Pooling(
        section.pool_size,
        section.sampling_ratio,
        section.aligned,
        strides,
        section.finest_scale,
    )

    def crop(features, boxes, image_hw):
        valid_hw = None
        if model.mask_padding:
            valid_hw = jnp.stack([canvas.cells(image_hw, stride) for stride in strides])
        return roi_align(features, boxes, pooling, valid_hw)

    crops = jax.vmap(crop)(features[:levels], boxes, image_hw)
    return crops.reshape(-1, *crops.shape[2:])


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
