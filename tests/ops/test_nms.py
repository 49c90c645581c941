"""Greedy suppression: recorded keep lists, a naive loop, properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops import nms


@pytest.fixture(scope="module")
def peer(golden):
    return np.load(golden / "mmdet" / "e_nms.npz")


@functools.cache
def program(iou, keep, block):
    def run(boxes, scores, valid, group):
        return nms.nms(
            boxes, scores, valid, iou=iou, keep=keep, group=group, block=block
        )

    return jax.jit(run)


ROWS = 64  # smaller cases are filled up with boxes that do not take part


def kept(boxes, scores, iou, *, keep, group=None, valid=None, block=nms.BLOCK):
    """Indices of the survivors, best first."""
    n = len(scores)
    rows = max(n, ROWS)

    def filled(values, filler, dtype):
        padding = [(0, rows - n)] + [(0, 0)] * (np.ndim(values) - 1)
        padded = np.pad(np.asarray(values, dtype), padding, constant_values=filler)
        return jnp.asarray(padded)

    found = program(iou, keep, block)(
        filled(boxes, np.nan, np.float32),
        filled(scores, 1e9, np.float32),
        filled(np.ones(n) if valid is None else valid, False, bool),
        filled(np.zeros(n) if group is None else group, 0, np.int32),
    )
    index, valid = np.asarray(found.index), np.asarray(found.valid)
    assert index.shape == valid.shape == (keep,)
    assert (np.sort(valid)[::-1] == valid).all()  # empty slots come last
    assert (index[~valid] == 0).all()
    return index[valid].tolist()


def naive_overlap(a, b):
    w = np.maximum(np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]), np.float32(0))
    h = np.maximum(np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]), np.float32(0))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return w * h / (area - w * h)


def naive_nms(boxes, scores, iou, group=None):
    """One box at a time, best first: stays unless a kept one covers it."""
    boxes = np.asarray(boxes, np.float32)
    group = np.zeros(len(scores)) if group is None else group
    keep = []
    for i in np.argsort(-np.asarray(scores), kind="stable").tolist():
        rivals = [k for k in keep if group[k] == group[i]]
        if not any(naive_overlap(boxes[k], boxes[i]) > np.float32(iou) for k in rivals):
            keep.append(i)
    return keep


def crowded(rng, n=60, distinct=True):
    """Many overlaps; coarse scores give ties."""
    xy, wh = rng.uniform(0, 50, (n, 2)), rng.uniform(15, 40, (n, 2))
    boxes = np.concatenate([xy, xy + wh], 1).astype(np.float32)
    scores = rng.permutation(n) / n if distinct else rng.integers(1, 5, n) / 5
    return boxes, scores.astype(np.float32)


@pytest.mark.parametrize("iou", (0.3, 0.5, 0.7))
def test_keep_lists_equal_the_peer(iou, peer):
    boxes, scores = peer["boxes"], peer["scores"]
    assert kept(boxes, scores, iou, keep=240) == peer[f"nms_{iou}_keep"].tolist()
    found = kept(boxes, scores, iou, keep=240, group=peer["ids"])
    assert found == peer[f"bnms_{iou}_keep"].tolist()


@pytest.mark.parametrize("iou", (0.5, 0.7))
def test_edge_cases_equal_the_peer(iou, peer):
    """IoU on the threshold, equal scores, no area, negative coordinates."""
    found = kept(peer["edge_boxes"], peer["edge_scores"], iou, keep=64)
    assert found == peer[f"edge_keep_{iou}"].tolist()


def test_ten_thousand_boxes_equal_the_peer(peer):
    """So many that the peer takes its route of one group at a time."""
    found = kept(
        peer["split_boxes"],
        peer["split_scores"],
        0.7,
        keep=8000,
        group=peer["split_ids"],
    )
    assert found == peer["split_keep"].tolist()


def class_candidates(peer, boxes):
    """Every (RoI, class) pair above 0.05; the background is the peer's last column."""
    scores = peer["mc_scores"][:, :-1].reshape(-1)
    return boxes.reshape(-1, 4), scores, scores > 0.05, np.tile(np.arange(4), 60)


@pytest.mark.parametrize(
    ("labels", "dets", "keep"),
    [
        ("labels_100", "dets_100", 100),
        ("labels_20", "dets_20", 20),
        ("agn_labels", "agn_dets", 100),
    ],
)
def test_class_wise_suppression_equals_the_peer(labels, dets, keep, peer):
    boxes = peer["mc_boxes"]
    if labels == "agn_labels":  # one box per RoI for all classes
        boxes = np.tile(boxes[:, None, :4], (1, 4, 1))
    boxes, scores, valid, group = class_candidates(peer, boxes)
    found = kept(boxes, scores, 0.5, keep=100, group=group, valid=valid)[:keep]
    assert group[found].tolist() == peer[f"mc_{labels}"].tolist()
    ours = np.concatenate([boxes[found], scores[found][:, None]], 1)
    np.testing.assert_array_equal(ours, peer[f"mc_{dets}"])


def test_nothing_above_the_threshold(peer):
    boxes, scores, valid, group = class_candidates(peer, peer["mc_boxes"])
    nothing = np.zeros_like(valid)
    assert kept(boxes, scores, 0.5, keep=100, group=group, valid=nothing) == []
    assert len(peer["mc_none_labels"]) == 0


def test_suppression_on_paper():
    """IoU of neighbours 1/3: at 0.3 the middle one goes and frees the last one."""
    boxes = [[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]]
    assert kept(boxes, [0.9, 0.8, 0.7], 0.3, keep=64) == [0, 2]
    assert kept(boxes, [0.8, 0.9, 0.7], 0.3, keep=64) == [1]
    assert kept(boxes, [0.8, 0.9, 0.7], 0.34, keep=64) == [1, 0, 2]


def test_the_threshold_is_strict():
    """IoU exactly one half stays at 0.5."""
    boxes = [[0, 0, 10, 10], [0, 0, 10, 5]]
    assert kept(boxes, [0.9, 0.8], 0.5, keep=64) == [0, 1]
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    assert kept(boxes, [0.9, 0.8], below, keep=64) == [0]


def test_equal_scores_keep_the_lower_index():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10]]
    assert kept(boxes, [0.5, 0.5, 0.5], 0.5, keep=64) == [0, 2]


def test_ties_are_visited_in_numpys_stable_order(rng):
    """Scores of bfloat16 are often equal; boxes apart all survive, in that order."""
    scores = rng.random(64).astype(jnp.bfloat16).astype(np.float32)
    scores[10:30] = scores[5]
    assert len(set(scores.tolist())) < 45
    corner = np.arange(64, dtype=np.float32)[:, None] * [20, 0]
    boxes = np.concatenate([corner, corner + 10], 1)
    expected = np.argsort(-scores, kind="stable").tolist()
    assert kept(boxes, scores, 0.5, keep=64) == expected
    top = jax.lax.top_k(jnp.asarray(scores), 40)[1]
    np.testing.assert_array_equal(top, expected[:40])


def test_groups_do_not_meet():
    boxes = [[0, 0, 10, 10]] * 4
    assert kept(boxes, [0.1, 0.4, 0.3, 0.2], 0.5, keep=64, group=[7, -1, 7, 7]) == [
        1,
        2,
    ]


def test_boxes_without_area_stay():
    """0 / 0 compares False; against a real box the overlap is 0."""
    boxes = [[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10], [0, 5, 10, 5]]
    assert kept(boxes, [0.9, 0.8, 0.7, 0.6], 0.1, keep=64) == [0, 1, 2, 3]


@pytest.mark.parametrize("distinct", (True, False))
@pytest.mark.parametrize("grouped", (True, False))
def test_equals_a_naive_loop(grouped, distinct, rng):
    for _ in range(10):
        boxes, scores = crowded(rng, distinct=distinct)
        group = rng.integers(0, 3, 60) if grouped else None
        naive = naive_nms(boxes, scores, 0.4, group)
        assert kept(boxes, scores, 0.4, keep=64, group=group) == naive


def test_survivors_are_a_maximal_independent_set(rng):
    """Kept boxes leave each other alone; each dropped one has a better kept rival."""
    boxes, scores = crowded(rng)
    keep = kept(boxes, scores, 0.4, keep=64)
    hit = np.asarray(nms.overlaps(jnp.asarray(boxes), jnp.asarray(boxes), 0.4))
    assert not (hit[np.ix_(keep, keep)] & ~np.eye(len(keep), dtype=bool)).any()
    assert 5 < len(keep) < 40
    for i in set(range(60)) - set(keep):
        assert any(hit[k, i] and scores[k] > scores[i] for k in keep)


@pytest.mark.parametrize("block", (1, 7, 63, 1000))
def test_the_block_size_does_not_matter(block, rng):
    boxes, scores = crowded(rng, distinct=False)
    group = rng.integers(0, 2, 60)
    naive = naive_nms(boxes, scores, 0.4, group)
    assert kept(boxes, scores, 0.4, keep=20, group=group, block=block) == naive[:20]


def test_order_of_the_input_does_not_matter(rng):
    boxes, scores = crowded(rng)
    order = rng.permutation(60)
    shuffled = kept(boxes[order], scores[order], 0.4, keep=64)
    assert order[shuffled].tolist() == kept(boxes, scores, 0.4, keep=64)


@pytest.mark.parametrize("keep", (1, 5, 100))
def test_fewer_and_more_slots_than_survivors(keep, rng):
    boxes, scores = crowded(rng)
    assert kept(boxes, scores, 0.4, keep=keep) == naive_nms(boxes, scores, 0.4)[:keep]


def test_what_does_not_take_part_suppresses_nothing(rng):
    """Invalid boxes, NaN scores and -inf are as if they were not there."""
    boxes, scores = crowded(rng)
    absent = np.arange(60) % 3 == 0
    naive = naive_nms(boxes[~absent], scores[~absent], 0.4)
    naive = np.flatnonzero(~absent)[naive].tolist()
    assert kept(boxes, scores, 0.4, keep=64, valid=~absent) == naive
    for value in (np.nan, -np.inf):
        marked = np.where(absent, value, scores)
        assert kept(boxes, marked, 0.4, keep=64) == naive
    garbage = np.where(absent[:, None], np.float32([np.nan, np.inf, -1e38, 9]), boxes)
    assert kept(garbage, scores, 0.4, keep=64, valid=~absent) == naive


@pytest.mark.parametrize("keep", (1, 3))
def test_one_box(keep):
    """Any finite score counts; without groups all boxes are of one."""
    run = jax.jit(functools.partial(nms.nms, iou=0.5, keep=keep))
    box, score = jnp.asarray([[0.0, 0, 1, 1]]), jnp.asarray([-0.5])
    found = run(box, score, jnp.asarray([True]))
    assert found.valid.tolist() == [True] + [False] * (keep - 1)
    assert found.index.tolist() == [0] * keep
    assert not run(box, score, jnp.asarray([False])).valid.any()


def test_mapping_over_images_changes_nothing(rng):
    images = [crowded(rng) for _ in range(3)]
    boxes, scores = (jnp.asarray(np.stack(part)) for part in zip(*images, strict=True))
    valid = jnp.asarray(np.arange(60) < np.asarray([[60], [0], [31]]))
    run = jax.vmap(lambda b, s, v: nms.nms(b, s, v, iou=0.4, keep=64, block=16))
    found = jax.jit(run)(boxes, scores, valid)
    for i, (b, s) in enumerate(images):
        one = kept(b, s, 0.4, keep=64, valid=np.asarray(valid[i]))
        assert np.asarray(found.index[i])[np.asarray(found.valid[i])].tolist() == one
