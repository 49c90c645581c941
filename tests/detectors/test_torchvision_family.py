"""torchvision's detectors, narrow: batch norm in every part, a MobileNet's two maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from frcnn_jax import config
from frcnn_jax.detectors import faster_rcnn, network
from frcnn_jax.ops import sampling
from frcnn_jax.types import Batch
from tests.parity.compare import load_config

SIZES = ((64, 96), (40, 70))


def narrow(name: str) -> config.FasterRCNN:
    """A published configuration with few channels and counts."""
    model = load_config(name).model
    model.num_classes, model.fpn.channels, model.rpn.channels = 3, 16, 16
    if isinstance(model.backbone, config.ResNet):
        model.backbone.depth, model.backbone.width = 18, 8
    else:
        model.backbone.width = 0.25
    model.rpn.pre_nms_train = model.rpn.pre_nms_test = 60
    model.rpn.post_nms_train = model.rpn.post_nms_test = 24
    model.rpn.samples, model.roi.samples, model.roi.fc = 32, 16, (32,)
    model.roi.convs = (16,) * len(model.roi.convs)
    model.roi.max_detections = 10
    config.validate(config.Run(model=model))
    return model


def make_batch(canvas) -> Batch:
    rng = np.random.default_rng(3)
    images = np.zeros((2, *canvas, 3), np.uint8)
    for i, (h, w) in enumerate(SIZES):
        images[i, :h, :w] = rng.integers(0, 256, (h, w, 3))
    boxes = np.asarray([[[4, 5, 50, 40], [20, 10, 60, 39], [0, 0, 0, 0]]] * 2, "f4")
    labels = np.asarray([[1, 3, 0]] * 2, np.int32)
    hw, ones = np.asarray(SIZES, np.float32), np.ones((2, 2), np.float32)
    rows = np.arange(2, dtype=np.int32)
    batch = Batch(images, hw, ones, boxes, labels, labels > 9, rows)
    return jax.tree.map(jnp.asarray, batch)


def fresh(model):
    return faster_rcnn.make(model).init(jax.random.key(1), make_batch((64, 96)))


def test_v2_learns_in_every_part_and_moves_all_statistics():
    model = narrow("torchvision_r50_fpn_v2")
    variables = fresh(model)
    detector = faster_rcnn.make(model, sampling.first_priority)

    @jax.jit
    def step(params, batch):
        def loss(params):
            both = {**variables, "params": params}
            return detector.loss(both, batch, jax.random.key(0))

        return jax.value_and_grad(loss, has_aux=True)(params)

    (total, (_, updates)), grads = step(variables["params"], make_batch((64, 96)))
    before = traverse_util.flatten_dict(variables["batch_stats"], sep="/")
    after = traverse_util.flatten_dict(updates["batch_stats"], sep="/")
    assert {name.split("/")[0] for name in after} == {"backbone", "fpn", "box_head"}
    assert all((np.asarray(after[k]) != before[k]).any() for k in before)
    flat = traverse_util.flatten_dict(grads, sep="/")
    assert all(np.isfinite(g).all() for g in flat.values())
    for layer in ("rpn/conv2/kernel", "box_head/norm4/scale", "fpn/output2_norm/bias"):
        assert float(jnp.abs(flat[layer]).max()) > 0
    (larger, (_, other)), _ = step(variables["params"], make_batch((128, 128)))
    np.testing.assert_allclose(larger, total, rtol=1e-4)
    other = traverse_util.flatten_dict(other["batch_stats"], sep="/")
    for name, value in after.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def mobile():
    model = narrow("torchvision_mobilenet_fpn")
    model.rpn.score_threshold = model.roi.score_threshold = 0.0
    return model, fresh(model)


def test_mobilenet_levels(mobile):
    model, _ = mobile
    assert network.anchor_spec(model).strides == (32, 32, 64)
    assert network.anchor_spec(model).per_cell == 15
    assert faster_rcnn.pooling(model).strides == (32,)


def test_mobilenet_crops_come_from_the_first_map(mobile):
    model, variables = mobile
    rng = np.random.default_rng(0)
    maps = [jnp.asarray(rng.random((1, 2, 3, 16)), jnp.float32) for _ in range(2)]
    boxes, hw = jnp.asarray([[[0.0, 0.0, 90.0, 60.0]]]), jnp.asarray([[64.0, 96.0]])
    both = faster_rcnn.crop(maps, boxes, hw, model)
    alone = faster_rcnn.crop(maps[:1], boxes, hw, model)
    np.testing.assert_array_equal(both, alone)


def test_mobilenet_detections_on_a_larger_canvas(mobile):
    model, variables = mobile
    predict = jax.jit(faster_rcnn.make(model).predict)
    tight = predict(variables, make_batch((64, 96)))
    large = predict(variables, make_batch((128, 128)))
    assert (tight.labels > 0).all()
    np.testing.assert_allclose(large.scores, tight.scores, atol=1e-4)
    np.testing.assert_allclose(large.boxes, tight.boxes, atol=1e-2)
