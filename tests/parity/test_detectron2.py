"""Narrow detectors, recorded in detectron2 (02b5c4e2): C4, DC5 and FPN in caffe style.

Two images share a batch. detectron2 lets convolutions run over the whole batch canvas,
which for C4 and DC5 is as large as the larger sides (190x213): the trunk gets masks of
that size here, and every cell of the map counts.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.convert import detectron2
from frcnn_jax.detectors import faster_rcnn
from frcnn_jax.ops import canvas, sampling
from frcnn_jax.types import Batch
from tests.parity.compare import (
    assert_loss,
    assert_map,
    assert_one_to_one,
    gradient_error,
    nested,
)

VARIANTS = ("C4", "DC5", "FPN")
LOSSES = {
    "loss_cls": "loss_cls",
    "loss_box_reg": "loss_bbox",
    "loss_rpn_cls": "loss_rpn_cls",
    "loss_rpn_loc": "loss_rpn_bbox",
}


def narrow_model(variant: str) -> config.FasterRCNN:
    """The configuration that the recorded detectors were built with."""
    model = config.FasterRCNN(num_classes=3, channel_order="bgr", cells="canvas")
    model.pixel_mean = (103.53, 116.28, 123.675)
    model.pixel_std = (57.375, 57.12, 58.395)
    model.box_coder = "torchvision"
    trunk, rpn, roi = model.backbone, model.rpn, model.roi
    trunk.width, trunk.stem_width, trunk.stride_in_1x1 = 4, 8, True
    rpn.pre_nms_train, rpn.pre_nms_test = 120, 100
    rpn.post_nms_train, rpn.post_nms_test = 60, 40
    rpn.min_positive_iou, rpn.rescue_rematches = 0.0, False
    rpn.loss_count, rpn.samples, roi.samples = "slots", 1_000_000, 100_000
    roi.fc, roi.max_detections = (32, 32), 25
    if variant == "FPN":
        model.fpn.channels = rpn.channels = 16
        rpn.anchor_sizes = ((16.0,), (32.0,), (64.0,), (128.0,), (256.0,))
    else:
        trunk.stages, model.fpn = ("c4" if variant == "C4" else "c5",), None
        rpn.channels = 64 if variant == "C4" else 128
        rpn.anchor_sizes = ((16.0, 32.0, 64.0, 128.0),)
        trunk.dilate_c5 = variant == "DC5"
    if variant == "C4":
        roi.res5, roi.fc, roi.pool_size = True, (), 14
    config.validate(config.Run(model=model))
    return model


@pytest.fixture(scope="module", params=VARIANTS)
def case(request, golden):
    variant = request.param
    peer = np.load(golden / "detectron2" / f"{variant}.npz")
    state = {k[6:]: peer[k] for k in peer.files if k.startswith("state/")}
    return variant, peer, nested(detectron2.from_state_dict(state))


def recorded_batch(peer) -> Batch:
    """Both images (BGR, channels first there) with their ground truth."""
    images, boxes = np.zeros((2, 192, 224, 3), np.uint8), np.zeros((2, 8, 4))
    labels, scale = np.zeros((2, 8), np.int32), np.ones((2, 2))
    for i in (0, 1):
        image = peer[f"image_u8_bgr/{i}"][::-1].transpose(1, 2, 0)
        images[i, : image.shape[0], : image.shape[1]] = image
        boxes[i], labels[i] = peer[f"gt_boxes/{i}"], peer[f"gt_labels/{i}"] + 1
        scale[i] = np.asarray(image.shape[1::-1]) / peer[f"output_hw/{i}"][::-1]
    arrays = (images, peer["image_sizes"], scale, boxes, labels)
    crowd, rows = np.zeros((2, 8), bool), np.arange(2, dtype=np.int32)
    kinds = (np.uint8, np.float32, np.float32, np.float32, np.int32)
    arrays = [jnp.asarray(a.astype(k)) for a, k in zip(arrays, kinds, strict=True)]
    return Batch(*arrays, jnp.asarray(crowd), jnp.asarray(rows))


def on_batch_canvas(variant, function):
    """The function with the trunk masked to the batch's canvas of 190x213 pixels."""

    def masks(call, args, kwargs, context):
        if context.method_name != "masks" or variant == "FPN":
            return call(*args, **kwargs)
        hw = jnp.asarray([[190.0, 213.0]] * 2)
        return {
            stride: canvas.inside(
                (192 // stride, 224 // stride), canvas.cells(hw, stride, "ceil")
            )
            for stride in args[2]
        }

    def wrapped(*args):
        with nn.intercept_methods(masks):
            return function(*args)

    return jax.jit(wrapped)


def test_maps_and_detections_equal_the_peers(case):
    variant, peer, variables = case
    model = narrow_model(variant)
    network, predict = faster_rcnn.Network(model), faster_rcnn.make(model).predict

    def run(variables, batch):
        features = network.apply(
            variables, batch.images, batch.image_hw, method="extract"
        )
        raw = network.apply(variables, features, batch.image_hw, method="propose_raw")
        return features, raw, predict(variables, batch)

    batch = recorded_batch(peer)
    features, (logits, deltas), found = on_batch_canvas(variant, run)(variables, batch)
    names = {"C4": ("res4",), "DC5": ("res5",)}
    names = names.get(variant, ("p2", "p3", "p4", "p5", "p6"))
    for level, (name, feature) in enumerate(zip(names, features, strict=True)):
        assert_map(feature, peer, f"feat/{name}")
        shape = (*feature.shape[:3], 3, -1)
        sizes_first = lambda x: np.asarray(x).swapaxes(3, 4)  # noqa: E731
        theirs = sizes_first(logits[level].reshape(shape)).reshape(*shape[:3], -1)
        assert_map(theirs, peer, f"rpn_objectness/{level}")
        theirs = sizes_first(deltas[level].reshape(*shape, 4))
        assert_map(theirs.reshape(*shape[:3], -1), peer, f"rpn_deltas/{level}")
    for i in (0, 1):
        one = jax.tree.map(lambda x, i=i: x[i], found)
        recorded = (peer[f"det_final/{i}/{k}"] for k in ("boxes", "scores", "labels"))
        boxes, scores, labels = recorded
        hw = jnp.asarray(peer[f"output_hw/{i}"], jnp.float32)
        h, w = np.asarray(hw)
        one = one._replace(boxes=np.clip(one.boxes, 0, [w, h, w, h]))
        assert_one_to_one(one, boxes, scores, labels + 1)


@functools.cache
def training_step(variant):
    detector = faster_rcnn.make(narrow_model(variant), sampling.first_priority)

    def loss(params, stats, batch):
        variables = {"params": params, "batch_stats": stats}
        return detector.loss(variables, batch, jax.random.key(0))

    return on_batch_canvas(variant, jax.value_and_grad(loss, has_aux=True))


def test_losses_and_gradients_equal_the_peers(case):
    variant, peer, variables = case
    step, stats = training_step(variant), variables["batch_stats"]
    batch = recorded_batch(peer)
    (_, (metrics, _)), grads = step(variables["params"], stats, batch)
    for theirs, ours in LOSSES.items():
        assert_loss(metrics[ours], peer[f"loss/{theirs}"], ours)
    norms = {k[9:]: peer[k] for k in peer.files if k.startswith("gradnorm/")}
    error = gradient_error(
        lambda params: step(params, stats, batch)[1],
        variables,
        norms,
        detectron2.to_state_dict,
    )
    assert error < 1e-3
