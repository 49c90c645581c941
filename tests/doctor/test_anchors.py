import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.data import transforms
from frcnn_jax.data.records import Record
from frcnn_jax.detectors import network
from frcnn_jax.doctor import anchors
from frcnn_jax.ops.anchors import pyramid_anchors


def record(boxes, w=100, h=60, crowd=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    crowd = np.zeros(len(boxes), bool) if crowd is None else np.array(crowd)
    return Record("a.png", 1, w, h, boxes, np.ones(len(boxes), np.int32), crowd)


def iou(boxes, others):
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    shared = (high - low).clip(0).prod(2)
    area, other = ((b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, others))
    return shared / (area[:, None] + other - shared)


@pytest.mark.parametrize("style", ["exact", "rounded", "caffe"])
@pytest.mark.parametrize("border", [-1.0, 0.0])
def test_the_best_anchor_is_that_of_a_search_over_all(rng, style, border):
    model = config.FasterRCNN()
    model.rpn.anchor_sizes = ((16.0,), (32.0,), (64.0,), (128.0,), (256.0,))
    model.rpn.anchor_style, model.rpn.allowed_border = style, border
    w, h = 200, 140
    low = rng.uniform(0, 120, (50, 2))
    boxes = np.concatenate([low, low + rng.uniform(4, 80, (50, 2))], 1).clip(
        0, [w, h, w, h]
    )
    found = anchors.Resized(boxes, np.ones(50), np.tile([w, h], (50, 1)), np.ones(50))
    spec = network.anchor_spec(model)
    cells = [(-(-h // s), -(-w // s)) for s in spec.strides]
    every = np.concatenate(pyramid_anchors(spec, cells)).astype(float)
    if border >= 0:
        every = every[
            (every[:, :2] >= -border).all(1) & (every[:, 2:] <= [w, h]).all(1)
        ]
    expected = iou(boxes, every).max(1)
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_allclose(anchors.best_iou(found, model), expected, atol=1e-6)


def test_boxes_are_resized_as_for_training():
    data = config.Data(max_side=120)
    one = record([[10, 10, 40, 40], [0, 0, 9, 9]], crowd=[False, True])
    found = anchors.resized([one, record([]), record([[0, 0, 100, 60]])], data, 90)
    h, w = transforms.resized_hw(60, 100, 90, 120)
    scale = np.array([w / 100, h / 60])
    np.testing.assert_allclose(found.boxes[0], [10, 10, 40, 40] * np.tile(scale, 2))
    np.testing.assert_allclose(found.boxes[1], [0, 0, w, h], rtol=1e-6)
    np.testing.assert_allclose(found.image_wh, [[w, h]] * 2)
    np.testing.assert_allclose(found.factor, scale.mean())


def test_nothing_to_match():
    found = anchors.resized([record([])], config.Data(), 800)
    assert anchors.best_iou(found, config.FasterRCNN()).shape == (0,)
