"""Overlaps and matches: pycocotools' own, ties and crowds included."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask

from frcnn_jax.evaluation import matching

GOLDEN = Path(__file__).parents[1] / "golden" / "coco_eval.json"


def test_overlaps_equal_pycocotools_to_the_bit():
    rng = np.random.default_rng(0)
    boxes, others = rng.uniform(0, 50, (40, 4)), rng.uniform(0, 50, (30, 4))
    boxes[:5, 2] = 0
    others[:5] = boxes[:5]  # two boxes without area share none
    crowd = rng.random(30) < 0.3
    own = matching.iou_matrix(boxes, others, crowd)
    assert np.array_equal(own, mask.iou(boxes, others, crowd.astype(int).tolist()))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cap", [3, 100])
def test_matches_equal_pycocotools(random_case, scored_by_pycocotools, seed, cap):
    truth, found = random_case(seed)
    sets = matching.read(truth, found, cap)
    scored = scored_by_pycocotools(truth, found, cap)
    assert sets.dropped == len(found) - len(sets.found.score)
    assert (sets.dropped > 0) == (cap == 3)
    images = len(truth["images"])
    for iou, place in ((0.5, 0), (0.75, 5)):
        for k, size in enumerate(matching.SIZES):
            own = matching.match(sets, iou, size)
            for label in range(5):
                start = (label * 4 + k) * images
                for image, theirs in enumerate(scored.evalImgs[start : start + images]):
                    rows = (sets.found.image == image + 1) & (sets.found.label == label)
                    if theirs is None:
                        assert not rows.any()
                        continue
                    ignored = theirs["dtIgnore"][place].astype(bool)
                    true = (theirs["dtMatches"][place] > 0) & ~ignored
                    assert np.array_equal(~own.counted[rows], ignored)
                    assert np.array_equal(own.true[rows], true)


def test_of_equal_overlaps_the_later_object_is_taken(scored_by_pycocotools):
    # The first detection lies between both objects; the second reaches the later only.
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": 1, "bbox": [x, 0, 100, 100]}
            | {"area": 10000, "iscrowd": 0}
            for k, x in ((1, 0), (2, 40))
        ],
    }
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [x, 0, 100, 100], "score": score}
        for x, score in ((20, 0.9), (60, 0.8))
    ]
    own = matching.match(matching.read(truth, found))
    assert own.object.tolist() == [1, -1]
    theirs = scored_by_pycocotools(truth, found).evalImgs[0]["dtMatches"][0]
    assert theirs.tolist() == [2, 0]


def test_ids_of_any_kind_and_missing_fields():
    truth = {
        "images": [{"id": "b"}, {"id": 4}],
        "categories": [{"id": 9, "name": "cat"}],
        "annotations": [{"image_id": "b", "category_id": 9, "bbox": [0, 0, 4, 5]}],
    }
    found = [
        {"image_id": name, "category_id": 9, "bbox": [0, 0, 4, 5], "score": 0.5}
        for name in ("b", 4)
    ]
    sets = matching.read(truth, found)
    assert sets.objects.area.tolist() == [20.0] and not sets.objects.crowd.any()
    assert sets.found.image.tolist() == [1, 2]  # numbers before texts
    assert matching.match(sets).true.tolist() == [False, True]


def test_nothing_at_all_gives_empty_arrays():
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cat"}]}
    sets = matching.read(truth, [])
    matches = matching.match(sets)
    assert sets.found.box.shape == (0, 4) and matches.true.shape == (0,)
    assert matches.objects_of(sets.objects.label, 1).tolist() == [0]


def test_refuses_what_the_metric_refuses():
    truth = json.loads(GOLDEN.read_text())["ground_truth"]
    with pytest.raises(ValueError, match="max_detections is 0"):
        matching.read(truth, [], 0)
    with pytest.raises(ValueError, match="image_id 5"):
        matching.read(truth, [{"image_id": 5}])
