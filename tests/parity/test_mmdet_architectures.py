"""Full-size R-50-FPN against mmdetection 3.3.0, weights made again by recipe."""

import gzip
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.convert import mmdet
from frcnn_jax.detectors import faster_rcnn
from frcnn_jax.ops.roi_align import Pooling, assign_levels, roi_align
from frcnn_jax.types import Batch

MAPS = ("P2", "P3", "P4", "P5", "P6")


@pytest.fixture(scope="module")
def recipe(golden):
    """The weight and image recipe that the recorded numbers were made with."""
    path = golden / "mmdet" / "recipe.py"
    spec = importlib.util.spec_from_file_location("recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_variables(recipe, golden, case):
    text = gzip.open(golden / "mmdet_manifests" / "r50_fpn_1x.json.gz").read()
    shapes = {name: shape for name, (shape, _) in json.loads(text).items()}
    gains = {
        str(k): float(f"{v:.3g}")
        for k, v in zip(case["__gain_keys"], case["__gain_vals"], strict=True)
    }
    offsets = {k[9:]: case[k] for k in case.files if k.startswith("__offset/")}
    in_scale = float(case["__in_scale"])
    state = recipe.state_dict(shapes, in_scale=in_scale, gains=gains, offsets=offsets)
    tree = {}
    for path, value in mmdet.from_state_dict(state).items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(value)
    return tree


def model_for(name: str) -> config.FasterRCNN:
    model = config.FasterRCNN()
    if "caffe" in name:
        model.backbone.stride_in_1x1, model.channel_order = True, "bgr"
        model.pixel_mean, model.pixel_std = (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)
    return model


def one_image(image_bgr) -> Batch:
    h, w = image_bgr.shape[:2]
    canvas = np.zeros((1, -(-h // 32) * 32, -(-w // 32) * 32, 3), np.uint8)
    canvas[0, :h, :w] = image_bgr[..., ::-1]
    empty = np.zeros((1, 8), np.int32)
    hw, one = np.asarray([[h, w]], np.float32), np.ones((1, 2), np.float32)
    boxes, row = np.zeros((1, 8, 4), np.float32), np.zeros(1, np.int32)
    return Batch(canvas, hw, one, boxes, empty, empty.astype(bool), row)


def stages(model, variables, batch, rois):
    """Maps, RPN outputs and head outputs for fixed RoIs, in one program."""
    network = faster_rcnn.Network(model)
    strides = faster_rcnn.anchor_spec(model).strides[:4]
    pooling = Pooling(7, 0, True, strides, model.roi.finest_scale)

    @jax.jit
    def run(variables, images, image_hw):
        features = network.apply(variables, images, image_hw, method="extract")
        raw = network.apply(variables, features, image_hw, method="propose_raw")
        crops = roi_align([f[0] for f in features[:4]], jnp.asarray(rois), pooling)
        return features, raw, network.apply(variables, crops, method="classify")

    return run(variables, batch.images, batch.image_hw)


def assert_recorded(ours, case, name, tolerance=1e-4):
    """Recorded positions of a map, relative to its largest value."""
    theirs, index = case[f"{name}_val"], case[f"{name}_idx"]
    scale = case[f"{name}_stats"][2]
    error = np.abs(np.asarray(ours).reshape(-1)[index] - theirs).max() / scale
    assert error < tolerance, (name, error)


def assert_case(model, variables, case, batch):
    rois = case["x_rois"][:, 1:]
    features, (logits, deltas), (classes, boxes) = stages(model, variables, batch, rois)
    levels = assign_levels(jnp.asarray(rois), 56.0, 4)
    assert (np.asarray(levels) == case["x_levels"]).all()
    for name, feature in zip(MAPS, features, strict=True):
        assert_recorded(feature.transpose(0, 3, 1, 2), case, name)
    for level, feature in enumerate(features):
        h, w = feature.shape[1:3]
        nchw = logits[level].reshape(1, h, w, 3).transpose(0, 3, 1, 2)
        assert_recorded(nchw, case, f"rpn_cls_{level}")
        nchw = deltas[level].reshape(1, h, w, 12).transpose(0, 3, 1, 2)
        assert_recorded(nchw, case, f"rpn_reg_{level}")
    theirs = np.roll(case["x_cls_score"], 1, axis=1)
    np.testing.assert_allclose(classes, theirs, atol=1e-4 * np.abs(theirs).max())
    theirs = case["x_bbox_pred"].reshape(len(rois), 80, 4)
    np.testing.assert_allclose(boxes, theirs, atol=1e-4 * np.abs(theirs).max())


def assert_detections(found, case):
    """One to one: same class, score to 1e-3, box to 0.05 px; near-equal scores swap."""
    labels, scores = np.asarray(found.labels[0]), np.asarray(found.scores[0])
    boxes = np.asarray(found.boxes[0])
    assert (labels > 0).sum() == len(case["det_labels"])
    partner = []
    peer = zip(case["det_boxes"], case["det_scores"], case["det_labels"], strict=True)
    for box, score, label in peer:
        same = (labels == label + 1) & (np.abs(scores - score) < 1e-3)
        same &= (np.abs(boxes - box) < 0.05).all(1)
        assert same.any(), (box, score, label)
        partner.append(int(same.argmax()))
    assert len(set(partner)) == len(partner)


@pytest.mark.parametrize("name", ("arch_r50_fpn", "arch_r50_caffe_fpn"))
def test_small_image(name, golden, recipe):
    case = np.load(golden / "mmdet" / f"{name}.npz")
    variables = load_variables(recipe, golden, case)
    model, batch = model_for(name), one_image(case["img"])
    assert_case(model, variables, case, batch)
    found = jax.jit(faster_rcnn.make(model).predict)(variables, batch)
    assert_detections(found, case)


def test_full_size_image(golden, recipe):
    weights = np.load(golden / "mmdet" / "arch_r50_fpn.npz")
    case = np.load(golden / "mmdet" / "full_r50_fpn_800x1216.npz")
    variables = load_variables(recipe, golden, weights)
    model, batch = config.FasterRCNN(), one_image(recipe.image(800, 1216, 5))
    assert_case(model, variables, case, batch)
    found = jax.jit(faster_rcnn.make(model).predict)(variables, batch)
    assert_detections(found, case)
