"""Narrow detectors, recorded in mmdetection 3.3.0: every stage, number for number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.convert import mmdet
from frcnn_jax.detectors import faster_rcnn, roi, rpn
from frcnn_jax.ops import sampling
from frcnn_jax.ops.roi_align import assign_levels
from frcnn_jax.types import Batch, Proposals
from tests.parity.compare import (
    assert_close,
    assert_loss,
    assert_map,
    gradient_error,
    narrow_weights,
    nested,
    note,
    recipe,
)

MAPS = ("P2", "P3", "P4", "P5", "P6")
VARIANTS = ("fpn", "fpn_caffe", "fpn_next", "c4", "dc5")


def narrow_model(variant: str) -> config.FasterRCNN:
    """The configuration that the recorded detectors were built with."""
    model = config.FasterRCNN(num_classes=3, mask_padding=False)
    model.backbone.width = 4
    model.rpn.pre_nms_test, model.rpn.post_nms_test = 200, 50
    model.rpn.pre_nms_train, model.rpn.post_nms_train = 200, 60
    model.roi.fc, model.roi.max_detections = (64, 64), 20
    if variant != "fpn":
        model.roi.finest_scale = 14.0
    if variant in ("fpn_caffe", "c4", "dc5"):
        model.backbone.stride_in_1x1, model.channel_order = True, "bgr"
        model.pixel_mean, model.pixel_std = (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)
    if variant == "fpn_next":
        model.backbone.groups, model.backbone.group_width = 4, 32
    if variant in ("c4", "dc5"):
        model.fpn, model.rpn.channels = None, 32
        model.rpn.anchor_sizes = ((32.0, 64.0, 128.0, 256.0, 512.0),)
        model.backbone.stages = (variant[-2:],)
    else:
        model.fpn.channels = model.rpn.channels = 16
    if variant == "c4":
        model.roi.res5, model.roi.fc, model.roi.pool_size = True, (), 14
    if variant == "dc5":
        model.backbone.dilate_c5, model.roi.fc = True, (32, 32)
        model.rpn.allowed_border = 0.0
        model.backbone.stages = ("c5",)
    config.validate(config.Run(model=model))
    return model


def pool_size_of(model: config.FasterRCNN) -> int | None:
    return model.roi.pool_size if model.roi.fc else None


@pytest.fixture(scope="module", params=VARIANTS)
def case(request, golden):
    variant = request.param
    files = {
        part: np.load(golden / "mmdet" / f"e2e_{variant}_{part}.npz")
        for part in ("weights", "test", "train")
    }
    model = narrow_model(variant)
    state = narrow_weights(files["weights"])
    variables = nested(mmdet.from_state_dict(state, pool_size=pool_size_of(model)))
    return variant, model, variables, files["test"], files["train"]


def canvas_batch(test, *, canvas=None, gt=None, scale=None) -> Batch:
    """Both recorded images (BGR there) on one canvas."""
    h, w = canvas or test["batch_input_shape"]
    images = np.zeros((2, h, w, 3), np.uint8)
    first = recipe.image(*test["img_shapes"][0], int(test["image_seed"]))
    for i, image in enumerate((first, test["img_1"])):
        images[i, : image.shape[0], : image.shape[1]] = image[..., ::-1]
    boxes, labels = np.zeros((2, 6, 4), np.float32), np.zeros((2, 6), np.int32)
    for i, (gt_boxes, gt_labels) in enumerate(gt or ()):
        boxes[i, : len(gt_boxes)] = gt_boxes
        labels[i, : len(gt_labels)] = gt_labels + 1
    scale = np.ones((2, 2), np.float32) if scale is None else scale
    hw = test["img_shapes"].astype(np.float32)
    crowd = np.zeros((2, 6), bool)
    batch = Batch(images, hw, scale, boxes, labels, crowd, np.arange(2, dtype=np.int32))
    return jax.tree.map(jnp.asarray, batch)


def test_features_and_rpn_maps_equal_the_peers(case):
    _, model, variables, test, _ = case
    batch = canvas_batch(test)
    network = faster_rcnn.Network(model)

    def maps(variables, images, image_hw):
        features = network.apply(variables, images, image_hw, method="extract")
        raw = network.apply(variables, features, image_hw, method="propose_raw")
        return features, raw

    features, (logits, deltas) = jax.jit(maps)(variables, batch.images, batch.image_hw)
    names = MAPS if model.fpn else [model.backbone.stages[0].upper()]
    for feature, name in zip(features, names, strict=True):
        assert_map(feature, test, name)
    for level in range(len(features)):
        theirs = test[f"rpn_cls_{level}"].transpose(0, 2, 3, 1).reshape(2, -1)
        assert_close(logits[level], theirs, 1e-4)
        theirs = test[f"rpn_reg_{level}"].transpose(0, 2, 3, 1).reshape(2, -1, 4)
        assert_close(deltas[level], theirs, 1e-4)


def test_backbone_maps_equal_the_peers(case):
    _, model, variables, test, _ = case
    batch = canvas_batch(test)
    network = faster_rcnn.Network(model)

    def trunk(network, images, image_hw):
        return network.backbone(faster_rcnn.normalise(images, image_hw, model))

    features = network.apply(variables, batch.images, batch.image_hw, method=trunk)
    for stage, ours in features.items():
        assert_map(ours, test, stage.upper())


def recorded_maps(test, image):
    levels = [i for i in range(5) if f"rpn_cls_{i}" in test]
    logits = [
        jnp.asarray(test[f"rpn_cls_{i}"][image].transpose(1, 2, 0).ravel())
        for i in levels
    ]
    deltas = [
        jnp.asarray(test[f"rpn_reg_{i}"][image].transpose(1, 2, 0).reshape(-1, 4))
        for i in levels
    ]
    sizes = [test[f"rpn_cls_{i}"].shape[2:] for i in levels]
    return logits, deltas, sizes


@pytest.mark.parametrize("image", (0, 1))
def test_proposals_from_recorded_maps(case, image):
    _, model, _, test, train = case
    logits, deltas, sizes = recorded_maps(test, image)
    grid = rpn.grid(faster_rcnn.anchor_spec(model), sizes, model.cells)
    hw = jnp.asarray(test["img_shapes"][image], jnp.float32)
    for training, boxes in (
        (False, test[f"proposals_{image}"]),
        (True, train[f"all/proposals_{image}"]),
    ):
        found = faster_rcnn.propose(logits, deltas, hw, grid, model, train=training)
        assert int(found.valid.sum()) == len(boxes)
        np.testing.assert_allclose(found.boxes[: len(boxes)], boxes, atol=1e-4)
        if not training:
            scores = test[f"proposal_scores_{image}"]
            np.testing.assert_allclose(found.scores[: len(boxes)], scores, atol=1e-6)


@pytest.mark.parametrize("pixels", ("net", "ori"))
def test_detections_from_recorded_outputs(case, pixels):
    _, model, _, test, _ = case
    for image in (0, 1):
        rows = test["rois"][:, 0] == image
        logits = np.roll(test["cls_score"][rows], 1, axis=1)
        deltas = test["bbox_pred"][rows].reshape(-1, 3, 4)
        boxes = test["rois"][rows, 1:]
        proposals = Proposals(
            jnp.asarray(boxes), jnp.ones(len(boxes)), jnp.ones(len(boxes), bool)
        )
        scale = np.ones(2, np.float32)
        if pixels == "ori":
            scale = test["scale_factors"][image]
        hw = jnp.asarray(test["img_shapes"][image], jnp.float32)
        found = roi.detect(
            jnp.asarray(logits),
            jnp.asarray(deltas),
            proposals,
            hw,
            jnp.asarray(scale),
            model.roi,
            "mmdet",
        )
        assert_detections(jax.tree.map(np.asarray, found), test, pixels, image, 1e-3)


def assert_detections(found, test, pixels, image, box_tolerance):
    """In the peer's very order."""
    labels = test[f"det_{pixels}_labels_{image}"] + 1
    count = len(labels)
    assert (found.labels[:count] == labels).all()
    assert (found.labels[count:] == 0).all()
    away = np.abs(found.scores[:count] - test[f"det_{pixels}_scores_{image}"]).max()
    assert note("scores", away) < 1e-3
    away = np.abs(found.boxes[:count] - test[f"det_{pixels}_boxes_{image}"]).max()
    assert note("boxes_px", away) < box_tolerance


@pytest.mark.parametrize("pixels", ("net", "ori"))
def test_predict_gives_the_peers_detections(case, pixels):
    _, model, variables, test, _ = case
    scale = test["scale_factors"] if pixels == "ori" else None
    detector = faster_rcnn.make(model)
    found = jax.jit(detector.predict)(variables, canvas_batch(test, scale=scale))
    for image in (0, 1):
        one = jax.tree.map(lambda x, image=image: np.asarray(x[image]), found)
        assert_detections(one, test, pixels, image, 0.05)


def test_roi_levels(case):
    _, model, _, test, _ = case
    if model.fpn is None:
        assert "roi_levels" not in test  # one map, nothing to choose
        return
    levels = assign_levels(jnp.asarray(test["rois"][:, 1:]), model.roi.finest_scale, 4)
    assert (np.asarray(levels) == test["roi_levels"]).all()


MODES = ("all", "firstk", "nogt1", "iou", "giou", "biou")


@functools.cache
def training_step(variant, counts, box_loss):
    """One program for all modes that differ in their ground truth only."""
    model = narrow_model(variant)
    model.rpn.samples, model.roi.samples = counts
    model.roi.box_loss = box_loss
    model.roi.box_loss_weight = 1.0 if box_loss == "l1" else 10.0
    detector = faster_rcnn.make(model, sampling.first_priority)

    def loss(params, stats, batch):
        variables = {"params": params, "batch_stats": stats}
        return detector.loss(variables, batch, jax.random.key(0))

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize("mode", MODES)
def test_training_losses_and_gradients_equal_the_peers(case, mode):
    variant, model, variables, test, train = case
    if f"{mode}/total" not in train:
        assert mode in ("iou", "giou", "biou")  # recorded for one variant only
        return
    counts = (64, 48) if mode in ("firstk", "nogt1") else (1_000_000, 100_000)
    box_loss = {"biou": "bounded_iou"}.get(mode, mode) if "iou" in mode else "l1"
    step = training_step(variant, counts, box_loss)
    gt = [(train[f"gt_boxes_{i}"], train[f"gt_labels_{i}"]) for i in (0, 1)]
    if mode == "nogt1":
        gt[1] = (gt[1][0][:0], gt[1][1][:0])
    batch = canvas_batch(test, gt=gt)
    stats = variables["batch_stats"]
    (total, (metrics, _)), _ = step(variables["params"], stats, batch)
    for name in ("loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox"):
        assert_loss(metrics[name], train[f"{mode}/{name}"].sum(), name)
    assert_loss(total, train[f"{mode}/total"], "total")
    np.testing.assert_allclose(
        100 * metrics["accuracy"], train[f"{mode}/acc"][0], rtol=1e-5
    )
    names = train[f"{mode}/grad_keys"]
    norms = dict(zip(names, train[f"{mode}/grad_norms"], strict=True))
    error = gradient_error(
        lambda params: step(params, stats, batch)[1],
        variables,
        norms,
        lambda flat: mmdet.to_state_dict(flat, pool_size=pool_size_of(model)),
    )
    assert error < 1e-3
