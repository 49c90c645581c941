"""RoIAlign: mmcv's crops and gradients, a naive loop, properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops import roi_align as module
from frcnn_jax.ops.roi_align import Pooling, assign_levels

STRIDES = (4, 8, 16, 32)


@pytest.fixture(scope="module")
def peer(golden):
    return np.load(golden / "mmdet" / "d_roialign.npz")


@functools.cache
def program(pooling, masked, backward):
    """Crops, and where asked for the features' gradient for an upstream gradient."""

    def run(features, boxes, valid_hw, up):
        def crop(maps):
            return module.roi_align(maps, boxes, pooling, valid_hw if masked else None)

        if not backward:
            return crop(features), ()
        crops, pull = jax.vjp(crop, features)
        return crops, pull(up)[0]

    return jax.jit(run)


def roi_align(features, boxes, pooling, up=None, valid_hw=None):
    features = tuple(jnp.asarray(f) for f in features)
    sizes = [f.shape[:2] for f in features] if valid_hw is None else valid_hw
    run = program(pooling, valid_hw is not None, up is not None)
    boxes, sizes = jnp.asarray(boxes, jnp.float32), jnp.asarray(sizes, jnp.float32)
    crops, grads = run(features, boxes, sizes, None if up is None else jnp.asarray(up))
    shape = (len(boxes), pooling.size, pooling.size, features[0].shape[-1])
    assert crops.shape == shape and crops.dtype == jnp.float32
    return np.asarray(crops), [np.asarray(g) for g in grads]


def nhwc(x):
    return np.moveaxis(x, -3, -1)


def assert_near(ours, theirs, relative=1e-5):
    error = np.abs(np.asarray(ours, np.float64) - theirs).max()
    assert error <= relative * np.abs(theirs).max(), error


@pytest.mark.parametrize("ratio", (0, 2))
@pytest.mark.parametrize("size", (7, 14))
def test_crops_and_gradients_equal_the_peer(size, ratio, peer):
    """RoIs outside, crossing the border, of size zero, tiny and huge."""
    pooling = Pooling(size, ratio, True, (4,))
    rois, up = peer["rois"], nhwc(peer[f"up_{size}_sr{ratio}"])
    for image in (0, 1):
        # All RoIs in both images, so that one program serves both.
        mine = rois[:, 0] == image
        feature = nhwc(peer["feat"][image])
        ours, (grad,) = roi_align(
            [feature], rois[:, 1:], pooling, up * mine[:, None, None, None]
        )
        theirs = nhwc(peer[f"out_{size}_sr{ratio}"])
        assert_near(ours[mine], theirs[mine])
        assert_near(grad, nhwc(peer[f"grad_{size}_sr{ratio}"][image]))


def test_crops_of_a_single_map_of_stride_16_equal_the_peer(peer):
    pooling = Pooling(14, 0, True, (16,))
    feature = nhwc(peer["c4_feat"][0])
    ours, _ = roi_align([feature], peer["c4_rois"][:, 1:], pooling)
    assert_near(ours, nhwc(peer["c4_out_14_sr0"]))


def test_level_choice_equals_the_peer(peer):
    for rois, theirs in (("lvl_rois", "lvl"), ("ms_rois", "ms_lvl")):
        ours = assign_levels(jnp.asarray(peer[rois][:, 1:]), 56.0, 4)
        assert np.asarray(ours).tolist() == peer[theirs].tolist()


def test_crops_of_a_pyramid_equal_the_peer(peer):
    pooling = Pooling(7, 0, True, STRIDES)
    rois = peer["ms_rois"]
    for image in (0, 1):
        features = [nhwc(peer[f"ms_feat_{i}"][image]) for i in range(4)]
        ours, _ = roi_align(features, rois[:, 1:], pooling)
        mine = rois[:, 0] == image
        assert_near(ours[mine], nhwc(peer["ms_out"])[mine])


def test_gradients_of_a_pyramid_reach_the_level_of_each_roi(peer, rng):
    """Equal to the gradient of each level's own RoIs, one map at a time."""
    features = [nhwc(peer[f"ms_feat_{i}"][0]) for i in range(4)]
    xy, side = rng.uniform(-50, 150, (24, 2)), np.repeat([40.0, 160, 300, 600], 6)
    boxes = np.concatenate([xy, xy + side[:, None]], 1)
    up = rng.standard_normal((24, 7, 7, 3)).astype(np.float32)
    crops, grads = roi_align(features, boxes, Pooling(7, 0, True, STRIDES), up)
    for level, stride in enumerate(STRIDES):
        mine = slice(6 * level, 6 * level + 6)
        single, grad = naive_roi_align(
            features[level], boxes[mine], Pooling(7, 0, True, (stride,)), up[mine]
        )
        assert_near(crops[mine], single)
        assert_near(grads[level], grad)


def test_levels_on_paper():
    """Scale 56: a side of 112 goes to level 1, 224 to 2; just below stays below."""
    sides = jnp.asarray([0.0, 1, 111, 112, 223, 224, 448, 5000])
    boxes = jnp.stack([sides * 0, sides * 0, sides, sides], -1)
    levels = np.asarray(assign_levels(boxes, 56.0, 4))
    assert levels.tolist() == [0, 0, 0, 1, 1, 2, 3, 3]
    assert np.asarray(assign_levels(boxes, 56.0, 2)).max() == 1
    # Only the area counts: 56 x 224 is as large as 112 x 112.
    assert int(assign_levels(jnp.asarray([[0.0, 0, 56, 224]]), 56.0, 4)[0]) == 1


def naive_weights(low, high, cells, pooling):
    """[bins, cells] of one axis: the samples of each bin, one after another."""
    f32 = np.float32
    shift = f32(0.5) if pooling.aligned else f32(0)
    scale = f32(1 / pooling.strides[0])
    start = f32(low) * scale - shift
    side = f32(high) * scale - shift - start
    if not pooling.aligned:
        side = max(side, f32(1))
    side = f32(side / f32(pooling.size))
    samples = pooling.sampling_ratio or max(int(np.ceil(side)), 0)
    weights = np.zeros((pooling.size, cells))
    for i in range(pooling.size):
        for t in range(samples):
            at = f32(start + f32(i) * side + (f32(t) + f32(0.5)) * side / f32(samples))
            if at < -1 or at > cells:
                continue
            at = min(max(at, f32(0)), f32(cells - 1))
            left = int(at)
            weights[i, left] += 1 - (at - left)
            weights[i, min(left + 1, cells - 1)] += at - left
    return weights / max(samples, 1)


def naive_roi_align(feature, boxes, pooling, up=None):
    """Crops in float64, and the gradient of the map."""
    h, w, c = feature.shape
    crops = np.zeros((len(boxes), pooling.size, pooling.size, c))
    grad = np.zeros(feature.shape)
    for k, (x1, y1, x2, y2) in enumerate(np.asarray(boxes, np.float32)):
        rows = naive_weights(y1, y2, h, pooling)
        columns = naive_weights(x1, x2, w, pooling)
        crops[k] = np.einsum("ih,jw,hwc->ijc", rows, columns, feature)
        if up is not None:
            grad += np.einsum("ih,jw,ijc->hwc", rows, columns, up[k])
    return crops, grad


def assert_equals_naive(feature, boxes, pooling, rng):
    shape = (len(boxes), pooling.size, pooling.size, feature.shape[-1])
    up = rng.standard_normal(shape).astype(np.float32)
    ours, (grad,) = roi_align([feature], boxes, pooling, up)
    theirs, their_grad = naive_roi_align(feature, boxes, pooling, up)
    assert_near(ours, theirs)
    assert_near(grad, their_grad)


ODD_BOXES = (
    (8.0, 4, 60, 44),
    (10.3, 11.7, 30.9, 18.2),
    (-30, -20, 20, 25),  # crosses the border
    (70, 50, 130, 110),
    (300, 300, 350, 340),  # outside
    (-90, -90, -40, -50),
    (20, 20, 20, 20),  # size zero
    (20, 20, 20.5, 20.25),
    (0, 0, 88, 64),  # the whole map
    (-200, -200, 300, 300),
    (3, 0, 4, 64),  # thin
)


@pytest.mark.parametrize("ratio", (0, 2))
@pytest.mark.parametrize("aligned", (True, False))
def test_equals_a_naive_loop(aligned, ratio, rng):
    """Without the half-pixel shift RoIs are at least one cell wide (torchvision)."""
    feature = rng.standard_normal((16, 22, 3)).astype(np.float32)
    assert_equals_naive(feature, ODD_BOXES, Pooling(7, ratio, aligned, (4,)), rng)


@pytest.mark.parametrize("ratio", (0, 2))
def test_windows_of_several_pieces(ratio, rng):
    """A RoI over all 3600 cells next to small ones, and more RoIs than one chunk."""
    feature = rng.standard_normal((50, 72, 2)).astype(np.float32)
    assert 50 * 72 > 3 * module.WINDOW
    xy, wh = rng.uniform(-20, 250, (module.CHUNK + 6, 2)), rng.uniform(1, 60, (70, 2))
    boxes = np.concatenate([xy, xy + wh], 1)
    boxes[3] = 0, 0, 288, 200
    boxes[-1] = 10, -300, 270, 500
    assert_equals_naive(feature, boxes, Pooling(7, ratio, True, (4,)), rng)


@pytest.mark.parametrize(
    ("maps", "rois", "ups"), [(0, 0, 0), (0, None, 0), (None, 0, 0), (None, 0, None)]
)
def test_images_together_are_as_each_alone(maps, rois, ups, rng):
    """RoIs of a batch share their chunks, also where not all is each image's own."""
    features = rng.standard_normal((3, 50, 72, 2)).astype(np.float32)
    xy, wh = rng.uniform(-20, 250, (3, 40, 2)), rng.uniform(1, 90, (3, 40, 2))
    boxes = np.concatenate([xy, xy + wh], -1).astype(np.float32)
    up = rng.standard_normal((3, 40, 7, 7, 2)).astype(np.float32)
    axes = maps, rois, ups
    given = [
        x if axis == 0 else x[0]
        for x, axis in zip((features, boxes, up), axes, strict=True)
    ]

    def crop_and_pull(feature, box, up):
        def crop(feature):
            return module.roi_align([feature], box, Pooling(7, 0, True, (4,)))

        crops, pull = jax.vjp(crop, feature)
        return crops, pull(up)[0]

    together = jax.jit(jax.vmap(crop_and_pull, axes))(*given)
    one = jax.jit(crop_and_pull)
    alone = [
        one(*(x[i] if a == 0 else x for x, a in zip(given, axes, strict=True)))
        for i in range(3)
    ]
    for found, expected in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(found, np.stack(expected), rtol=1e-5, atol=1e-5)


def test_sides_that_are_whole_numbers_of_samples(rng):
    """7 n cells in 7 bins take n samples, not n + 1: no error in the division."""
    feature = rng.standard_normal((16, 180, 1)).astype(np.float32)
    boxes = [(0.5, 0.5, 7 * n + 0.5, 7.5) for n in range(1, 26)]
    assert_equals_naive(feature, boxes, Pooling(7, 0, True, (1,)), rng)


def test_a_ramp_gives_the_centres_of_the_bins():
    """A map whose value is its own x gives x of each bin, minus half a cell."""
    y, x = np.mgrid[:20, :30].astype(np.float32)
    feature = np.stack([y, x, np.ones_like(x)], -1)
    # 28 x 14 pixels from (16, 20), stride 2: 14 x 7 cells from (8, 10).
    crops, _ = roi_align([feature], [(16, 20, 44, 34)], Pooling(7, 0, True, (2,)))
    bins = np.arange(7) + 0.5
    np.testing.assert_allclose(crops[0, :, 0, 0], 10 - 0.5 + bins, rtol=1e-6)
    np.testing.assert_allclose(crops[0, 0, :, 1], 8 - 0.5 + 2 * bins, rtol=1e-6)
    np.testing.assert_allclose(crops[..., 2], 1, rtol=1e-6)


def test_crops_are_linear_in_the_features(rng):
    pooling = Pooling(7, 0, True, (4,))
    a, b = rng.standard_normal((2, 16, 22, 3)).astype(np.float32)
    crops = [roi_align([f], ODD_BOXES, pooling)[0] for f in (a, b, 2 * a - b)]
    np.testing.assert_allclose(2 * crops[0] - crops[1], crops[2], atol=1e-5)


def test_order_of_the_boxes_does_not_matter(rng):
    pooling = Pooling(7, 0, True, (4,))
    feature = rng.standard_normal((16, 22, 3)).astype(np.float32)
    order = rng.permutation(len(ODD_BOXES))
    crops, _ = roi_align([feature], ODD_BOXES, pooling)
    shuffled, _ = roi_align([feature], np.asarray(ODD_BOXES)[order], pooling)
    np.testing.assert_allclose(shuffled, crops[order], atol=1e-6)


@pytest.mark.parametrize("canvas", ((16, 22), (24, 40)))
def test_the_rest_of_a_canvas_is_not_there(canvas, rng):
    """Cells beyond the image may hold anything: crops and gradients do not see them."""
    feature = rng.standard_normal((12, 15, 3)).astype(np.float32)
    padded = np.full((*canvas, 3), np.nan, np.float32)
    padded[:12, :15] = feature
    pooling = Pooling(7, 0, True, (4,))
    up = rng.standard_normal((len(ODD_BOXES), 7, 7, 3)).astype(np.float32)
    crops, (grad,) = roi_align([padded], ODD_BOXES, pooling, up, [(12, 15)])
    tight, (tight_grad,) = roi_align([feature], ODD_BOXES, pooling, up)
    np.testing.assert_allclose(crops, tight, atol=1e-6)
    np.testing.assert_allclose(grad[:12, :15], tight_grad, atol=1e-5)
    assert not grad[12:].any() and not grad[:, 15:].any()


def test_bfloat16_features_give_float32_crops(rng):
    pooling = Pooling(7, 0, True, (4,))
    feature = rng.standard_normal((16, 22, 3)).astype(jnp.bfloat16)
    up = np.ones((len(ODD_BOXES), 7, 7, 3), np.float32)
    crops, (grad,) = roi_align([feature], ODD_BOXES, pooling, up)
    naive, _ = naive_roi_align(feature.astype(np.float64), ODD_BOXES, pooling)
    assert_near(crops, naive)  # only the features are rounded, not the sums
    assert grad.dtype == jnp.bfloat16


def test_mapping_over_images_changes_nothing(rng):
    """Images whose RoIs need different numbers of pieces; none for the last one."""
    pooling = Pooling(7, 0, True, (4,))
    features = rng.standard_normal((3, 40, 40, 2)).astype(np.float32)
    boxes = np.float32(
        [
            [(0, 0, 160, 160), (5, 5, 20, 30)],
            [(10, 20, 30, 40), (90, 90, 120, 130)],
            [(0, 0, 0, 0), (0, 0, 0, 0)],
        ]
    )
    up = jnp.asarray(rng.standard_normal((3, 2, 7, 7, 2)), jnp.float32)

    @jax.jit
    def run(features):
        one = jax.vmap(lambda f, b: module.roi_align([f], b, pooling))
        crops, pull = jax.vjp(lambda f: one(f, jnp.asarray(boxes)), features)
        return crops, pull(up)[0]

    crops, grads = run(jnp.asarray(features))
    for i in range(3):
        one, (grad,) = roi_align([features[i]], boxes[i], pooling, up[i])
        np.testing.assert_allclose(crops[i], one, atol=1e-6)
        np.testing.assert_allclose(grads[i], grad, atol=1e-6)
    assert not np.asarray(crops[2]).any()


def test_no_gradient_reaches_the_boxes(rng):
    feature = jnp.asarray(rng.standard_normal((16, 22, 3)), jnp.float32)
    boxes, pooling = jnp.asarray(ODD_BOXES), Pooling(7, 0, True, (4,))
    grad = jax.jit(jax.grad(lambda b: module.roi_align([feature], b, pooling).sum()))(
        boxes
    )
    assert not np.asarray(grad).any()
