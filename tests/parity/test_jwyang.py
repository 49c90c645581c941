"""jwyang faster-rcnn.pytorch (f9d984d2): recorded numbers, stage by stage.

Its boxes name their last pixel; ours end behind it, so recorded boxes get one pixel
here (`frame`). See `ops.boxes.BoxCoder`.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.convert import jwyang
from frcnn_jax.detectors import faster_rcnn, roi, rpn
from frcnn_jax.models import resnet
from frcnn_jax.ops import sampling
from frcnn_jax.ops.boxes import pairwise_iou
from frcnn_jax.types import Batch, RoISamples
from tests.parity.compare import (
    assert_close,
    assert_loss,
    assert_map,
    frame,
    gradient_error,
    load_config,
    nested,
    note,
    recipe,
)


def narrow_model() -> config.FasterRCNN:
    """The recorded detector: widths / 16, two blocks per stage, smaller anchors."""
    model = load_config("jwyang_res101_600").model
    model.num_classes, model.backbone.depth, model.backbone.width = 3, 50, 4
    model.rpn.anchor_sizes = ((16.0, 32.0, 64.0, 128.0),)
    model.rpn.pre_nms_test, model.rpn.post_nms_test = 200, 40
    model.rpn.pre_nms_train, model.rpn.post_nms_train = 200, 60
    model.rpn.samples, model.roi.samples = 1_000_000, 32
    model.roi.max_detections = 30
    return model


@pytest.fixture(scope="module")
def case(golden):
    return np.load(golden / "jwyang" / "detector.npz")


@pytest.fixture(scope="module")
def variables(case):
    names = [name for name in case.files if name.startswith("state/")]
    state = {name.removeprefix("state/"): case[name] for name in names}
    return nested(jwyang.from_state_dict(state))


@pytest.fixture(autouse=True)
def two_blocks(monkeypatch):
    monkeypatch.setitem(resnet.BLOCKS, 50, (2, 2, 2, 2))


def batch_of(images_bgr, *, scale=1.0, gt=None, larger=0) -> Batch:
    """Images of one size on the smallest canvas or a larger one; boxes of the peer."""
    h, w = images_bgr[0].shape[:2]
    count = len(images_bgr)
    canvas_hw = (-(-side // 32) * 32 + larger for side in (h, w))
    canvas = np.zeros((count, *canvas_hw, 3), np.uint8)
    for image, place in zip(images_bgr, canvas, strict=True):
        place[:h, :w] = image[..., ::-1]
    gt = np.zeros((count, 8, 5), np.float32) if gt is None else gt
    return Batch(
        jnp.asarray(canvas),
        jnp.full((count, 2), jnp.asarray([h, w], jnp.float32)),
        jnp.full((count, 2), scale, jnp.float32),
        jnp.asarray(frame(gt[..., :4])),
        jnp.asarray(gt[..., 4], jnp.int32),
        jnp.zeros(gt.shape[:2], bool),
        jnp.arange(count, dtype=jnp.int32),
    )


def recorded_batch(case, **kwargs):
    return batch_of([case[f"image_u8_bgr_hwc/{i}"] for i in (0, 1)], **kwargs)


def raw_outputs(model, variables, batch):
    """Features, objectness and deltas as maps, all without what the canvas adds."""
    network = faster_rcnn.Network(model)

    @jax.jit
    def program(variables):
        features = network.apply(
            variables, batch.images, batch.image_hw, method="extract"
        )
        raw = network.apply(variables, features, batch.image_hw, method="propose_raw")
        return features, raw

    features, raw = program(variables)
    return features[0], raw[0][0], raw[1][0]


def as_map(rows, features, hw):
    """[B, H * W * A, ...] as [B, h, w, A * ...] of the image's own cells."""
    shape = (*features.shape[:3], -1)
    return np.asarray(rows).reshape(shape)[:, : hw[0], : hw[1]]


def assert_raw(outputs, case):
    """Maps to 1e-4 of their largest value; of the two logits the difference counts."""
    features, logits, deltas = outputs
    scores = case["rpn_cls_score"]
    a, hw = scores.shape[1] // 2, scores.shape[2:]
    assert_map(features[:, : hw[0], : hw[1]], case, "base_feat")
    difference = (scores[:, a:] - scores[:, :a]).transpose(0, 2, 3, 1)
    assert_close(as_map(logits, features, hw), difference, 1e-4)
    assert_map(as_map(deltas, features, hw), case, "rpn_bbox_pred")


def test_jwyang_resnet_maps(case, variables):
    outputs = raw_outputs(narrow_model(), variables, recorded_batch(case))
    assert_raw(outputs, case)


def recorded_proposals(case, image, model, *, train):
    scores, deltas = case["rpn_cls_score"][image], case["rpn_bbox_pred"][image]
    a, hw = scores.shape[0] // 2, scores.shape[1:]
    logits = jnp.asarray((scores[a:] - scores[:a]).transpose(1, 2, 0).ravel())
    deltas = jnp.asarray(deltas.transpose(1, 2, 0).reshape(-1, 4))
    grid = rpn.grid(faster_rcnn.anchor_spec(model), [hw], model.cells)
    image_hw = jnp.asarray(case["im_info"][image, :2])
    return faster_rcnn.propose([logits], [deltas], image_hw, grid, model, train=train)


@pytest.mark.parametrize("image", (0, 1))
def test_proposals_from_recorded_maps(case, image):
    """In order; what the peer fills up with empty boxes is not valid here."""
    for train, theirs in (
        (False, case[f"eval/{image}/rois"][0, :, 1:]),
        (True, case["train/rois_before_sampling"][image, :, 1:]),
    ):
        found = recorded_proposals(case, image, narrow_model(), train=train)
        filled = int((theirs != 0).any(1).sum())
        assert int(found.valid.sum()) == filled
        np.testing.assert_allclose(
            found.boxes[:filled], frame(theirs[:filled]), atol=2e-3
        )


def heads(model, variables, batch, rois):
    """Class probabilities and deltas (background's left out) of fixed RoIs."""
    network = faster_rcnn.Network(model)

    @jax.jit
    def program(variables):
        features = network.apply(
            variables, batch.images, batch.image_hw, method="extract"
        )
        crops = faster_rcnn.crop(features, jnp.asarray(rois), batch.image_hw, model)
        logits, deltas = network.apply(variables, crops, method="classify")
        return jax.nn.softmax(logits), deltas

    return program(variables)


@pytest.mark.parametrize(("pooling", "images"), [("point_align", 2), ("max", 1)])
def test_jwyang_resnet_heads(case, variables, pooling, images):
    model = narrow_model()
    model.roi.pooling = pooling
    batch = jax.tree.map(lambda x: x[:images], recorded_batch(case))
    rois = np.stack([frame(case[f"eval/{i}/rois"][0, :, 1:]) for i in range(images)])
    probabilities, deltas = heads(model, variables, batch, rois)
    keys = [f"eval/{i}" for i in range(images)]
    keys = ["eval_mode/pool"] if pooling == "max" else keys
    theirs = np.concatenate([case[f"{key}/cls_prob"][0] for key in keys])
    assert_close(probabilities, theirs, 1e-4)
    theirs = np.concatenate([case[f"{key}/bbox_pred"][0] for key in keys])
    assert_close(deltas, theirs.reshape(len(theirs), -1, 4)[:, 1:], 1e-4)


@pytest.mark.parametrize("larger", (0, 64))
def test_jwyang_resnet_detections(case, variables, larger):
    """Same boxes, classes and scores, in original pixels, on any canvas."""
    batch = recorded_batch(case, scale=case["im_info"][0, 2], larger=larger)
    found = jax.jit(faster_rcnn.make(narrow_model()).predict)(variables, batch)
    for image in (0, 1):
        theirs = case[f"eval/{image}/det"]
        theirs = theirs[np.argsort(-theirs[:, 4], kind="stable")]
        assert (np.asarray(found.labels[image]) == theirs[:, 5]).all()
        away = np.abs(found.scores[image] - theirs[:, 4]).max()
        assert note("scores", away) < 1e-4
        away = np.abs(found.boxes[image] - frame(theirs[:, :4])).max()
        assert note("boxes_px", away) < 0.02


# ---- training


def anchor_targets(case, model):
    """Anchors of one image and the targets of both, nothing left to chance."""
    hw = case["rpn_cls_score"].shape[2:]
    grid = rpn.grid(faster_rcnn.anchor_spec(model), [hw], model.cells)
    image_hw = jnp.asarray(case["im_info"][0, :2])
    anchors = jnp.concatenate(rpn.anchors_of(grid, image_hw))
    exist = rpn.inside_border(
        anchors, image_hw, model.rpn.allowed_border, model.box_coder
    )
    targets = [
        rpn.targets(
            anchors,
            exist,
            jnp.asarray(frame(gt[:, :4])),
            jnp.asarray(gt[:, 4] > 0),
            sampling.first_priority(jax.random.key(0), len(anchors)),
            model.rpn,
        )
        for gt in case["gt_boxes"]
    ]
    return anchors, targets


def test_anchor_labels(case):
    _, targets = anchor_targets(case, narrow_model())
    h, w = case["rpn_cls_score"].shape[2:]
    for ours, theirs in zip(targets, case["train/rpn_labels"], strict=True):
        labels = np.full(theirs.size, -1)
        index, valid = np.asarray(ours.index), np.asarray(ours.valid)
        labels[index[valid]] = np.asarray(ours.positive)[valid]
        theirs = theirs.reshape(-1, h, w).transpose(1, 2, 0).ravel()
        assert (labels == theirs).all()


def recorded_samples(case, image) -> RoISamples:
    """The RoIs that the peer drew, with the ground truth each overlaps most."""
    boxes = jnp.asarray(frame(case["train/sampled_rois"][image, :, 1:]))
    gt = case["gt_boxes"][image]
    gt_boxes = jnp.asarray(frame(gt[gt[:, 4] > 0, :4]))
    index = pairwise_iou(boxes, gt_boxes).argmax(1)
    labels = jnp.asarray(case["train/sampled_labels"][image], jnp.int32)
    valid = jnp.ones(len(boxes), bool)
    return RoISamples(boxes, labels, index, gt_boxes[index], valid)


@pytest.mark.parametrize("image", (0, 1))
def test_box_targets_of_recorded_rois(case, image):
    samples = recorded_samples(case, image)
    positive = np.asarray(samples.labels) > 0
    model = narrow_model()
    coder = faster_rcnn.box_ops.BoxCoder(model.roi.box_stds, model.box_coder)
    ours = faster_rcnn.box_ops.encode(samples.gt_boxes, samples.boxes, coder)
    theirs = case["train/sampled_targets"][image]
    np.testing.assert_allclose(ours[positive], theirs[positive], atol=1e-4)
    labels = case["gt_boxes"][image][np.asarray(samples.gt_index), 4]
    assert (labels[positive] == np.asarray(samples.labels)[positive]).all()


@pytest.fixture(scope="module")
def training_step(case):
    """The peer's four losses for its own RoIs, with gradients.

    Sums per image are ours; they are put together as the peer does, which divides the
    RPN's box loss by the anchors of the last image of a batch and averages over images,
    where ours divides by the anchors of all.
    """
    model = narrow_model()
    network, batch = faster_rcnn.Network(model), recorded_batch(case)
    anchors, targets = anchor_targets(case, model)
    h, w = case["rpn_cls_score"].shape[2:]
    samples = [recorded_samples(case, image) for image in (0, 1)]
    boxes = jnp.stack([one.boxes for one in samples])

    def losses(params, stats):
        both = {"params": params, "batch_stats": stats}
        features = network.apply(both, batch.images, batch.image_hw, method="extract")
        raw = network.apply(both, features, batch.image_hw, method="propose_raw")
        shape = (2, *features[0].shape[1:3], -1)
        logits = raw[0][0].reshape(shape)[:, :h, :w].reshape(2, -1)
        deltas = raw[1][0].reshape(shape)[:, :h, :w].reshape(2, -1, 4)
        first = [
            rpn.loss(logits[i], deltas[i], anchors, targets[i], model.rpn)
            for i in (0, 1)
        ]
        crops = faster_rcnn.crop(features, boxes, batch.image_hw, model)
        classes, refined = network.apply(both, crops, method="classify")
        second = [
            roi.loss(
                *(x.reshape(2, 32, *x.shape[1:])[i] for x in (classes, refined)),
                samples[i],
                model.roi,
                model.box_coder,
            )
            for i in (0, 1)
        ]
        (cls, box, count), (ce, refine, rois, _) = (
            [jnp.stack(x) for x in zip(*terms, strict=True)]
            for terms in (first, second)
        )
        parts = {
            "rpn_cls": cls.sum() / count.sum(),
            "rpn_box": (box / count[-1]).mean(),
            "rcnn_cls": ce.sum() / rois.sum(),
            "rcnn_box": refine.sum() / rois.sum(),
        }
        return sum(parts.values()), parts

    return jax.jit(jax.value_and_grad(losses, has_aux=True))


def test_jwyang_resnet_training(case, variables, training_step):
    params, stats = variables["params"], variables["batch_stats"]
    (_, parts), grads = training_step(params, stats)
    for name, value in parts.items():
        assert_loss(value, case[f"loss/{name}"], name)
    names = [name for name in case.files if name.startswith("gradnorm/")]
    norms = {name.removeprefix("gradnorm/"): case[name] for name in names}

    def gradient(moved):
        return grads if moved is params else training_step(moved, stats)[1]

    assert gradient_error(gradient, variables, norms, jwyang.to_state_dict) < 1e-3


# ---- VGG-16


@pytest.fixture(scope="module")
def vgg(golden):
    """Recorded outputs, model and weights of a narrow VGG-16 detector."""
    case = np.load(golden / "jwyang" / "vgg.npz")
    model = load_config("jwyang_vgg16_800").model
    model.num_classes, model.backbone.width, model.roi.fc = 4, 8, (96, 48)
    shapes = json.loads(str(case["shapes"]))
    gains = {"RCNN_base.0.weight": 0.02}
    state = recipe.state_dict(shapes, gains=gains)
    return case, model, nested(jwyang.from_state_dict(state))


def test_jwyang_vgg_maps(vgg):
    case, model, variables = vgg
    batch = batch_of([recipe.image(187, 245, 21)])
    assert_raw(raw_outputs(model, variables, batch), case)


def test_jwyang_vgg_heads(vgg):
    """With max pooling; the dropout of training is not there."""
    case, model, variables = vgg
    model.roi.pooling = "max"
    batch = batch_of([recipe.image(187, 245, 21)])
    probabilities, deltas = heads(model, variables, batch, frame(case["rois"])[None])
    assert_close(probabilities, case["cls_prob"], 1e-4)
    theirs = case["bbox_pred"].reshape(len(case["rois"]), -1, 4)[:, 1:]
    assert_close(deltas, theirs, 1e-4)


def test_jwyang_vgg_gradients(vgg):
    """Of the mean squares of all outputs, through max pooling; no dropout."""
    case, model, variables = vgg
    model.roi.pooling = "max"
    batch = batch_of([recipe.image(187, 245, 21)])
    rois = jnp.asarray(frame(case["rois"]))[None]
    network = faster_rcnn.Network(model)
    h, w = case["rpn_cls_score"].shape[2:]

    def total(params):
        both = {"params": params}
        features = network.apply(both, batch.images, batch.image_hw, method="extract")
        raw = network.apply(both, features, batch.image_hw, method="propose_raw")
        shape = (*features[0].shape[:3], -1)
        maps = [level[0].reshape(shape)[:, :h, :w] for level in raw]
        crops = faster_rcnn.crop(features, rois, batch.image_hw, model)
        outputs = network.apply(both, crops, method="classify")
        return sum((x**2).mean() for x in (*maps, *outputs))

    step = jax.jit(jax.value_and_grad(total))
    np.testing.assert_allclose(step(variables["params"])[0], case["total"], rtol=1e-5)
    names = [name for name in case.files if name.startswith("gradnorm/")]
    norms = {name.removeprefix("gradnorm/"): case[name] for name in names}
    error = gradient_error(
        lambda params: step(params)[1],
        {**variables, "batch_stats": {}},
        norms,
        jwyang.to_state_dict,
    )
    assert error < 1e-3
