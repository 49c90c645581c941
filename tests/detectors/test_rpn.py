"""Proposals and RPN targets of one image: naive loops, paper cases, recorded sums."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.detectors import rpn
from frcnn_jax.ops import boxes as box_ops
from frcnn_jax.ops import sampling
from frcnn_jax.ops.anchors import AnchorSpec

# Two levels over a canvas of 64 x 96 pixels: 288 and 72 anchors.
SPEC = AnchorSpec(((16.0,), (32.0,)), (0.5, 1.0, 2.0), (8, 16))
SIZES = ((8, 12), (4, 6))
GRID = rpn.grid(SPEC, SIZES, "padded32")
ANCHORS = np.concatenate(GRID.boxes)


def test_a_grid_has_one_cell_per_anchor():
    assert [b.shape for b in GRID.boxes] == [(288, 4), (72, 4)]
    assert [c.shape for c in GRID.cells] == [(288, 2), (72, 2)]
    centres = (GRID.boxes[1][:, :2] + GRID.boxes[1][:, 2:]) / 2
    np.testing.assert_allclose(centres, GRID.cells[1][:, ::-1] * 16, atol=1e-5)


def test_existing_anchors_equal_the_peers_flags(golden):
    """A 150 x 300 image in the batch of 256 x 320."""
    peer = np.load(golden / "mmdet" / "a_anchors.npz")
    sizes = tuple((float(s),) for s in (32, 64, 128, 256, 512))
    spec = AnchorSpec(sizes, (0.5, 1.0, 2.0), (4, 8, 16, 32, 64))
    grid = rpn.grid(spec, [tuple(map(int, hw)) for hw in peer["fpn_sizes"]], "padded32")
    for i, exist in enumerate(rpn.anchors_exist(grid, jnp.asarray([150.0, 300.0]))):
        np.testing.assert_array_equal(exist, peer[f"fpn_valid_{i}"])


@functools.cache
def proposer(pre_nms, post_nms, nms_iou):
    section = config.RPN(pre_nms_test=pre_nms, post_nms_test=post_nms, nms_iou=nms_iou)

    def run(logits, deltas, exist, image_hw):
        anchors = rpn.anchors_of(GRID, image_hw)
        return rpn.propose(
            logits, deltas, exist, anchors, image_hw, section, "mmdet", train=False
        )

    return jax.jit(run)


def propose(logits, deltas, hw=(64, 96), exist=None, *, pre=50, post=40, iou=0.7):
    hw = jnp.asarray(hw, jnp.float32)
    exist = rpn.anchors_exist(GRID, hw) if exist is None else exist
    found = proposer(pre, post, iou)(
        [jnp.asarray(x, jnp.float32) for x in logits],
        [jnp.asarray(x, jnp.float32) for x in deltas],
        [jnp.asarray(x) for x in exist],
        hw,
    )
    return jax.tree.map(np.asarray, found)


def random_maps(rng):
    """Distinct logits and moderate deltas for both levels."""
    logits = np.split(rng.permutation(360) / 60 - 3, [288])
    return logits, np.split(0.5 * rng.standard_normal((360, 4)), [288])


def naive_decode(delta, anchor):
    w, h = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x = (anchor[0] + anchor[2]) / 2 + delta[0] * w
    y = (anchor[1] + anchor[3]) / 2 + delta[1] * h
    w, h = w * np.exp(delta[2]), h * np.exp(delta[3])
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def naive_overlap(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union


def naive_propose(logits, deltas, exist, hw, *, pre, post, iou):
    """The rules, one box after another."""
    found = []
    for level in range(2):
        order = [n for n in np.argsort(-logits[level]) if exist[level][n]][:pre]
        kept = []
        for n in order:
            box = naive_decode(deltas[level][n], GRID.boxes[level][n])
            box = np.clip(box, 0, [hw[1], hw[0]] * 2)
            if box[2] <= box[0] or box[3] <= box[1]:
                continue
            if all(naive_overlap(box, other) <= iou for _, other in kept):
                kept.append((1 / (1 + np.exp(-logits[level][n])), box))
        found += kept
    found.sort(key=lambda entry: -entry[0])
    return found[:post]


@pytest.mark.parametrize("hw", ((64, 96), (50, 60), (20, 33)))
@pytest.mark.parametrize(("pre", "post"), ((50, 40), (1000, 400)))
def test_equals_naive_loops(hw, pre, post, rng):
    logits, deltas = random_maps(rng)
    exist = [np.asarray(e) for e in rpn.anchors_exist(GRID, jnp.asarray(hw, float))]
    found = propose(logits, deltas, hw, pre=pre, post=post)
    naive = naive_propose(logits, deltas, exist, hw, pre=pre, post=post, iou=0.7)
    count = found.valid.sum()
    assert count == len(naive) > 10
    assert found.valid[:count].all()
    scores, boxes = zip(*naive, strict=True)
    np.testing.assert_allclose(found.scores[:count], scores, rtol=1e-5)
    np.testing.assert_allclose(found.boxes[:count], boxes, atol=1e-3)
    assert not found.boxes[count:].any() and not found.scores[count:].any()


def test_levels_do_not_suppress_each_other():
    """The same box from both levels stays twice; twice from one level, once."""
    logits = [np.full(288, -9.0), np.full(72, -9.0)]
    square = [(3 * 12 + 4) * 3 + 1, (1 * 6 + 2) * 3 + 1]  # both at pixel (32, 24 | 16)
    deltas = [np.zeros((288, 4)), np.zeros((72, 4))]
    deltas[0][square[0]] = 0, -0.5, np.log(2), np.log(2)
    logits[0][square[0]], logits[1][square[1]] = 3.0, 2.0
    neighbour = square[1] + 3
    deltas[1][neighbour] = -0.5, 0, 0, 0
    logits[1][neighbour] = 1.0
    found = propose(logits, deltas)
    np.testing.assert_allclose(found.boxes[:2], [[16, 0, 48, 32]] * 2, atol=1e-4)
    sigmoid = 1 / (1 + np.exp([-3.0, -2.0]))
    np.testing.assert_allclose(found.scores[:2], sigmoid, rtol=1e-5)
    assert found.scores[2] < 0.01  # the neighbour fell to the box it equals


def test_boxes_without_area_in_the_image_are_dropped():
    """Everything moves far to the right of the image."""
    logits, deltas = random_maps(np.random.default_rng(0))
    deltas = [np.tile([50.0, 0, 0, 0], (len(d), 1)) for d in deltas]
    found = propose(logits, deltas)
    assert not found.valid.any() and not found.boxes.any()


def test_without_anchors_there_are_no_proposals(rng):
    exist = [np.zeros(288, bool), np.zeros(72, bool)]
    found = propose(*random_maps(rng), exist=exist)
    assert not found.valid.any() and not found.scores.any()


def test_anchors_beyond_the_image_may_hold_anything(rng):
    logits, deltas = random_maps(rng)
    plain = propose(logits, deltas, (20, 33))
    exist = rpn.anchors_exist(GRID, jnp.asarray([20.0, 33.0]))
    for garbage in (1e30, -1e30, np.nan):
        wild = [np.where(e, x, garbage) for e, x in zip(exist, logits, strict=True)]
        boxes = [
            np.where(np.asarray(e)[:, None], d, garbage)
            for e, d in zip(exist, deltas, strict=True)
        ]
        jax.tree.map(
            np.testing.assert_array_equal, propose(wild, boxes, (20, 33)), plain
        )


def test_more_slots_than_anchors(rng):
    found = propose(*random_maps(rng), pre=1000, post=2000, iou=1.0)
    assert found.boxes.shape == (576, 4)  # the larger level twice
    assert 300 < found.valid.sum() <= 360
    assert (np.diff(found.scores[found.valid]) <= 0).all()


def test_no_gradient_flows_back(rng):
    logits, deltas = (tuple(map(jnp.asarray, part)) for part in random_maps(rng))
    exist = [jnp.ones(288, bool), jnp.ones(72, bool)]

    def total(logits, deltas):
        found = proposer(50, 40, 0.7)(logits, deltas, exist, jnp.asarray([64.0, 96]))
        return found.boxes.sum() + found.scores.sum()

    to_f32 = functools.partial(jax.tree.map, lambda x: x.astype(jnp.float32))
    grads = jax.grad(total, (0, 1))(to_f32(logits), to_f32(deltas))
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(grads))


@functools.cache
def target_maker(samples):
    section = config.RPN(samples=samples)

    def run(exist, gt_boxes, gt_valid, priority):
        return rpn.targets(
            jnp.asarray(ANCHORS), exist, gt_boxes, gt_valid, priority, section
        )

    return jax.jit(run)


def targets(gt, *, hw=(64, 96), rows=4, garbage=0.0, samples=40, key=None):
    exist = jnp.concatenate(rpn.anchors_exist(GRID, jnp.asarray(hw, jnp.float32)))
    boxes = np.full((rows, 4), garbage, np.float32)
    boxes[: len(gt)] = np.reshape(gt, (-1, 4))
    if key is None:
        priority = sampling.first_priority(jax.random.key(0), len(ANCHORS))
    else:
        priority = sampling.random_priority(key, len(ANCHORS))
    valid = jnp.arange(rows) < len(gt)
    found = target_maker(samples)(exist, jnp.asarray(boxes), valid, priority)
    return jax.tree.map(np.asarray, found)


def test_an_anchor_on_its_ground_truth_is_positive():
    """Level 0, cell (3, 4), square: the 16 x 16 anchor around pixel (32, 24)."""
    anchor = (3 * 12 + 4) * 3 + 1
    found = targets([ANCHORS[anchor]])
    assert ANCHORS[anchor].tolist() == [24, 16, 40, 32]
    assert found.index[found.positive].tolist() == [anchor]
    assert found.gt_boxes[0].tolist() == ANCHORS[anchor].tolist()
    assert found.valid.all() and len(found.index) == 40


def test_only_anchors_of_the_image_are_sampled(rng):
    exist = np.concatenate(rpn.anchors_exist(GRID, jnp.asarray([20.0, 33.0])))
    gt = [[2, 2, 18, 18], [60, 30, 90, 60]]  # the second lies outside
    for seed in range(5):
        found = targets(gt, hw=(20, 33), key=jax.random.key(seed))
        assert exist[found.index[found.valid]].all()


def test_without_ground_truth_negatives_fill_all_slots():
    found = targets([])
    assert found.valid.all() and not found.positive.any()


@pytest.mark.parametrize("garbage", (np.nan, 1e30, -3.0))
def test_empty_ground_truth_rows_may_hold_anything(garbage):
    gt = [[24.0, 16, 40, 32], [50, 10, 90, 50]]
    plain, wild = targets(gt), targets(gt, garbage=garbage)
    for name in ("index", "valid", "positive"):
        np.testing.assert_array_equal(getattr(wild, name), getattr(plain, name))
    positive = plain.positive
    np.testing.assert_array_equal(wild.gt_boxes[positive], plain.gt_boxes[positive])


loss_and_grad = jax.jit(
    jax.value_and_grad(
        lambda logits, deltas, targets: (
            lambda cls, box, count: (cls + box, (cls, box, count))
        )(*rpn.loss(logits, deltas, jnp.asarray(ANCHORS), targets, config.RPN())),
        (0, 1),
        has_aux=True,
    )
)


def test_sums_and_gradients_equal_the_peer(golden):
    """120 recorded rows; there label 0 is the object, and 77 divides both sums."""
    peer = np.load(golden / "mmdet" / "f_losses.npz")
    coder = box_ops.BoxCoder()
    rows = jnp.asarray(np.random.default_rng(0).permutation(len(ANCHORS))[:120])
    anchors = jnp.asarray(ANCHORS)[rows]
    gt_boxes = box_ops.decode(jnp.asarray(peer["rpn_box_target"]), anchors, coder)
    logits = jnp.zeros(360).at[rows].set(peer["rpn_cls_logit"][:, 0])
    deltas = jnp.zeros((360, 4)).at[rows].set(peer["rpn_box_pred"])
    # Recorded with unrelated weights for both losses, hence one after the other.
    objectness = rpn.RPNTargets(
        rows,
        jnp.asarray(peer["rpn_cls_weight"] > 0),
        jnp.asarray((peer["rpn_cls_label"] == 0) & (peer["rpn_cls_weight"] > 0)),
        gt_boxes,
    )
    (_, (ours, _, count)), (grad, _) = loss_and_grad(logits, deltas, objectness)
    np.testing.assert_allclose(ours / 77, peer["rpn_cls_loss"], rtol=1e-5)
    theirs = peer["rpn_cls_grad"][:, 0]
    np.testing.assert_allclose(grad[rows] / 77, theirs, rtol=1e-5, atol=1e-7)
    assert float(count) == (peer["rpn_cls_weight"] > 0).sum()
    positive = jnp.asarray(peer["rpn_box_weight"][:, 0] > 0)
    box = rpn.RPNTargets(rows, positive, positive, gt_boxes)
    (_, (_, ours, _)), (_, grad) = loss_and_grad(logits, deltas, box)
    np.testing.assert_allclose(ours / 77, peer["rpn_box_loss"], rtol=1e-5)
    np.testing.assert_allclose(grad[rows] / 77, peer["rpn_box_grad"], atol=1e-7)


@pytest.mark.parametrize(
    ("positives", "negatives", "count"),
    [(2, 3, 5), (0, 4, 5), (4, 0, 5), (0, 0, 2)],
)
def test_the_count_is_at_least_one_of_each(positives, negatives, count):
    slots = jnp.arange(8)
    gt = jnp.tile(jnp.asarray([1.0, 2, 30, 40]), (8, 1))
    drawn = rpn.RPNTargets(slots, slots < positives + negatives, slots < positives, gt)
    (_, (cls, box, found)), grads = loss_and_grad(
        jnp.zeros(360), jnp.zeros((360, 4)), drawn
    )
    assert float(found) == count
    np.testing.assert_allclose(cls, (positives + negatives) * np.log(2), rtol=1e-5)
    assert (float(box) > 0) == (positives > 0)
    assert all(np.isfinite(np.asarray(g)).all() for g in grads)


@pytest.mark.parametrize("garbage", (np.nan, 1e30))
def test_empty_slots_and_their_ground_truth_may_hold_anything(garbage, rng):
    """Bit for bit: slots that are not positive have no ground truth."""
    logits = jnp.asarray(rng.standard_normal(360), jnp.float32)
    deltas = jnp.asarray(rng.standard_normal((360, 4)), jnp.float32)
    slots = jnp.arange(8)
    plain = jnp.tile(jnp.asarray([1.0, 2, 30, 40]), (8, 1))
    wild = jnp.where(slots[:, None] < 2, plain, garbage)
    results = [
        loss_and_grad(logits, deltas, rpn.RPNTargets(slots, slots < 6, slots < 2, gt))
        for gt in (plain, wild)
    ]
    jax.tree.map(np.testing.assert_array_equal, *results)
