"""Box arithmetic: mmdetection's coder, cases on paper, properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops import boxes

CODERS = {"rpn": boxes.BoxCoder(), "rcnn": boxes.BoxCoder((0.1, 0.1, 0.2, 0.2))}
HW = jnp.asarray([256.0, 320.0])

# One program per shape, which is quicker than one per operation.
# This one has the peer's bits if it is fused, as users compile it.
fused = {"xla_cpu_use_fusion_emitters": True}
pairwise_iou = jax.jit(boxes.pairwise_iou, compiler_options=fused)
iou, giou = jax.jit(boxes.iou), jax.jit(boxes.giou)
encode = jax.jit(boxes.encode, static_argnums=2)
decode = jax.jit(boxes.decode, static_argnums=2)
clip = jax.jit(boxes.clip)


@pytest.fixture(scope="module")
def peer(golden):
    return np.load(golden / "mmdet" / "b_coder.npz")


def random_boxes(rng, *shape):
    xy, wh = rng.uniform(-20, 200, (*shape, 2)), rng.uniform(1, 90, (*shape, 2))
    return jnp.asarray(np.concatenate([xy, xy + wh], -1), jnp.float32)


def assert_near(ours, theirs, relative):
    """Largest difference against the largest value of the peer, or 1."""
    theirs = np.asarray(theirs, np.float64)
    assert np.shape(ours) == theirs.shape
    error = np.abs(np.asarray(ours, np.float64) - theirs).max()
    assert error <= relative * max(1.0, np.abs(theirs).max()), error


@pytest.mark.parametrize("name", CODERS)
def test_encode_equals_the_peer(name, peer):
    ours = encode(jnp.asarray(peer["gt"]), jnp.asarray(peer["src"]), CODERS[name])
    np.testing.assert_allclose(ours, peer[f"enc_{name}"], rtol=1e-6, atol=1e-6)


def decoder(name, clipped):
    def run(deltas, anchors):
        found = boxes.decode(deltas, anchors, CODERS[name])
        return boxes.clip(found, HW) if clipped else found

    return jax.jit(run)


@pytest.mark.parametrize("clipped", (False, True))
@pytest.mark.parametrize("name", CODERS)
def test_decode_and_its_gradient_equal_the_peer(name, clipped, peer):
    """The last six rows are extremes, among them the exact bound of the clamp."""
    case = f"dec_{name}_{'clip' if clipped else 'noclip'}"
    src, delta = jnp.asarray(peer["src"]), jnp.asarray(peer["delta"])
    ours, pull = jax.vjp(lambda delta: decoder(name, clipped)(delta, src), delta)
    ordinary = np.abs(peer[case]).max(1) < 1e4
    assert ordinary.sum() > 40
    np.testing.assert_allclose(ours[ordinary], peer[case][ordinary], atol=1e-4)
    np.testing.assert_allclose(ours, peer[case], rtol=1e-6, atol=1e-4)
    (grad,) = pull(jnp.asarray(peer[f"{case}_up"]))
    assert_rows_near(grad, peer[f"{case}_grad"])


def assert_rows_near(grad, theirs):
    """Gradients grow with the box: each row against its own largest value."""
    error = np.abs(np.asarray(grad) - theirs).max(-1)
    assert (error <= 1e-6 * np.maximum(np.abs(theirs).max(-1), 1)).all(), error.max()


def test_class_specific_decoding_equals_the_peer(peer):
    """Three classes share one RoI."""
    src = jnp.asarray(peer["src"])[:, None]
    delta = jnp.asarray(peer["multi"]).reshape(-1, 3, 4)
    run = decoder("rcnn", True)
    ours, pull = jax.vjp(lambda delta: run(delta, src), delta)
    theirs = peer["dec_rcnn_multi_clip"].reshape(-1, 3, 4)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    up = peer["dec_rcnn_multi_clip_up"].reshape(-1, 3, 4)
    theirs = peer["dec_rcnn_multi_clip_grad"].reshape(-1, 3, 4)
    assert_rows_near(pull(jnp.asarray(up))[0], theirs)


def test_iou_equals_the_peer_bit_for_bit(golden):
    peer = np.load(golden / "mmdet" / "c_assign.npz")
    a, b = jnp.asarray(peer["rcnn_prop_priors"]), jnp.asarray(peer["rcnn_prop_gt"])
    np.testing.assert_array_equal(pairwise_iou(a, b), peer["iou_prop_g1"])
    np.testing.assert_array_equal(boxes.pairwise_iou(a, b), peer["iou_prop_g1"])
    np.testing.assert_allclose(giou(a[:7], b), peer["giou_aligned"], atol=1e-6)


def test_overlap_on_paper():
    """Two 10 x 10 boxes that share half of each: 50 / 150."""
    a, b = jnp.asarray([[0.0, 0, 10, 10]]), jnp.asarray([[5.0, 0, 15, 10]])
    assert float(boxes.area(a)[0]) == 100
    assert float(boxes.intersection(a, b)[0]) == 50
    np.testing.assert_allclose(iou(a, b), [1 / 3], rtol=1e-6)
    np.testing.assert_allclose(pairwise_iou(a, b), [[1 / 3]], rtol=1e-6)
    np.testing.assert_allclose(giou(a, b), [1 / 3], rtol=1e-6)  # hull = union


def test_giou_of_boxes_apart():
    """Unit boxes one apart: union 2, hull 3, so 0 - 1 / 3."""
    a, b = jnp.asarray([0.0, 0, 1, 1]), jnp.asarray([2.0, 0, 3, 1])
    np.testing.assert_allclose(giou(a, b), -1 / 3, rtol=1e-6)
    assert float(iou(a, b)) == 0


def test_coding_on_paper():
    """Centre (5, 10) of 10 x 20 moves to (15, 20) of 20 x 20."""
    anchor, box = jnp.asarray([0.0, 0, 10, 20]), jnp.asarray([5.0, 10, 25, 30])
    deltas = encode(box, anchor, boxes.BoxCoder())
    np.testing.assert_allclose(deltas, [1, 0.5, np.log(2), 0], rtol=1e-6)
    narrow = encode(box, anchor, boxes.BoxCoder((0.5, 0.5, 0.1, 0.1)))
    np.testing.assert_allclose(narrow, [2, 1, 10 * np.log(2), 0], rtol=1e-6)


@pytest.mark.parametrize("name", CODERS)
def test_decode_undoes_encode(name, rng):
    gt, anchors = random_boxes(rng, 5, 40), random_boxes(rng, 5, 40)
    deltas = encode(gt, anchors, CODERS[name])
    np.testing.assert_allclose(decode(deltas, anchors, CODERS[name]), gt, atol=1e-3)
    # And the other way round, within the limit of the log sizes.
    deltas = jnp.asarray(rng.uniform(-3, 3, (5, 40, 4)), jnp.float32)
    again = encode(decode(deltas, anchors, CODERS[name]), anchors, CODERS[name])
    np.testing.assert_allclose(again, deltas, atol=1e-2)


def test_iou_is_symmetric_bounded_and_one_with_itself(rng):
    a, b = random_boxes(rng, 30), random_boxes(rng, 20)
    pairs = np.asarray(pairwise_iou(a, b))
    np.testing.assert_array_equal(pairs, np.asarray(pairwise_iou(b, a)).T)
    assert pairs.min() >= 0 and pairs.max() <= 1
    np.testing.assert_allclose(np.diag(pairwise_iou(a, a)), 1, rtol=1e-6)
    np.testing.assert_allclose(pairs.diagonal(), iou(a[:20], b), rtol=1e-6)
    general = np.asarray(giou(a[:20], b))
    assert (general <= pairs.diagonal() + 1e-6).all() and general.min() >= -1


def naive_iou(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union if union > 0 else 0.0


def test_iou_equals_a_naive_loop(rng):
    a, b = random_boxes(rng, 12), random_boxes(rng, 9)
    naive = [[naive_iou(x, y) for y in b.tolist()] for x in a.tolist()]
    np.testing.assert_allclose(pairwise_iou(a, b), naive, atol=1e-6)


def test_boxes_without_area_overlap_nothing_and_have_finite_gradients():
    point, line = [5.0, 5, 5, 5], [0.0, 5, 10, 5]
    rows = jnp.asarray([point, point, line, [0.0, 0, 10, 10]])
    np.testing.assert_array_equal(pairwise_iou(rows, rows)[:3], np.zeros((3, 4)))
    for function in (iou, giou):
        grad = jax.grad(lambda a, f=function: f(a, rows).sum())(rows[::-1])
        assert np.isfinite(np.asarray(grad)).all()


def test_unions_are_at_least_a_millionth():
    """A box of 1e-4 x 1e-4 covers 1e-8, and with itself 1e-8 / 1e-6."""
    speck = jnp.asarray([[0.0, 0, 1e-4, 1e-4]])
    np.testing.assert_allclose(pairwise_iou(speck, speck), [[0.01]], rtol=1e-5)
    np.testing.assert_allclose(iou(speck, speck), [0.01], rtol=1e-5)


def test_no_boxes():
    none, some = jnp.zeros((0, 4)), jnp.ones((3, 4))
    assert pairwise_iou(none, some).shape == (0, 3)
    assert pairwise_iou(some, none).shape == (3, 0)
    assert encode(none, none, boxes.BoxCoder()).shape == (0, 4)


def test_log_sizes_are_limited_and_centres_are_not():
    """exp(|ln(16 / 1000)|) = 62.5 at most; a 10 px box grows to 625."""
    anchor = jnp.asarray([0.0, 0, 10, 10])
    large = decode(jnp.asarray([0.0, 0, 99, 99]), anchor, boxes.BoxCoder())
    np.testing.assert_allclose(large, [-307.5, -307.5, 317.5, 317.5], rtol=1e-5)
    small = decode(jnp.asarray([0.0, 0, -99, -99]), anchor, boxes.BoxCoder())
    np.testing.assert_allclose(small, [4.92, 4.92, 5.08, 5.08], rtol=1e-5)
    far = decode(jnp.asarray([1e3, 0.0, 0, 0]), anchor, boxes.BoxCoder())
    np.testing.assert_allclose(far, [1e4, 0, 10010, 10], rtol=1e-6)


def test_decoding_is_float32_whatever_comes_in():
    deltas = jnp.asarray([[0.0, 0, 0, 0]], jnp.bfloat16)
    anchor = jnp.asarray([[1001.0, 1003, 1005, 1007]])  # not bfloat16 numbers
    found = decode(deltas, anchor, boxes.BoxCoder())
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, anchor, rtol=1e-6)


def test_deltas_that_overflow_bfloat16_give_finite_boxes_and_gradients():
    """Infinite and largest dw, dh: 62.5 times the side, and no gradient beyond."""
    largest = float(jnp.finfo(jnp.bfloat16).max)
    for size in (largest, np.inf, -np.inf):
        deltas = jnp.asarray([0.0, 0.0, size, size], jnp.bfloat16)
        anchor = jnp.asarray([0.0, 0, 10, 10], jnp.bfloat16)

        def total(deltas, anchor=anchor):
            return decode(deltas, anchor, boxes.BoxCoder()).sum()

        found = decode(deltas, anchor, boxes.BoxCoder())
        side = 625.0 if size > 0 else 0.16
        np.testing.assert_allclose(found[2:] - found[:2], [side, side], rtol=1e-5)
        grad = np.asarray(jax.grad(total)(deltas), np.float32)
        assert np.isfinite(grad).all() and (grad[2:] == 0).all()


def test_clip_is_inclusive_and_idempotent(rng):
    found = clip(jnp.asarray([[-5.0, -5, 400, 400], [3, 4, 320, 256]]), HW)
    assert found.tolist() == [[0, 0, 320, 256], [3, 4, 320, 256]]
    some = clip(random_boxes(rng, 50) * 3, HW)
    np.testing.assert_array_equal(clip(some, HW), some)


def test_clamp_passes_the_gradient_inside_and_on_the_bounds():
    """jnp.clip would give 0.5 on a bound; torch gives 1."""
    x = jnp.asarray([-2.0, -1, 0, 1, 2])
    grad = jax.grad(lambda x: boxes.clamp(x, -1.0, 1.0).sum())(x)
    assert grad.tolist() == [0, 1, 1, 1, 0]
    assert boxes.clamp(x, -1.0, 1.0).tolist() == [-1, -1, 0, 1, 1]


def test_sizes_are_limited_as_the_convention_says():
    """torchvision limits growth only, Caffe nothing."""
    anchor = jnp.asarray([0.0, 0, 10, 10])
    for convention, small, large in (
        ("mmdet", 0.16, 625.0),
        ("torchvision", 10 * np.exp(-5), 625.0),
        ("caffe", 10 * np.exp(-5) + 1, 10 * np.exp(5) + 1),
    ):
        coder = boxes.BoxCoder(convention=convention)
        for log_size, side in ((-5.0, small), (5.0, large)):
            found = decode(jnp.asarray([0.0, 0, log_size, log_size]), anchor, coder)
            np.testing.assert_allclose(found[2:] - found[:2], side, rtol=1e-4)


def test_caffe_boxes_are_inclusive_ones_plus_a_pixel():
    """Pixels 2..11 of a row are 2..12 here: encoding and overlap agree with Caffe."""
    anchor, box = jnp.asarray([2.0, 4, 12, 24]), jnp.asarray([4.0, 4, 24, 44])
    deltas = encode(box, anchor, boxes.BoxCoder(convention="caffe"))
    # Caffe: widths 10 and 20, centres 2 + 5 and 4 + 10.
    np.testing.assert_allclose(deltas, [0.7, 0.5, np.log(2), np.log(2)], rtol=1e-6)
    back = decode(deltas, anchor, boxes.BoxCoder(convention="caffe"))
    np.testing.assert_allclose(back, box + np.asarray([0, 0, 1, 1]), rtol=1e-5)


def test_clip_leaves_a_caffe_box_one_pixel():
    """Pixels 0..319 and 0..255 of a 256 x 320 image, at least one of them."""
    wild = jnp.asarray([[-5.0, -5, -4, 400], [500, 4, 600, 256]])
    found = boxes.clip(wild, HW, "caffe")
    assert found.tolist() == [[0, 0, 1, 256], [319, 4, 320, 256]]


def test_rescaling_multiplies_pixels_under_caffe():
    box, half = jnp.asarray([10.0, 20, 31, 41]), jnp.asarray([0.5, 0.1])
    found = boxes.rescale(box, half, "mmdet")
    np.testing.assert_allclose(found, [5, 2, 15.5, 4.1], rtol=1e-6)
    found = boxes.rescale(box, half, "caffe")
    np.testing.assert_allclose(found, [5, 2, 16, 5], rtol=1e-6)


def test_sides_that_are_long_enough():
    rows = jnp.asarray([[0.0, 0, 5, 0], [0, 0, 5, 0.5], [0, 0, 5, 5]])
    assert boxes.at_least(rows, 0.0).tolist() == [False, True, True]
    assert boxes.at_least(rows, 0.5).tolist() == [False, True, True]
    assert boxes.at_least(rows, 0.6).tolist() == [False, False, True]
