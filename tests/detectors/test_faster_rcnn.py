"""The whole detector on a tiny random model: what may change its numbers, what not.

The trunk ends at c3 and the pyramid has three levels; eight images of various sizes
share a canvas. Nearly all tests run the same few programs, which take far longer to
compile than to run; so the compiler is told not to try hard.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from frcnn_jax import config
from frcnn_jax.detectors import faster_rcnn
from frcnn_jax.ops import sampling
from frcnn_jax.training import distributed, state, step
from frcnn_jax.types import Batch

SMALL, LARGE = (64, 96), (128, 128)
SIZES = (
    (64, 96),
    (40, 70),
    (64, 60),
    (50, 96),
    (33, 65),
    (20, 40),
    (64, 90),
    (60, 33),
)
KEY = jax.random.key(5)

# Compiles four times as fast; the programs are too small for the difference to matter.


def tiny(norm="frozen", dtype="float32") -> config.FasterRCNN:
    model = config.FasterRCNN(num_classes=3, dtype=dtype)
    model.backbone = config.ResNet(18, 8, stages=("c2", "c3"), norm=norm)
    model.fpn = config.FPN(channels=16, levels=3)
    sizes = ((10.0,), (20.0,), (40.0,))
    model.rpn = config.RPN(channels=16, anchor_sizes=sizes, samples=32)
    model.rpn.pre_nms_train = model.rpn.pre_nms_test = 60
    model.rpn.post_nms_train = model.rpn.post_nms_test = 24
    model.roi = config.RoI(pool_size=3, fc=(32, 32), samples=16, max_detections=10)
    model.roi.finest_scale = 14.0  # so that RoIs come from every level
    model.roi.score_threshold = 0.5  # so that rows of detections stay empty
    config.validate(config.Run(model=model))
    return model


def collated(count=8, canvas=SMALL) -> dict[str, np.ndarray]:
    """Images of coarse noise with three boxes each and one empty row."""
    rng = np.random.default_rng(3)
    arrays = {
        "images": np.zeros((count, *canvas, 3), np.uint8),
        "image_hw": np.asarray(SIZES[:count], np.float32),
        "scale_xy": rng.uniform(0.5, 2, (8, 2)).astype(np.float32)[:count],
        "boxes": np.zeros((count, 4, 4), np.float32),
        "labels": np.tile(np.asarray([1, 2, 3, 0], np.int32), (count, 1)),
        "crowd": np.zeros((count, 4), bool),
        "image_id": np.arange(100, 100 + count, dtype=np.int32),
    }
    for i, (h, w) in enumerate(SIZES[:count]):
        pixels = np.kron(rng.integers(0, 256, (16, 24, 3)), np.ones((4, 4, 1)))
        arrays["images"][i, :h, :w] = pixels[:h, :w]
        corners = rng.uniform(0, [w, h], (3, 2, 2))
        low, high = corners.min(1), corners.max(1)
        arrays["boxes"][i, :3] = np.concatenate([low, np.maximum(high, low + 6)], 1)
    return arrays


def batch_of(arrays) -> Batch:
    return Batch(**jax.tree.map(jnp.asarray, arrays))


@functools.cache
def variables():
    """Random weights under which scores spread; the same for every norm."""
    rng = np.random.default_rng(7)
    init = faster_rcnn.make(tiny()).init
    shapes = jax.eval_shape(init, jax.random.key(0), batch_of(collated(1)))
    gains = {"objectness": 0.3, "classes": 0.2, "deltas": 0.1, "norm2": 0.4}

    def fresh(path, leaf):
        noise = rng.standard_normal(leaf.shape)
        kind, layer = path[-1].key, path[-2].key
        gain = gains.get(layer, 1.0)
        if kind == "kernel":
            value = gain * np.sqrt(2 / np.prod(leaf.shape[:-1])) * noise
        elif kind in ("scale", "var"):
            value = gain * np.exp(0.1 * noise)
        else:
            value = 0.1 * noise
        if layer == "objectness":  # highest where the map is zero: beyond the image
            value = -abs(value) if kind == "kernel" else value + 2
        return jnp.asarray(value, jnp.float32)

    return jax.tree_util.tree_map_with_path(fresh, shapes)


@functools.cache
def loss_program(norm="frozen", priority=sampling.first_priority, dtype="float32"):
    """Loss, metrics, updates and gradients of all parameters."""
    detector = faster_rcnn.make(tiny(norm, dtype), priority)

    @jax.jit
    def run(variables, batch, key):
        def loss(params):
            return detector.loss({**variables, "params": params}, batch, key)

        (total, (metrics, updates)), grads = jax.value_and_grad(loss, has_aux=True)(
            variables["params"]
        )
        return {"loss": total, **metrics}, updates, grads

    return run


def losses(arrays, key=KEY, **program):
    return loss_program(**program)(variables(), batch_of(arrays), key)


@functools.cache
def predict_program(dtype="float32"):
    return jax.jit(faster_rcnn.make(tiny(dtype=dtype)).predict)


def predict(arrays, dtype="float32"):
    found = predict_program(dtype)(variables(), batch_of(arrays))
    return jax.tree.map(np.asarray, found)


def changed(arrays, **fields):
    return {**arrays, **fields}


def rows(arrays, index):
    return {name: value[index] for name, value in arrays.items()}


def assert_same_bits(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def assert_near(ours, theirs, relative):
    """Every array against its own norm; metrics are scalars."""

    def check(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= relative * (np.linalg.norm(b) + 1e-6), (a, b)

    jax.tree.map(check, ours, theirs)


@pytest.fixture(scope="module")
def plain():
    """The result that other tests compare with."""
    return losses(collated())


def test_the_tiny_model_is_worth_testing(plain):
    """All losses count, every parameter learns, and there are detections."""
    metrics, updates, grads = plain
    assert set(metrics) == {"loss", *faster_rcnn.LOSSES, "accuracy"}
    parts = [float(metrics[name]) for name in faster_rcnn.LOSSES]
    assert min(parts) > 0.01
    np.testing.assert_allclose(metrics["loss"], sum(parts), rtol=1e-6)
    assert 0 < metrics["accuracy"] < 1
    for leaf in jax.tree.leaves(grads):
        assert np.isfinite(np.asarray(leaf)).all() and np.asarray(leaf).any()
    assert_same_bits(updates["batch_stats"], variables()["batch_stats"])
    found = predict(collated(3))
    assert (found.labels > 0).sum(1).min() > 3
    assert len(set(found.labels.ravel().tolist())) > 2


def test_detections_are_sorted_and_lie_in_the_original_image():
    arrays = collated(3)
    found = predict(arrays)
    limit = arrays["image_hw"][:, ::-1] / arrays["scale_xy"]
    assert (found.boxes >= 0).all()
    assert (found.boxes <= np.tile(limit, 2)[:, None] * (1 + 1e-6)).all()
    assert (np.diff(found.scores, axis=1) <= 0).all()
    real = found.labels > 0
    assert (found.scores[real] > 0.5).all() and found.labels.max() <= 3
    assert 0 < real.sum() < real.size
    assert not found.boxes[~real].any() and not found.scores[~real].any()


def noisy_padding(arrays):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, arrays["images"].shape, np.uint8)
    for i, (h, w) in enumerate(SIZES[: len(images)]):
        images[i, :h, :w] = arrays["images"][i, :h, :w]
    return images


def test_pixels_beyond_the_image_do_not_matter(plain):
    arrays = collated()
    wild = changed(arrays, images=noisy_padding(arrays))
    assert_same_bits(losses(wild), plain)
    few = collated(3)
    wild = changed(few, images=noisy_padding(few))
    assert_same_bits(predict(wild), predict(few))


@pytest.mark.parametrize("garbage", (np.nan, 1e30, -7.0))
def test_empty_rows_of_ground_truth_do_not_matter(garbage, plain):
    arrays = collated()
    empty = arrays["labels"] == 0
    boxes = np.where(empty[..., None], np.float32(garbage), arrays["boxes"])
    wild = changed(arrays, boxes=boxes, crowd=empty)
    assert_same_bits(losses(wild), plain)


def test_the_place_of_a_row_of_ground_truth_does_not_matter(plain):
    """Without ties, and when the ground truth boxes are sampled anyway."""
    arrays = collated()
    order = [3, 2, 0, 1]
    moved = {name: arrays[name][:, order] for name in ("boxes", "labels", "crowd")}
    metrics, _, _ = losses(changed(arrays, **moved))
    for name in ("loss_rpn_cls", "loss_rpn_bbox"):
        np.testing.assert_allclose(metrics[name], plain[0][name], rtol=1e-5)


def test_crowd_boxes_are_ignored():
    """As if they were not there, bit for bit."""
    arrays = collated()
    row = np.arange(4) == 1
    crowd = changed(arrays, crowd=np.tile(row, (8, 1)))
    absent = changed(arrays, labels=np.where(row, 0, arrays["labels"]))
    result = losses(crowd)
    assert_same_bits(result, losses(absent))
    assert result[0]["loss"] != losses(arrays)[0]["loss"]


def test_without_ground_truth_losses_and_gradients_are_finite():
    arrays = collated()
    for empty in (
        changed(arrays, labels=np.zeros_like(arrays["labels"])),
        changed(arrays, crowd=np.ones_like(arrays["crowd"])),
    ):
        metrics, _, grads = losses(empty)
        assert metrics["loss_rpn_bbox"] == metrics["loss_bbox"] == 0
        assert metrics["loss_rpn_cls"] > 0 and metrics["loss_cls"] > 0
        for leaf in jax.tree.leaves(grads):
            assert np.isfinite(np.asarray(leaf)).all()


@pytest.mark.parametrize("hw", [(1, 1), (1, 64), (64, 1)])
def test_images_of_a_pixel_or_a_line_have_finite_losses_and_gradients(hw):
    """With a box over the whole image."""
    arrays = collated()
    boxes = np.zeros_like(arrays["boxes"])
    boxes[:, 0, 2:] = hw[::-1]
    labels = arrays["labels"] * (np.arange(4) == 0)
    sizes = np.tile(np.float32(hw), (8, 1))
    small = changed(arrays, boxes=boxes, labels=labels, image_hw=sizes)
    metrics, _, grads = losses(small)
    for leaf in jax.tree.leaves((metrics, grads)):
        assert np.isfinite(np.asarray(leaf)).all()
    assert metrics["loss_rpn_cls"] > 0 and metrics["loss_cls"] > 0
    found = predict(rows(small, np.arange(3)))
    assert np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()


@pytest.mark.parametrize("kind", ["one pixel", "a thousand"])
def test_odd_numbers_and_sizes_of_boxes_have_finite_losses_and_gradients(kind):
    """One box of a pixel in each image, and a thousand boxes in each of two."""
    arrays, rng = collated(), np.random.default_rng(0)
    if kind == "one pixel":
        boxes = np.zeros_like(arrays["boxes"])
        boxes[:, 0] = [5, 6, 6, 7]
        odd = changed(
            arrays, boxes=boxes, labels=arrays["labels"] * (np.arange(4) == 0)
        )
    else:
        arrays = rows(arrays, np.arange(2))
        corners = rng.uniform(0, arrays["image_hw"].min() - 3, (2, 1000, 2))
        sides = rng.uniform(1e-2, 30, (2, 1000, 2))
        boxes = np.concatenate([corners, corners + sides], 2).astype(np.float32)
        labels = rng.integers(1, 4, (2, 1000)).astype(np.int32)
        odd = changed(arrays, boxes=boxes, labels=labels, crowd=labels < 0)
    metrics, _, grads = losses(odd)
    for leaf in jax.tree.leaves((metrics, grads)):
        assert np.isfinite(np.asarray(leaf)).all()
    assert metrics["loss_bbox"] > 0  # each box is a proposal of itself


def test_filler_images_change_no_loss():
    """Four images twice: as much per RoI as four images and four fillers."""
    four = rows(collated(), np.arange(8) % 4)
    filled = rows(collated(), np.arange(8))
    filled["image_id"] = np.where(np.arange(8) < 4, filled["image_id"], -1)
    twice, once = losses(four), losses(filled)
    assert_near(once[0], twice[0], 1e-6)
    assert_near(once[2], twice[2], 1e-5)
    other = changed(filled, images=filled["images"].copy())
    other["images"][4:] = 255 - other["images"][4:]
    other["labels"] = np.where(np.arange(8)[:, None] < 4, filled["labels"], 0)
    assert_near(losses(other)[0], once[0], 1e-6)
    assert_near(losses(other)[2], once[2], 1e-5)


def test_only_filler_images_give_zero():
    arrays = collated()
    metrics, _, grads = losses(changed(arrays, image_id=np.full(8, -1, np.int32)))
    assert all(float(value) == 0 for value in metrics.values())
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("norm", ("frozen", "batch"))
def test_a_larger_canvas_gives_the_same_losses(norm):
    """Where a value lies within rounding of a relu's kink, gradients may differ: so
    those of one of three slightly different networks have to agree, and all losses."""
    program, apart = loss_program(norm=norm), []
    for scale in (1, 0.999, 1.001):
        weights = jax.tree.map(lambda x, by=scale: x * by, variables())
        small, large = (
            program(weights, batch_of(collated(**canvas)), KEY)
            for canvas in ({}, {"canvas": LARGE})
        )
        assert_near(large[0], small[0], 1e-5)
        assert_near(large[1], small[1], 1e-5)
        try:
            return assert_near(large[2], small[2], 1e-5)
        except AssertionError as error:
            apart.append(error)
    raise apart[0]


def test_a_larger_canvas_gives_the_same_detections():
    small, large = predict(collated(3)), predict(collated(3, LARGE))
    np.testing.assert_array_equal(large.labels, small.labels)
    np.testing.assert_allclose(large.scores, small.scores, atol=1e-5)
    np.testing.assert_allclose(large.boxes, small.boxes, atol=1e-3)


def test_a_batch_of_three_equals_three_batches_of_one():
    together = predict(collated(3))
    for i in range(3):
        alone = predict(rows(collated(3), slice(i, i + 1)))
        np.testing.assert_array_equal(alone.labels[0], together.labels[i])
        np.testing.assert_allclose(alone.scores[0], together.scores[i], atol=1e-5)
        np.testing.assert_allclose(alone.boxes[0], together.boxes[i], atol=1e-3)


RANDOM = {"norm": "batch", "priority": sampling.random_priority}


def test_the_same_key_gives_the_same_bits():
    one, again = losses(collated(), **RANDOM), losses(collated(), **RANDOM)
    assert_same_bits(one, again)
    other = losses(collated(), key=jax.random.key(6), **RANDOM)
    assert abs(float(other[0]["loss"] - one[0]["loss"])) > 1e-4


def test_sampling_follows_the_image_not_its_place_in_the_batch():
    order = np.random.default_rng(1).permutation(8)
    one = losses(collated(), **RANDOM)
    shuffled = losses(rows(collated(), order), **RANDOM)
    assert_near(shuffled[0], one[0], 1e-5)
    assert_near(shuffled[2], one[2], 1e-5)
    renamed = changed(collated(), image_id=np.arange(8, dtype=np.int32))
    assert abs(float(losses(renamed, **RANDOM)[0]["loss"] - one[0]["loss"])) > 1e-4


def gradient_recorder() -> optax.GradientTransformation:
    """An optimiser that moves nothing and whose state is the last gradient."""

    def update(grads, _, params=None):
        return jax.tree.map(jnp.zeros_like, grads), grads

    return optax.GradientTransformation(
        lambda p: jax.tree.map(jnp.zeros_like, p), update
    )


@pytest.mark.parametrize("devices", (1, 2, 8))
def test_any_number_of_devices_takes_the_same_step(devices):
    """Random sampling and batch statistics over the devices included."""
    mesh = distributed.make_mesh(devices)
    detector = faster_rcnn.make(tiny("batch"), sampling.random_priority)
    recorder = gradient_recorder()
    train_step = jax.jit(step.make_train_step(detector, recorder, (), mesh))
    start = distributed.replicate(state.create(variables(), recorder, ()), mesh)
    after, metrics = train_step(start, distributed.to_batch(collated(), mesh), KEY)
    expected, updates, grads = losses(
        collated(), key=jax.random.fold_in(KEY, 0), **RANDOM
    )
    metrics = {name: metrics[name] for name in expected}
    assert_near(metrics, expected, 1e-5)
    stats = after.variables["batch_stats"]
    assert_near(stats, updates["batch_stats"], 1e-5)
    for path, leaf in jax.tree_util.tree_flatten_with_path(grads)[0]:
        name = "/".join(entry.key for entry in path)
        assert_near(after.opt_state[name], leaf, 1e-5)
    assert int(after.step) == 1


@pytest.mark.parametrize(("dtype", "rtol"), [("bfloat16", 0.1), ("float16", 0.01)])
def test_narrow_networks_give_float32_losses_near_the_others(plain, dtype, rtol):
    metrics, _, grads = losses(collated(), dtype=dtype)
    for leaf in (*metrics.values(), *jax.tree.leaves(grads)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(np.asarray(leaf)).all()
    for name in ("loss", *faster_rcnn.LOSSES):
        np.testing.assert_allclose(metrics[name], plain[0][name], rtol=rtol)


def test_bfloat16_networks_give_float32_detections_near_the_others():
    """Suppression and thresholds can turn over: most of the best three, not all."""
    ours, theirs = predict(collated(3), "bfloat16"), predict(collated(3))
    assert ours.boxes.dtype == ours.scores.dtype == np.float32
    found = []
    for image in range(3):
        for best in range(3):
            box, score = theirs.boxes[image, best], theirs.scores[image, best]
            near = np.abs(ours.boxes[image] - box).max(1) < 4
            near &= np.abs(ours.scores[image] - score) < 0.1
            near &= ours.labels[image] == theirs.labels[image, best]
            found.append(near.any())
    assert np.mean(found) > 0.6


def test_a_canvas_that_is_not_a_multiple_of_32_is_an_error():
    arrays = collated(1)
    odd = changed(arrays, images=arrays["images"][:, :60])
    with pytest.raises(ValueError, match="canvas 60x96 is not a multiple of 32"):
        predict(odd)


def test_fresh_variables_follow_the_key():
    init = jax.jit(faster_rcnn.make(tiny()).init)
    fresh = init(jax.random.key(0), batch_of(collated(1)))
    assert set(fresh) == {"params", "batch_stats"}
    assert set(fresh["params"]) == {"backbone", "fpn", "rpn", "box_head"}
    assert set(fresh["batch_stats"]) == {"backbone"}
    shapes = jax.tree.map(jnp.shape, fresh)
    assert shapes == jax.tree.map(jnp.shape, variables())
    rpn, head = fresh["params"]["rpn"], fresh["params"]["box_head"]
    for kernel, std in (
        (rpn["conv"]["kernel"], 0.01),
        (head["predictor"]["classes"]["kernel"], 0.01),
        (head["predictor"]["deltas"]["kernel"], 0.001),
        (fresh["params"]["backbone"]["stem"]["conv"]["kernel"], (2 / 49 / 8) ** 0.5),
    ):
        np.testing.assert_allclose(np.std(kernel), std, rtol=0.2)
    again = init(jax.random.key(0), batch_of(collated(1)))
    assert_same_bits(again, fresh)
    other = init(jax.random.key(1), batch_of(collated(1)))
    assert (other["params"]["rpn"]["conv"]["kernel"] != rpn["conv"]["kernel"]).all()
