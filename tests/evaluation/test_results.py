"""Arrays to COCO results and back."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from frcnn_jax.evaluation.results import from_results, to_results


def detections(labels, boxes=None):
    labels = np.asarray(labels, np.int32)
    if boxes is None:
        boxes = np.broadcast_to([1.5, 2.0, 11.5, 5.0], (*labels.shape, 4))
    scores = np.full(labels.shape, 0.5, np.float32)
    return SimpleNamespace(boxes=np.float32(boxes), scores=scores, labels=labels)


def test_to_results_maps_ids_and_drops_padding():
    results = to_results(
        detections([[2, 1, 0], [1, 0, 0], [1, 1, 1]]),
        np.array([1, 0, -1]),
        source_ids=(40, 41),
        category_ids=(7, 90),
    )
    keys = [(r["image_id"], r["category_id"]) for r in results]
    assert keys == [(41, 90), (41, 7), (40, 7)]
    assert results[0]["bbox"] == [1.5, 2.0, 10.0, 3.0]  # no +1
    assert json.loads(json.dumps(results)) == results  # plain numbers


def test_to_results_leaves_out_labels_without_a_category():
    results = to_results(detections([[2, 1, 3]]), np.array([0]), (5,), (None, 2, None))
    assert [row["category_id"] for row in results] == [2]


def test_to_results_of_nothing():
    empty = detections(np.zeros((2, 0)), np.zeros((2, 0, 4)))
    assert to_results(empty, np.array([0, 1]), (5, 6), (1,)) == []


def test_to_results_refuses_rows_and_labels_of_another_data_set():
    with pytest.raises(ValueError, match="labels hold 3..3"):
        to_results(detections([[3]]), np.array([0]), (5,), (1, 2))
    with pytest.raises(ValueError, match="image_rows hold 1..1"):
        to_results(detections([[1]]), np.array([1]), (5,), (1, 2))


def test_there_and_back():
    found = detections([[2, 1]], [[[1, 2, 11, 5], [0, 0, 4, 4]]])
    rows = to_results(found, np.array([0]), ("a",), (7, 90))
    rows += to_results(found, np.array([0]), ("b",), (7, 90))
    back = from_results(rows, "a", (7, 90))
    np.testing.assert_allclose(back.boxes, found.boxes[0])
    np.testing.assert_array_equal(back.labels, [2, 1])
    np.testing.assert_allclose(back.scores, 0.5)


def test_an_image_without_results():
    back = from_results([], 5, (1,))
    assert back.boxes.shape == (0, 4) and back.labels.shape == (0,)
