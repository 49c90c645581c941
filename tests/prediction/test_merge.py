import numpy as np

from frcnn_jax.data.views import View
from frcnn_jax.prediction import merge
from frcnn_jax.prediction.merge import Part

HW = (100, 180)
WHOLE = View((0, 0, 180, 100), 64)
LEFT, RIGHT = View((0, 0, 100, 100), 64), View((80, 0, 180, 100), 64)


def part(view, *rows):
    """A part of rows (x1, y1, x2, y2, score, label)."""
    table = np.float32(rows).reshape(-1, 6)
    return Part(view, table[:, :4], table[:, 4], table[:, 5].astype(np.int32))


def merged(*parts, most=100):
    boxes, scores, labels = merge.merged(parts, HW, iou=0.5, most=most)
    return [
        (*box, round(score, 3), label)
        for box, score, label in zip(
            boxes.tolist(), scores.tolist(), labels.tolist(), strict=True
        )
    ]


def test_one_view_is_given_as_it_is():
    one = part(WHOLE, (0, 0, 10, 10, 0.3, 1), (0, 0, 10, 10, 0.9, 1))
    found = merge.merged([one], HW, iou=0.5, most=1)
    assert [a is b for a, b in zip(found, one[1:], strict=True)] == [True] * 3


def test_the_best_box_of_a_class_stays():
    other = View((0, 0, 180, 100), 80)
    found = merged(
        part(WHOLE, (10, 10, 30, 30, 0.8, 1), (50, 50, 70, 70, 0.4, 2)),
        part(other, (11, 10, 31, 30, 0.9, 1), (10, 10, 30, 30, 0.7, 2)),
    )
    assert found == [
        (11, 10, 31, 30, 0.9, 1),
        (10, 10, 30, 30, 0.7, 2),
        (50, 50, 70, 70, 0.4, 2),
    ]


def test_mirrored_boxes_are_turned_back():
    mirrored = WHOLE._replace(flip=True)
    found = merged(part(WHOLE), part(mirrored, (10, 20, 30, 40, 0.8, 1)))
    assert found == [(150, 20, 170, 40, 0.8, 1)]
    mirrored = RIGHT._replace(flip=True)
    found = merged(part(WHOLE), part(mirrored, (10, 20, 30, 40, 0.8, 1)))
    assert found == [(150, 20, 170, 40, 0.8, 1)]


def test_a_box_cut_by_a_tile_gives_way_to_the_whole_object():
    """The neighbour shows it whole with a lower score."""
    found = merged(
        part(WHOLE),
        part(LEFT, (85, 20, 100, 60, 0.9, 1)),
        part(RIGHT, (5, 20, 30, 60, 0.6, 1)),
    )
    assert found == [(85, 20, 110, 60, 0.6, 1)]


def test_cut_boxes_that_nothing_explains_stay_with_their_score():
    cut = part(LEFT, (60, 20, 100, 60, 0.9, 1))
    assert merged(part(WHOLE), cut, part(RIGHT)) == [(60, 20, 100, 60, 0.9, 1)]
    # Neither another class nor a box that nobody believes in explains them.
    other = part(RIGHT, (1, 20, 30, 60, 0.8, 2))
    poor = part(WHOLE, (58, 20, 110, 60, 0.1, 1))
    assert (60, 20, 100, 60, 0.9, 1) in merged(poor, cut, other)


def test_edges_of_the_picture_cut_nothing():
    assert not merge.is_cut(part(LEFT, (0, 0, 50, 100, 0.9, 1)), HW).any()
    assert not merge.is_cut(part(WHOLE, (0, 0, 180, 100, 0.9, 1)), HW).any()
    for view, box, cut in [
        (LEFT, (50, 0, 99.5, 50), True),
        (LEFT, (50, 0, 98, 50), False),
        (LEFT._replace(flip=True), (0, 0, 30, 50), True),
        (RIGHT, (0.5, 0, 30, 50), True),
        (RIGHT, (70, 0, 100, 50), False),
        (RIGHT._replace(flip=True), (70, 0, 100, 50), True),
    ]:
        assert merge.is_cut(part(view, (*box, 0.9, 1)), HW).tolist() == [cut], view


def test_no_more_than_each_part_may_have():
    rows = [(20 * i, 0, 20 * i + 10, 10, 0.9 - i / 10, 1) for i in range(5)]
    whole = part(WHOLE, *rows)
    mirrored = part(WHOLE._replace(flip=True))
    assert [row[4] for row in merged(whole, mirrored, most=2)] == [0.9, 0.8]
    assert len(merged(whole, part(LEFT), most=2)) == 4


def test_nothing_found():
    boxes, scores, labels = merge.merged([part(WHOLE)] * 2, HW, iou=0.5, most=9)
    assert boxes.shape == (0, 4) and scores.shape == labels.shape == (0,)


def test_boxes_without_area_suppress_nobody():
    flat = part(WHOLE, (10, 10, 10, 30, 0.9, 1), (10, 10, 10, 30, 0.8, 1))
    assert len(merged(flat, part(WHOLE))) == 2
