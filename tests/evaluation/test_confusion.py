"""The confusion matrix: its rule, case by case."""

import numpy as np
import pytest

from frcnn_jax.evaluation import confusion, matching

CAT, DOG = 1, 2
BOX, HALF, FAR = [0, 0, 100, 100], [0, 0, 100, 50], [300, 300, 50, 50]


def matrix(objects, found, score=0.5):
    """Objects are (class, box, crowd), detections (class, box, score); C = 2."""
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
        "annotations": [
            {"image_id": 1, "category_id": c, "bbox": b, "iscrowd": w}
            for c, b, w in objects
        ],
    }
    rows = [
        {"image_id": 1, "category_id": c, "bbox": b, "score": s} for c, b, s in found
    ]
    return confusion.matrix(matching.read(truth, rows), score).tolist()


@pytest.mark.parametrize(
    ("objects", "found", "expected"),
    [
        ([], [], [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        # found, mistaken, lost, false
        ([(CAT, BOX, 0)], [(CAT, HALF, 0.5)], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),
        ([(CAT, BOX, 0)], [(DOG, HALF, 0.9)], [[0, 1, 0], [0, 0, 0], [0, 0, 0]]),
        ([(CAT, BOX, 0)], [], [[0, 0, 1], [0, 0, 0], [0, 0, 0]]),
        ([], [(DOG, BOX, 0.9)], [[0, 0, 0], [0, 0, 0], [0, 1, 0]]),
        # below the score: not there
        ([(CAT, BOX, 0)], [(CAT, BOX, 0.4)], [[0, 0, 1], [0, 0, 0], [0, 0, 0]]),
        # the better score takes the object, of the wrong class or not
        (
            [(CAT, BOX, 0)],
            [(CAT, BOX, 0.8), (DOG, HALF, 0.9)],
            [[0, 1, 0], [0, 0, 0], [1, 0, 0]],
        ),
        # its own class before a larger overlap
        (
            [(CAT, BOX, 0), (DOG, HALF, 0)],
            [(CAT, HALF, 0.9), (DOG, HALF, 0.8)],
            [[1, 0, 0], [0, 1, 0], [0, 0, 0]],
        ),
        # of its own class the one that it overlaps most, so that both are found
        (
            [(CAT, BOX, 0), (CAT, [0, 0, 100, 60], 0)],
            [(CAT, BOX, 0.9), (CAT, [0, 0, 100, 45], 0.8)],
            [[2, 0, 0], [0, 0, 0], [0, 0, 0]],
        ),
        # on a crowd of its class: left out; of another class: false
        (
            [(CAT, BOX, 1)],
            [(CAT, HALF, 0.9), (CAT, HALF, 0.8), (DOG, HALF, 0.7)],
            [[0, 0, 0], [0, 0, 0], [0, 1, 0]],
        ),
    ],
)
def test_rule(objects, found, expected):
    assert matrix(objects, found) == expected


@pytest.mark.parametrize("seed", range(4))
def test_every_object_and_detection_is_counted_once(random_case, seed):
    sets = matching.read(*random_case(seed))
    table = confusion.matrix(sets, 0.3)
    objects = np.bincount(sets.objects.label[~sets.objects.crowd], minlength=5)
    assert np.array_equal(table[:-1].sum(1), objects)
    assert table[-1, -1] == 0
    sure = (sets.found.score >= 0.3).sum()
    on_crowds = sure - table[:, :-1].sum()
    assert 0 <= on_crowds <= (~matching.match(sets).counted).sum()
