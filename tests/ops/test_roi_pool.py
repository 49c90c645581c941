"""RoI max-pooling against torchvision and by hand, and jwyang's point sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops import roi_align as roi_align_module
from frcnn_jax.ops.roi_align import Pooling, roi_align
from frcnn_jax.ops.roi_pool import roi_pool

POINTS = Pooling(7, 0, True, (16,), points=True)


@pytest.fixture(scope="module")
def case(golden):
    return np.load(golden / "jwyang" / "ops.npz")


@pytest.mark.parametrize("chunk", (64, 4))
def test_equals_torchvision_with_gradient(case, chunk, monkeypatch):
    """Boxes outside the map, empty ones and inverted ones among them."""
    monkeypatch.setattr(roi_align_module, "CHUNK", chunk)
    out, rois = case["tv_pool/out"], case["tv_pool/rois"]
    weight = np.linspace(-1, 1, out.size, dtype=np.float32).reshape(out.shape)
    for image, features in enumerate(case["tv_pool/feat"]):
        rows = rois[:, 0] == image
        boxes = jnp.asarray(rois[rows, 1:] * 4)
        features = jnp.asarray(features.transpose(1, 2, 0))
        crops, pull = jax.vjp(lambda f, b=boxes: roi_pool(f, b, 4, 7), features)
        assert (np.asarray(crops).transpose(0, 3, 1, 2) == out[rows]).all()
        (grad,) = pull(jnp.asarray(weight[rows].transpose(0, 2, 3, 1)))
        theirs = case["tv_pool/grad"][image].transpose(1, 2, 0)
        np.testing.assert_allclose(grad, theirs, atol=1e-5)


def test_a_case_on_paper():
    features = jnp.arange(16.0).reshape(4, 4, 1)
    boxes = jnp.asarray([[0.0, 0, 3, 3], [1, 1, 1, 1], [2, 0, 9, 1]])
    crops = roi_pool(features, boxes, 1, 2)[..., 0]
    assert crops[0].tolist() == [[5, 7], [13, 15]]
    assert crops[1].tolist() == [[5, 5], [5, 5]]  # one cell, in every bin
    assert crops[2].tolist() == [[3, 0], [7, 0]]  # the right half is off the map


def test_the_first_of_equal_cells_takes_the_gradient():
    grad = jax.grad(lambda f: roi_pool(f, jnp.asarray([[0.0, 0, 2, 2]]), 1, 1).sum())(
        jnp.ones((3, 3, 1))
    )
    assert grad[..., 0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def some_boxes(rng, count, side):
    corners = rng.uniform(-8, side + 8, (count, 2, 2))
    return jnp.asarray(np.concatenate([corners.min(1), corners.max(1)], 1), jnp.float32)


def max_pool(features, boxes, valid_hw=None):
    return roi_pool(features, boxes, 16, 7, valid_hw)


def point_align(features, boxes, valid_hw=None):
    return roi_align(
        [features], boxes, POINTS, None if valid_hw is None else valid_hw[None]
    )


@pytest.mark.parametrize("function", (max_pool, point_align))
def test_cells_beyond_the_image_are_not_there(function, rng):
    features = rng.standard_normal((9, 11, 3)).astype(np.float32)
    boxes = some_boxes(rng, 20, 160)
    weight = jnp.asarray(rng.standard_normal((20, 7, 7, 3)), jnp.float32)

    def weighed(features, valid_hw=None):
        crops = function(jnp.asarray(features), boxes, valid_hw)
        return (crops * weight).sum(), crops

    canvas = np.full((16, 16, 3), 1e3, np.float32)
    canvas[:9, :11] = features
    both = jax.grad(weighed, has_aux=True)
    grad, crops = both(features)
    canvas_grad, canvas_crops = both(canvas, jnp.asarray([9.0, 11.0]))
    np.testing.assert_allclose(canvas_crops, crops, atol=1e-5)
    np.testing.assert_allclose(canvas_grad[:9, :11], grad, atol=1e-5)
    assert (canvas_grad[9:] == 0).all() and (canvas_grad[:, 11:] == 0).all()


@pytest.mark.parametrize("function", (max_pool, point_align))
def test_images_of_a_batch_do_not_touch(function, rng):
    features = jnp.asarray(rng.standard_normal((2, 9, 11, 3)), jnp.float32)
    boxes = jnp.stack([some_boxes(rng, 5, 160), some_boxes(rng, 5, 40)])
    both = jax.vmap(function)(features, boxes)
    for image in (0, 1):
        alone = function(features[image], boxes[image])
        np.testing.assert_allclose(both[image], alone, atol=1e-6)


def points_by_hand(features, box):
    """jwyang's formula, one point after the other; [7, 7, C]."""
    h, w = features.shape[:2]
    start, extent = box[:2] / 16, np.maximum((box[2:] - box[:2]) / 16 + 1, 0)
    points = np.zeros((8, 8, features.shape[2]))
    for i in range(8):
        for j in range(8):
            x, y = start + np.asarray([j, i]) * extent / 7
            if not (0 <= y < h and 0 <= x < w):
                continue
            top, left = min(int(y), h - 2), min(int(x), w - 2)
            dy, dx = y - top, x - left
            points[i, j] = (1 - dy) * (1 - dx) * features[top, left]
            points[i, j] += (1 - dy) * dx * features[top, left + 1]
            points[i, j] += dy * (1 - dx) * features[top + 1, left]
            points[i, j] += dy * dx * features[top + 1, left + 1]
    return (points[1:, 1:] + points[:-1, 1:] + points[1:, :-1] + points[:-1, :-1]) / 4


def test_point_align_equals_its_formula_with_gradient(rng):
    """The gradient by linearity: crops of the unit maps are the operator's matrix."""
    features = rng.standard_normal((6, 7, 2)).astype(np.float32)
    boxes = some_boxes(rng, 12, 100)
    crops, pull = jax.vjp(lambda f: point_align(f, boxes), jnp.asarray(features))
    by_hand = [points_by_hand(features, np.asarray(box, np.float64)) for box in boxes]
    np.testing.assert_allclose(crops, by_hand, atol=1e-4)
    weight = rng.standard_normal(crops.shape).astype(np.float32)
    units = np.eye(42, dtype=np.float32).reshape(6, 7, 42)
    matrix = np.asarray(point_align(jnp.asarray(units), boxes))
    expected = np.einsum("kijc,kijn->nc", weight, matrix).reshape(6, 7, 2)
    np.testing.assert_allclose(pull(jnp.asarray(weight))[0], expected, atol=1e-4)
