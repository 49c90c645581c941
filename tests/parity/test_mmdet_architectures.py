"""Full-size architectures against mmdetection 3.3.0, weights made again by recipe."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.convert import mmdet
from frcnn_jax.detectors import faster_rcnn
from frcnn_jax.ops.roi_align import assign_levels, roi_align
from frcnn_jax.types import Batch
from tests.parity.compare import (
    assert_close,
    assert_map,
    assert_one_to_one,
    load_config,
    nested,
    recipe,
    recipe_weights,
)

# Recorded case -> configuration of ours, names and shapes of theirs.
CASES = {
    "r50_fpn": ("r50_fpn_1x", "r50_fpn_1x"),
    "r50_caffe_fpn": ("r50_caffe_fpn_1x", "r50_fpn_1x"),
    "r50_caffe_c4": ("r50_caffe_c4_1x", "r50_caffe_c4_1x"),
    "r50_caffe_dc5": ("r50_caffe_dc5_1x", "r50_caffe_dc5_1x"),
    "r101_fpn": ("r101_fpn_1x", "r101_fpn_1x"),
    "r101_caffe_fpn": ("r101_caffe_fpn_1x", "r101_fpn_1x"),
    "x101_32x4d_fpn": ("x101_32x4d_fpn_1x", "x101_32x4d_fpn_1x"),
    "x101_32x8d_fpn": ("x101_32x8d_fpn_ms_3x", "x101_32x8d_fpn_ms_3x"),
    "x101_64x4d_fpn": ("x101_64x4d_fpn_1x", "x101_64x4d_fpn_1x"),
}


def load_variables(golden, case, manifest, model):
    text = gzip.open(golden / "mmdet_manifests" / f"{manifest}.json.gz").read()
    shapes = {name: shape for name, (shape, _) in json.loads(text).items()}
    state = recipe_weights(case, shapes)
    pool_size = model.roi.pool_size if model.roi.fc else None
    return nested(mmdet.from_state_dict(state, pool_size=pool_size))


def one_image(image_bgr) -> Batch:
    h, w = image_bgr.shape[:2]
    canvas = np.zeros((1, -(-h // 32) * 32, -(-w // 32) * 32, 3), np.uint8)
    canvas[0, :h, :w] = image_bgr[..., ::-1]
    empty = np.zeros((1, 8), np.int32)
    hw, one = np.asarray([[h, w]], np.float32), np.ones((1, 2), np.float32)
    boxes, row = np.zeros((1, 8, 4), np.float32), np.zeros(1, np.int32)
    return Batch(canvas, hw, one, boxes, empty, empty.astype(bool), row)


def run(model, variables, batch, rois):
    """Maps, RPN outputs, head outputs for fixed RoIs, detections; one program."""
    network, how = faster_rcnn.Network(model), faster_rcnn.pooling(model)
    predict = faster_rcnn.make(model).predict

    @jax.jit
    def program(variables, batch):
        features = network.apply(
            variables, batch.images, batch.image_hw, method="extract"
        )
        raw = network.apply(variables, features, batch.image_hw, method="propose_raw")
        maps = [f[0] for f in features[: len(how.strides)]]
        crops = roi_align(maps, jnp.asarray(rois), how)
        heads = network.apply(variables, crops, method="classify")
        return features, raw, heads, predict(variables, batch)

    return program(variables, batch)


def assert_case(model, variables, case, batch):
    rois = case["x_rois"][:, 1:]
    features, (logits, deltas), (classes, boxes), found = run(
        model, variables, batch, rois
    )
    if model.fpn is not None:
        levels = assign_levels(jnp.asarray(rois), 56.0, 4)
        assert (np.asarray(levels) == case["x_levels"]).all()
    names = ("P2", "P3", "P4", "P5", "P6")
    names = names if model.fpn else (model.backbone.stages[0].upper(),)
    for name, feature in zip(names, features, strict=True):
        assert_map(feature, case, name)
    for level, feature in enumerate(features):
        shape = (1, *feature.shape[1:3], -1)
        assert_map(logits[level].reshape(shape), case, f"rpn_cls_{level}")
        assert_map(deltas[level].reshape(shape), case, f"rpn_reg_{level}")
    theirs = np.roll(case["x_cls_score"], 1, axis=1)
    assert_close(classes, theirs, 1e-4, "head_outputs")
    theirs = case["x_bbox_pred"].reshape(len(rois), 80, 4)
    assert_close(boxes, theirs, 1e-4, "head_outputs")
    one = jax.tree.map(lambda x: x[0], found)
    assert_one_to_one(
        one, case["det_boxes"], case["det_scores"], case["det_labels"] + 1
    )


def recorded_model(name: str) -> config.FasterRCNN:
    """The model of a row; C4 and DC5 were recorded with 300 proposals."""
    model = load_config(name).model
    if model.fpn is None:
        model.rpn.post_nms_test = 300
    return model


@pytest.mark.parametrize("name", CASES)
def test_small_image(name, golden):
    case = np.load(golden / "mmdet" / f"arch_{name}.npz")
    ours, manifest = CASES[name]
    model = recorded_model(ours)
    variables = load_variables(golden, case, manifest, model)
    assert_case(model, variables, case, one_image(recipe.image(240, 310, 77)))


def test_full_size_image(golden):
    weights = np.load(golden / "mmdet" / "arch_r50_fpn.npz")
    case = np.load(golden / "mmdet" / "full_r50_fpn_800x1216.npz")
    model = recorded_model("r50_fpn_1x")
    variables = load_variables(golden, weights, "r50_fpn_1x", model)
    assert_case(model, variables, case, one_image(recipe.image(800, 1216, 5)))
