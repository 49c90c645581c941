"""The second stage of one image: recorded losses, naive loops, cases on paper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.detectors import roi
from frcnn_jax.ops import sampling
from frcnn_jax.types import Proposals, RoISamples

PEER_LOSSES = {"l1": "l1", "iou": "iou", "giou": "giou", "bounded_iou": "biou"}
NAMES = ("cls", "box", "rois", "correct")


@functools.cache
def loss_program(box_loss):
    """The four sums, and gradients of the two losses over their own divisors."""
    weight = 1.0 if box_loss == "l1" else 10.0
    section = config.RoI(box_loss=box_loss, box_loss_weight=weight)

    def run(logits, deltas, samples, divisors):
        def total(logits, deltas):
            sums = roi.loss(logits, deltas, samples, section, "mmdet")
            return sums[0] / divisors[0] + sums[1] / divisors[1], sums

        grad = jax.value_and_grad(total, (0, 1), has_aux=True)
        (_, sums), grads = grad(logits, deltas)
        return dict(zip(NAMES, sums, strict=True)), grads

    return jax.jit(run)


@pytest.fixture(scope="module")
def peer(golden):
    return np.load(golden / "mmdet" / "f_losses.npz")


def recorded(peer, labels=None, valid=None):
    """Inputs in our order: the background is class 0 here and the last one there."""
    labels = peer["labels"] if labels is None else labels
    valid = peer["label_weights"] > 0 if valid is None else valid
    samples = RoISamples(
        jnp.asarray(peer["rois"][:, 1:]),
        jnp.asarray((labels + 1) % 4, jnp.int32),
        jnp.arange(40, dtype=jnp.int32),
        jnp.asarray(peer["gt_boxes"]),
        jnp.asarray(valid),
    )
    logits = jnp.asarray(np.roll(peer["cls_logit"], 1, axis=1))
    return logits, jnp.asarray(peer["bbox_pred"].reshape(40, 3, 4)), samples


@pytest.mark.parametrize("name", PEER_LOSSES)
def test_losses_and_gradients_equal_the_peer(name, peer):
    """36 of the 40 RoIs have a weight; the peer divides the box loss by all 40."""
    prefix = PEER_LOSSES[name]
    divisors = jnp.asarray([36.0, 40.0])
    sums, (cls_grad, box_grad) = loss_program(name)(*recorded(peer), divisors)
    assert float(sums["rois"]) == 36
    np.testing.assert_allclose(sums["cls"] / 36, peer[f"{prefix}_loss_cls"], rtol=1e-5)
    np.testing.assert_allclose(sums["box"] / 40, peer[f"{prefix}_loss_bbox"], rtol=1e-5)
    theirs = np.roll(peer[f"{prefix}_grad_cls"], 1, axis=1)
    np.testing.assert_allclose(cls_grad, theirs, rtol=1e-5, atol=1e-7)
    theirs = peer[f"{prefix}_grad_bbox"].reshape(40, 3, 4)
    scale = np.maximum(np.abs(theirs).max(-1, keepdims=True), 1e-3)
    np.testing.assert_allclose(box_grad / scale, theirs / scale, atol=1e-5)


def test_accuracy_equals_the_peer(peer):
    inputs = recorded(peer, valid=np.ones(40, bool))
    sums, _ = loss_program("l1")(*inputs, jnp.ones(2))
    np.testing.assert_allclose(100 * sums["correct"] / 40, peer["l1_acc"][0], rtol=1e-6)


def test_without_positives_there_is_no_box_loss(peer):
    inputs = recorded(peer, labels=np.full(40, 3), valid=np.ones(40, bool))
    sums, (_, box_grad) = loss_program("iou")(*inputs, jnp.ones(2))
    np.testing.assert_allclose(sums["cls"] / 40, peer["nopos_loss_cls"], rtol=1e-5)
    assert float(sums["box"]) == 0 == peer["nopos_loss_bbox"]
    assert not np.asarray(box_grad).any()


@pytest.mark.parametrize("name", PEER_LOSSES)
@pytest.mark.parametrize("garbage", (np.nan, 1e30))
def test_empty_rows_may_hold_anything(name, garbage, peer):
    """Bit for bit, gradients too; boxes, ground truth and labels of invalid rows."""
    logits, deltas, samples = recorded(peer)
    valid = samples.valid[:, None]
    wild = RoISamples(
        jnp.where(valid, samples.boxes, garbage),
        jnp.where(samples.valid, samples.labels, 2),
        jnp.where(samples.valid, samples.gt_index, 10**6),
        jnp.where(valid & (samples.labels > 0)[:, None], samples.gt_boxes, garbage),
        samples.valid,
    )
    run = loss_program(name)
    results = [run(logits, deltas, s, jnp.ones(2)) for s in (samples, wild)]
    jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.parametrize("name", PEER_LOSSES)
def test_no_rois_at_all(name, peer):
    inputs = recorded(peer, valid=np.zeros(40, bool))
    sums, grads = loss_program(name)(*inputs, jnp.ones(2))
    assert all(float(value) == 0 for value in sums.values())
    assert not any(np.asarray(g).any() for g in grads)


@functools.cache
def sampler(samples, fraction):
    section = config.RoI(samples=samples, positive_fraction=fraction)
    return jax.jit(lambda *inputs: roi.sample(*inputs, section))


def sample(proposals, gt, *, valid=None, gt_valid=None, count=8, fraction=0.5):
    """Labels of the ground truth are 1, 2, .. in their order."""
    proposals, gt = np.float32(proposals), np.float32(gt).reshape(-1, 4)
    k, g = len(proposals), len(gt)
    found = sampler(count, fraction)(
        Proposals(
            jnp.asarray(proposals),
            jnp.ones(k),
            jnp.asarray(np.ones(k, bool) if valid is None else valid),
        ),
        jnp.asarray(gt),
        jnp.arange(1, g + 1, dtype=jnp.int32),
        jnp.asarray(np.ones(g, bool) if gt_valid is None else gt_valid),
        sampling.first_priority(jax.random.key(0), k + g),
    )
    return jax.tree.map(np.asarray, found)


GT = [[0, 0, 10, 10], [20, 20, 40, 40]]
NEAR = [[20, 20, 40, 36], [0, 0, 10, 5], [0, 0, 10, 4], [80, 80, 90, 90]]


def test_samples_on_paper():
    """Ground truth first; IoU .8 and .5 are positive, .4 and 0 are background."""
    found = sample(NEAR, GT)
    expected = [*GT, NEAR[0], NEAR[1], NEAR[2], NEAR[3]]
    assert found.boxes[:6].tolist() == expected
    assert found.labels.tolist()[:6] == [1, 2, 2, 1, 0, 0]
    assert found.gt_index[:4].tolist() == [0, 1, 1, 0]
    assert found.gt_boxes[:4].tolist() == [GT[0], GT[1], GT[1], GT[0]]
    # Six candidates give six slots of the eight asked for.
    assert found.valid.tolist() == [True] * 6


def test_ground_truth_counts_among_the_positives():
    found = sample(NEAR, GT, count=4, fraction=0.25)
    assert found.labels.tolist() == [1, 0, 0, 0]
    assert found.valid.tolist() == [True, True, True, False]
    assert not found.boxes[3].any()


def test_without_ground_truth_all_is_background():
    found = sample(NEAR, GT, gt_valid=[False, False])
    assert found.valid.sum() == 4 and not found.labels.any()
    assert found.boxes[:4].tolist() == NEAR


def test_without_proposals_the_ground_truth_remains():
    found = sample(NEAR, GT, valid=[False] * 4)
    assert found.labels.tolist() == [1, 2, 0, 0, 0, 0]
    assert found.valid.tolist() == [True, True, False, False, False, False]
    assert not found.boxes[2:].any()


@pytest.mark.parametrize("garbage", (np.nan, 1e30, 5.0))
def test_invalid_candidates_may_hold_anything(garbage):
    valid, gt_valid = [True, True, False, True], [True, False]
    plain = sample(NEAR, GT, valid=valid, gt_valid=gt_valid)
    proposals = [*NEAR[:2], [garbage] * 4, NEAR[3]]
    wild = sample(proposals, [GT[0], [garbage] * 4], valid=valid, gt_valid=gt_valid)
    positive = plain.labels > 0
    assert positive.sum() == 2 and plain.valid.sum() == 4
    for name in ("boxes", "labels", "valid"):
        np.testing.assert_array_equal(getattr(wild, name), getattr(plain, name))
    for name in ("gt_index", "gt_boxes"):
        ours, theirs = getattr(wild, name), getattr(plain, name)
        np.testing.assert_array_equal(ours[positive], theirs[positive])


SECTION = config.RoI(max_detections=30, score_threshold=0.15)
HW, SCALE = (60.0, 90.0), (0.5, 0.8)

detect_program = jax.jit(lambda *inputs: roi.detect(*inputs, SECTION, "mmdet"))


def detect(logits, deltas, boxes, valid, scale=SCALE):
    proposals = Proposals(
        jnp.asarray(boxes, jnp.float32), jnp.ones(len(boxes)), jnp.asarray(valid)
    )
    found = detect_program(
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(deltas, jnp.float32),
        proposals,
        jnp.asarray(HW),
        jnp.asarray(scale),
    )
    return jax.tree.map(np.asarray, found)


def random_outputs(rng, k=20, classes=3):
    xy, wh = rng.uniform(0, 50, (k, 2)), rng.uniform(10, 40, (k, 2))
    return (
        2 * rng.standard_normal((k, classes + 1)),
        rng.standard_normal((k, classes, 4)),
        np.concatenate([xy, xy + wh], 1),
    )


def naive_overlap(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union if union > 0 else float("nan")


def naive_box(box, delta):
    """Decoded with the stds, clipped to the image, in original pixels."""
    w, h = box[2] - box[0], box[3] - box[1]
    x = (box[0] + box[2]) / 2 + 0.1 * delta[0] * w
    y = (box[1] + box[3]) / 2 + 0.1 * delta[1] * h
    w, h = w * np.exp(0.2 * delta[2]), h * np.exp(0.2 * delta[3])
    corners = np.clip(
        [x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, [HW[1], HW[0]] * 2
    )
    return corners / np.asarray([*SCALE, *SCALE])


def naive_detect(logits, deltas, boxes, valid):
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    scores = shifted / shifted.sum(1, keepdims=True)
    found = [
        (scores[k, c], c, naive_box(boxes[k], deltas[k, c - 1]))
        for k in range(len(boxes))
        for c in range(1, logits.shape[1])
        if valid[k] and scores[k, c] > SECTION.score_threshold
    ]
    found.sort(key=lambda entry: -entry[0])
    kept = []
    for score, label, box in found:
        rivals = [other for _, c, other in kept if c == label]
        if not any(naive_overlap(box, other) > SECTION.nms_iou for other in rivals):
            kept.append((score, label, box))
    return kept[: SECTION.max_detections]


def test_detections_equal_naive_loops(rng):
    for _ in range(5):
        logits, deltas, boxes = random_outputs(rng)
        valid = rng.random(20) < 0.8
        found = detect(logits, deltas, boxes, valid)
        naive = naive_detect(logits, deltas, boxes, valid)
        count = (found.labels > 0).sum()
        assert count == len(naive) and 10 < count < 30
        scores, labels, corners = zip(*naive, strict=True)
        np.testing.assert_allclose(found.scores[:count], scores, rtol=1e-5)
        assert found.labels[:count].tolist() == list(labels)
        np.testing.assert_allclose(found.boxes[:count], corners, atol=1e-3)
        for part in found:
            assert len(part) == 30 and not part[count:].any()


def test_one_roi_can_give_several_classes():
    """Background 0.2, classes 0.5, 0.3 and next to nothing."""
    logits = np.tile(np.log([[0.2, 0.5, 0.3, 1e-6]]), (20, 1))
    boxes = np.tile([[10.0, 20, 50, 60]], (20, 1))
    found = detect(logits, np.zeros((20, 3, 4)), boxes, np.arange(20) == 4)
    assert found.labels[:3].tolist() == [1, 2, 0]
    np.testing.assert_allclose(found.scores[:2], [0.5, 0.3], rtol=1e-4)
    np.testing.assert_allclose(found.boxes[:2], [[20, 25, 100, 75]] * 2, rtol=1e-5)


@pytest.mark.parametrize("garbage", (np.nan, 1e30, 7.0))
def test_invalid_proposals_may_hold_anything(garbage, rng):
    logits, deltas, boxes = random_outputs(rng)
    valid = rng.random(20) < 0.5
    plain = detect(logits, deltas, boxes, valid)
    wild = detect(
        np.where(valid[:, None], logits, garbage),
        np.where(valid[:, None, None], deltas, garbage),
        np.where(valid[:, None], boxes, garbage),
        valid,
    )
    jax.tree.map(np.testing.assert_array_equal, wild, plain)


def test_order_of_the_proposals_does_not_matter(rng):
    outputs = random_outputs(rng)
    order = rng.permutation(20)
    valid = np.ones(20, bool)
    plain = detect(*outputs, valid)
    shuffled = detect(*(part[order] for part in outputs), valid)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), shuffled, plain)


def test_without_proposals_or_scores_there_is_nothing(rng):
    logits, deltas, boxes = random_outputs(rng)
    for found in (
        detect(logits, deltas, boxes, np.zeros(20, bool)),
        detect(logits * 0 + [9, 0, 0, 0], deltas, boxes, np.ones(20, bool)),
    ):
        assert not any(part.any() for part in found)
