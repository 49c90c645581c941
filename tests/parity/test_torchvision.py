"""torchvision 0.29.1: a narrow detector, recorded stage by stage.

The recorded batch shares one canvas, so these models count all of it as image
(`cells="canvas"`); pixels come in as floats, resized after normalisation as there.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.convert import torchvision
from frcnn_jax.detectors import faster_rcnn, rpn
from frcnn_jax.ops import sampling
from frcnn_jax.ops.roi_align import assign_levels, roi_align
from frcnn_jax.types import Batch
from tests.parity.compare import (
    assert_close,
    assert_loss,
    assert_map,
    assert_one_to_one,
    gradient_error,
    nested,
    recorded_state,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CANVAS = 224
MAPS = ("0", "1", "2", "3", "pool")


def narrow_model() -> config.FasterRCNN:
    """The recorded detector; everything is sampled."""
    model = config.FasterRCNN(num_classes=3, box_coder="torchvision", cells="canvas")
    model.pixel_mean, model.pixel_std = (0.0,) * 3, (1.0,) * 3  # done by `resized`
    model.backbone.depth, model.backbone.width = 18, 8
    model.fpn.channels = model.rpn.channels = 32
    rpn, roi = model.rpn, model.roi
    rpn.anchor_sizes = ((16.0,), (32.0,), (64.0,), (128.0,), (256.0,))
    rpn.anchor_style, rpn.min_side = "rounded", 1e-3
    rpn.rescue_rematches, rpn.min_positive_iou = False, 0.0
    rpn.loss_count, rpn.box_loss, rpn.box_loss_beta = "sampled", "smooth_l1", 1 / 9
    rpn.pre_nms_train, rpn.post_nms_train = 120, 80
    rpn.pre_nms_test, rpn.post_nms_test = 100, 48
    rpn.samples = roi.samples = 1_000_000
    roi.aligned, roi.sampling_ratio, roi.fc = False, 2, (64, 64)
    roi.box_loss, roi.box_loss_beta = "smooth_l1", 1 / 9
    roi.background_deltas, roi.min_side, roi.max_detections = True, 1e-2, 30
    config.validate(config.Run(model=model))
    return model


def resized(image: np.ndarray, hw) -> np.ndarray:
    """CHW bytes normalised, then resized bilinearly about pixel centres, as HWC."""
    pixels = image.transpose(1, 2, 0) / np.float32(255)
    pixels = (pixels - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    for axis in (0, 1):
        old, new = pixels.shape[axis], int(hw[axis])
        scale = np.float32(old / new)  # coordinates are float32 there
        at = np.arange(new, dtype=np.float32)
        at = np.maximum((at + np.float32(0.5)) * scale - np.float32(0.5), 0)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        part = np.expand_dims((at - low.astype(np.float32)), (1 - axis, 2))
        below, above = np.take(pixels, low, axis), np.take(pixels, high, axis)
        pixels = below * (1 - part) + above * part
    return pixels


@pytest.fixture(scope="module")
def case(golden):
    folder = golden / "torchvision"
    files = {k: np.load(folder / f"det_{k}.npz") for k in ("state", "infer", "train")}
    variables = nested(torchvision.from_state_dict(recorded_state(files["state"])))
    return narrow_model(), variables, files["infer"], files["train"]


def make_batch(infer) -> Batch:
    images = np.zeros((2, CANVAS, CANVAS, 3), np.float32)
    sizes, scale = infer["image_sizes"], np.zeros((2, 2), np.float32)
    boxes, labels = np.zeros((2, 8, 4), np.float32), np.zeros((2, 8), np.int32)
    for i, (h, w) in enumerate(sizes):
        image = infer[f"image_u8/{i}"]
        images[i, :h, :w] = resized(image, (h, w))
        scale[i] = w / image.shape[2], h / image.shape[1]
        boxes[i] = infer[f"gt_boxes/{i}"] * np.tile(scale[i], 2)
        labels[i] = infer[f"gt_labels/{i}"]
    crowd, row = np.zeros((2, 8), bool), np.arange(2, dtype=np.int32)
    hw = sizes.astype(np.float32)
    batch = Batch(images, hw, scale, boxes, labels, crowd, row)
    return jax.tree.map(jnp.asarray, batch)


def test_torchvision_pixels(case):
    _, _, infer, _ = case
    assert_map(make_batch(infer).images, infer, "batch", 1e-6)


def test_torchvision_maps(case):
    model, variables, infer, _ = case
    batch = make_batch(infer)
    network = faster_rcnn.Network(model)

    def maps(network, images, image_hw):
        features = network.extract(images, image_hw)
        return (
            network.backbone(images),
            features,
            *network.propose_raw(features, image_hw),
        )

    body, features, logits, deltas = jax.jit(
        lambda *inputs: network.apply(variables, *inputs, method=maps)
    )(batch.images, batch.image_hw)
    for level, stage in enumerate(("c2", "c3", "c4", "c5")):
        assert_map(body[stage], infer, f"body/{level}", 1e-5)
    for level, name in enumerate(MAPS):
        assert_map(features[level], infer, f"feat/{name}", 1e-5)
        shape = (*features[level].shape[:3], -1)
        assert_map(logits[level].reshape(shape), infer, f"rpn_objectness/{level}", 1e-5)
        assert_map(deltas[level].reshape(shape), infer, f"rpn_deltas/{level}", 1e-5)


def test_anchors_follow_the_strides_of_the_image(case):
    model, _, infer, _ = case
    sizes = [(56, 56), (28, 28), (14, 14), (7, 7), (4, 4)]
    grid = rpn.grid(faster_rcnn.anchor_spec(model), sizes, model.cells)
    found = rpn.anchors_of(grid, jnp.asarray([160.0, 213.0]))
    np.testing.assert_array_equal(np.concatenate(found), infer["anchors"])


def stages(model, variables, batch, *, train=False):
    """Features and proposals of both images."""
    network = faster_rcnn.Network(model)

    def program(variables, batch):
        images, hw = batch.images, batch.image_hw
        features = network.apply(variables, images, hw, method="extract")
        raw = network.apply(variables, features, hw, method="propose_raw")
        sizes = [f.shape[1:3] for f in features]
        grid = rpn.grid(faster_rcnn.anchor_spec(model), sizes, model.cells)
        found = jax.vmap(
            lambda *one: faster_rcnn.propose(*one, grid, model, train=train)
        )(*raw, hw)
        return features, found

    return jax.jit(program)(variables, batch)


@pytest.mark.parametrize("mode", ("test", "train"))
def test_torchvision_proposals_in_the_peers_order(case, mode):
    model, variables, infer, train = case
    batch = make_batch(infer)
    _, found = stages(model, variables, batch, train=mode == "train")
    for i in (0, 1):
        if mode == "train":
            theirs = train[f"train_proposals/{i}"]
        else:
            theirs = infer[f"proposals/{i}"]
            scores = infer[f"proposal_scores/{i}"]
            np.testing.assert_allclose(found.scores[i], scores, atol=1e-5)
        assert found.valid[i].all() and len(found.valid[i]) == len(theirs)
        np.testing.assert_allclose(found.boxes[i], theirs, atol=1e-3)


def test_torchvision_box_head_on_recorded_proposals(case):
    model, variables, infer, _ = case
    features, _ = stages(model, variables, make_batch(infer))
    boxes = [jnp.asarray(infer[f"proposals/{i}"]) for i in (0, 1)]
    levels = [assign_levels(b, model.roi.finest_scale, 4) for b in boxes]
    np.testing.assert_array_equal(np.concatenate(levels), infer["roi_levels"])
    how = faster_rcnn.pooling(model)
    crops = jnp.concatenate(
        [roi_align([f[i] for f in features[:4]], boxes[i], how) for i in (0, 1)]
    )
    assert_map(crops, infer, "roi_feats", 1e-5)
    network = faster_rcnn.Network(model)
    logits, deltas = network.apply(variables, crops, method="classify")
    assert_close(logits, infer["class_logits"], 2e-5)
    theirs = infer["box_regression"].reshape(-1, 4, 4)[:, 1:]
    assert_close(deltas, theirs, 2e-5)


def test_torchvision_detections_equal_the_peers(case):
    model, variables, infer, _ = case
    found = jax.jit(faster_rcnn.make(model).predict)(variables, make_batch(infer))
    for i in (0, 1):
        one = jax.tree.map(lambda x, i=i: x[i], found)
        theirs = (infer[f"det_final/{i}/{k}"] for k in ("boxes", "scores", "labels"))
        assert_one_to_one(one, *theirs)


LOSSES = {
    "loss_rpn_cls": "loss_objectness",
    "loss_rpn_bbox": "loss_rpn_box_reg",
    "loss_cls": "loss_classifier",
    "loss_bbox": "loss_box_reg",
}


def test_torchvision_training(case):
    model, variables, infer, train = case
    detector = faster_rcnn.make(model, sampling.first_priority)
    stats = variables["batch_stats"]

    @jax.jit
    def step(params):
        def loss(params):
            both = {"params": params, "batch_stats": stats}
            return detector.loss(both, make_batch(infer), jax.random.key(0))

        return jax.value_and_grad(loss, has_aux=True)(params)

    (total, (metrics, _)), grads = step(variables["params"])
    for ours, theirs in LOSSES.items():
        assert_loss(metrics[ours], train[f"loss/{theirs}"], ours)
    assert_loss(total, train["loss/total"], "total")
    norms = {k[9:]: float(train[k]) for k in train.files if k.startswith("gradnorm/")}
    rename = torchvision.to_state_dict
    error = gradient_error(lambda p: step(p)[1], variables, norms, rename)
    assert error < 1e-3
