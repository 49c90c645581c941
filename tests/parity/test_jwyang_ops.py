"""jwyang faster-rcnn.pytorch (f9d984d2): functions on recorded inputs.

Recorded boxes name their last pixel; `frame` makes them ours.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops import boxes as box_ops
from frcnn_jax.ops.anchors import base_anchors
from frcnn_jax.ops.nms import nms
from frcnn_jax.ops.roi_align import Pooling, roi_align
from frcnn_jax.ops.roi_pool import roi_pool
from tests.parity.compare import frame, load_config

CAFFE = box_ops.BoxCoder(convention="caffe")


@pytest.fixture(scope="module")
def case(golden):
    return np.load(golden / "jwyang" / "ops.npz")


@pytest.mark.parametrize(
    ("name", "config"), [("coco", "jwyang_res101_600"), ("voc", "jwyang_vgg16_voc07")]
)
def test_anchors(case, name, config):
    rpn = load_config(config).model.rpn
    ours = base_anchors(rpn.anchor_sizes[0], rpn.anchor_ratios, rpn.anchor_style)
    assert (ours == frame(case[f"anchors/{name}"])).all()


def test_encoding(case):
    anchors = jnp.asarray(frame(case["enc/anchors"]))
    for gt, theirs in zip(case["enc/gt"], case["enc/out"], strict=True):
        ours = box_ops.encode(jnp.asarray(frame(gt)), anchors, CAFFE)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_decoding_and_clipping(case):
    anchors = jnp.asarray(frame(case["enc/anchors"]))[:, None]
    deltas = jnp.asarray(case["dec/deltas"][0].reshape(len(anchors), -1, 4))
    decoded = box_ops.decode(deltas, anchors, CAFFE)
    theirs = case["dec/out"][0].reshape(decoded.shape)
    np.testing.assert_allclose(decoded, frame(theirs), rtol=1e-5, atol=1e-4)
    clipped = box_ops.clip(decoded, jnp.asarray([90.0, 100.0]), "caffe")
    theirs = case["dec/clipped_90x100"][0].reshape(decoded.shape)
    np.testing.assert_allclose(clipped, frame(theirs), atol=1e-4)


def test_overlaps(case):
    """Padded rows of ground truth, which the peer gives 0, are masked here."""
    anchors = jnp.asarray(frame(case["enc/anchors"]))
    for gt, theirs in zip(case["iou/gt"], case["iou/out"], strict=True):
        ours = np.asarray(box_ops.pairwise_iou(anchors, jnp.asarray(frame(gt[:, :4]))))
        real = (gt[:, :4] != 0).any(1)
        np.testing.assert_allclose(ours[:, real], theirs[:, real], atol=1e-6)
        assert real.any() and (theirs[:, ~real] == 0).all()


@pytest.mark.parametrize("iou", (0.3, 0.7))
def test_suppression(case, iou):
    boxes, scores = frame(case["nms/dets"][:, :4]), case["nms/dets"][:, 4]
    valid = jnp.ones(len(boxes), bool)
    kept = nms(jnp.asarray(boxes), jnp.asarray(scores), valid, iou=iou, keep=len(boxes))
    found = np.asarray(kept.index)[np.asarray(kept.valid)]
    assert found.tolist() == case[f"nms/keep_{iou}"].tolist()


def per_image(case, prefix):
    """(map HWC, boxes, rows of the output) of each image."""
    rois = case[f"{prefix}/rois"]
    for image, features in enumerate(case[f"{prefix}/feat"]):
        rows = rois[:, 0] == image
        boxes = jnp.asarray(rois[rows, 1:])
        yield jnp.asarray(features.transpose(1, 2, 0)), boxes, rows


def test_point_align(case):
    how = Pooling(7, 0, True, (16,), points=True)
    for features, boxes, rows in per_image(case, "roi"):
        ours = np.asarray(roi_align([features], boxes, how)).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(ours, case["roi/align_avg"][rows], atol=1e-5)


def test_max_pool(case):
    for features, boxes, rows in per_image(case, "roi"):
        ours = np.asarray(roi_pool(features, boxes, 16, 7)).transpose(0, 3, 1, 2)
        assert (ours == case["roi/max_pool"][rows]).all()
