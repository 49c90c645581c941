"""Every family of detectors, tiny and random: canvases, order of images, gradients.

What holds for the pyramid in `test_faster_rcnn.py` has to hold for one map, for Caffe's
boxes, and for every trunk and head.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.detectors import faster_rcnn
from frcnn_jax.ops import sampling
from frcnn_jax.types import Batch

SIZES = ((64, 96), (41, 70), (63, 61), (33, 65))
SMALL, LARGE = (64, 96), (96, 128)
KEY = jax.random.key(5)
# MobileNet's chain of normalised blocks magnifies the rounding of unoptimised code.
CAREFUL = {"mobilenet": {"xla_backend_optimization_level": 1}}


def one_map(stage: str, **trunk) -> config.FasterRCNN:
    model = base(config.ResNet(50, 8, stages=(stage,), **trunk))
    model.fpn = None
    model.rpn.anchor_sizes = ((10.0, 20.0, 40.0),)
    return model


def base(backbone) -> config.FasterRCNN:
    model = config.FasterRCNN(num_classes=3, backbone=backbone)
    model.fpn = config.FPN(channels=16, levels=3)
    model.rpn = config.RPN(channels=16, samples=32)
    model.rpn.anchor_sizes = ((10.0,), (20.0,), (40.0,))
    model.rpn.pre_nms_train = model.rpn.pre_nms_test = 60
    model.rpn.post_nms_train = model.rpn.post_nms_test = 24
    model.roi = config.RoI(pool_size=3, fc=(32, 32), samples=16, max_detections=10)
    model.roi.finest_scale = 14.0
    return model


def c4() -> config.FasterRCNN:
    model = one_map("c4", stride_in_1x1=True)
    model.roi.res5, model.roi.fc, model.roi.pool_size = True, (), 4
    return model


def dc5() -> config.FasterRCNN:
    model = one_map("c5", dilate_c5=True)
    model.rpn.allowed_border = 0.0
    return model


def resnext() -> config.FasterRCNN:
    return base(config.ResNet(50, 16, groups=4, group_width=32, stages=("c2", "c3")))


def caffe(model: config.FasterRCNN) -> config.FasterRCNN:
    """jwyang's rules."""
    model.box_coder, rpn, roi = "caffe", model.rpn, model.roi
    rpn.anchor_style, rpn.two_way, rpn.allowed_border = "caffe", True, 0.0
    rpn.anchor_sizes = ((16.0, 32.0),)
    rpn.rescue_rematches, rpn.loss_count = False, "sampled"
    rpn.box_loss, rpn.box_loss_beta = "smooth_l1", 1 / 9
    roi.box_loss, roi.box_loss_beta = "smooth_l1", 1.0
    roi.pooling, roi.pool_size, roi.background_deltas = "point_align", 7, True
    return model


def caffe_resnet() -> config.FasterRCNN:
    model = caffe(one_map("c4", stride_in_1x1=True, stem_pool="ceil"))
    model.cells, model.roi.res5, model.roi.fc = "caffe", True, ()
    return model


def vgg() -> config.FasterRCNN:
    model = base(config.VGG16(8))
    model.fpn, model.cells = None, "floor"
    model = caffe(model)
    model.roi.dropout, model.roi.pooling = 0.5, "max"
    return model


def mobilenet() -> config.FasterRCNN:
    model = base(config.MobileNetV3(0.25))
    model.rpn.anchor_style, model.box_coder = "rounded", "torchvision"
    model.rpn.anchor_sizes = ((10.0, 20.0, 40.0),) * 3
    return model


def norms_everywhere() -> config.FasterRCNN:
    """torchvision's second version, with statistics of the batch."""
    model = base(config.ResNet(18, 8, stages=("c2", "c3"), norm="batch"))
    model.fpn.norm, model.rpn.convs = "batch", 2
    model.roi.convs, model.roi.fc, model.roi.norm = (16, 16), (32,), "batch"
    return model


FAMILIES = {
    f.__name__: f
    for f in (c4, dc5, resnext, caffe_resnet, vgg, mobilenet, norms_everywhere)
}


def collated(canvas=SMALL) -> dict[str, np.ndarray]:
    """Images of coarse noise with three boxes each and one empty row."""
    rng, count = np.random.default_rng(3), len(SIZES)
    arrays = {
        "images": np.zeros((count, *canvas, 3), np.uint8),
        "image_hw": np.asarray(SIZES, np.float32),
        "scale_xy": rng.uniform(0.5, 2, (count, 2)).astype(np.float32),
        "boxes": np.zeros((count, 4, 4), np.float32),
        "labels": np.tile(np.asarray([1, 2, 3, 0], np.int32), (count, 1)),
        "crowd": np.zeros((count, 4), bool),
        "image_id": np.arange(100, 100 + count, dtype=np.int32),
    }
    for i, (h, w) in enumerate(SIZES):
        pixels = np.kron(rng.integers(0, 256, (16, 24, 3)), np.ones((4, 4, 1)))
        arrays["images"][i, :h, :w] = pixels[:h, :w]
        corners = rng.uniform(0, [w, h], (3, 2, 2))
        low, high = corners.min(1), corners.max(1)
        arrays["boxes"][i, :3] = np.concatenate([low, np.maximum(high, low + 6)], 1)
    return arrays


def batch_of(arrays) -> Batch:
    return Batch(**jax.tree.map(jnp.asarray, arrays))


def random_variables(model):
    rng = np.random.default_rng(7)
    init = faster_rcnn.make(model).init
    shapes = jax.eval_shape(init, jax.random.key(0), batch_of(collated()))
    gains = {"objectness": 0.3, "classes": 0.2, "deltas": 0.1, "norm3": 0.3}

    def fresh(path, leaf):
        noise, kind = rng.standard_normal(leaf.shape), path[-1].key
        gain = gains.get(path[-2].key, 1.0)
        if kind == "kernel":
            value = gain * np.sqrt(2 / np.prod(leaf.shape[:-1])) * noise
        elif kind in ("scale", "var"):
            value = gain * np.exp(0.1 * noise)
        else:
            value = 0.1 * noise
        if kind == "bias" and path[-2].key == "classes":
            value[0] -= 3  # background is rare, so that there are detections
        return jnp.asarray(value, jnp.float32)

    return jax.tree_util.tree_map_with_path(fresh, shapes)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """Variables, and programs for prediction and for loss with gradients."""
    model = FAMILIES[request.param]()
    config.validate(config.Run(model=model))
    # Lowest indices first: random priorities depend on the number of anchors.
    detector = faster_rcnn.make(model, sampling.first_priority)
    jit = functools.partial(jax.jit, compiler_options=CAREFUL.get(request.param))

    @jit
    def step(variables, batch):
        def loss(params):
            return detector.loss({**variables, "params": params}, batch, KEY)

        (total, (metrics, updates)), grads = jax.value_and_grad(loss, has_aux=True)(
            variables["params"]
        )
        return {"loss": total, **metrics}, updates, grads

    return random_variables(model), jit(detector.predict), step


@pytest.fixture(scope="module")
def plain(family):
    variables, _, step = family
    return step(variables, batch_of(collated()))


def assert_near(ours, theirs, relative):
    """Every array against its own norm."""

    def check(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= relative * (np.linalg.norm(b) + 1e-4), (a, b)

    jax.tree.map(check, ours, theirs)


def test_all_losses_count_and_gradients_are_finite(plain, family):
    metrics, updates, grads = plain
    assert min(float(metrics[name]) for name in faster_rcnn.LOSSES) > 1e-3
    for path, leaf in jax.tree_util.tree_flatten_with_path(grads)[0]:
        assert np.isfinite(np.asarray(leaf)).all(), path
        assert np.asarray(leaf).any(), path
    stats = family[0].get("batch_stats", {})
    assert jax.tree.structure(updates.get("batch_stats", {})) == jax.tree.structure(
        stats
    )


def test_a_larger_canvas_gives_the_same_detections_and_losses(family, plain):
    variables, predict, step = family
    small, large = (batch_of(collated(canvas)) for canvas in (SMALL, LARGE))
    ours, theirs = predict(variables, large), predict(variables, small)
    assert (theirs.labels > 0).sum() > 8
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=5e-3)  # pixels
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=5e-5)
    metrics, updates, _ = step(variables, large)
    assert_near((metrics, updates), plain[:2], 1e-4)


def test_the_order_of_images_does_not_matter(family, plain):
    """Dropout is that of the image and moves along with it."""
    variables, _, step = family
    reverse = {name: value[::-1] for name, value in collated().items()}
    metrics, _, _ = step(variables, batch_of(reverse))
    assert_near(metrics, plain[0], 1e-5)


def test_detections_lie_in_the_original_image(family):
    variables, predict, _ = family
    arrays = collated()
    found = predict(variables, batch_of(arrays))
    limit = np.tile(arrays["image_hw"][:, ::-1] / arrays["scale_xy"], 2)[:, None]
    # Caffe's last pixel is the image's last but one where pixels are large.
    assert (np.asarray(found.boxes) >= 0).all()
    assert (np.asarray(found.boxes) <= limit + 1).all()
