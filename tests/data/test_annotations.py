from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.data import annotations

SOURCE = Path("train.json")
IMAGES = [{"id": 5, "width": 100, "height": 80}, {"id": 9, "width": 40, "height": 60}]
CATEGORIES = [{"id": 3, "name": "cat", "label": 1}, {"id": 8, "name": "x", "label": 0}]


def entry(i, bbox, image_id=5, category_id=3, **extra):
    fields = {"id": i, "image_id": image_id, "category_id": category_id, "bbox": bbox}
    return {**fields, **extra}


def stack(*entries):
    return annotations.stack(list(entries), IMAGES, CATEGORIES, SOURCE)


def test_columns_hold_rows_and_labels():
    columns = stack(
        entry(1, [1, 2, 3, 4], iscrowd=1), entry(2, [5, 6, 7.5, 8], 9, 8, ignore=1)
    )
    assert columns.xywh.tolist() == [[1, 2, 3, 4], [5, 6, 7.5, 8]]
    assert columns.image.tolist() == [0, 1] and columns.label.tolist() == [1, 0]
    assert columns.crowd.tolist() == [True, False]
    assert columns.ignore.tolist() == [False, True]


def test_no_annotations():
    columns = stack()
    assert columns.xywh.shape == (0, 4) and columns.crowd.dtype == bool
    annotations.check_geometry(columns, IMAGES, [], SOURCE)
    kept = annotations.box_filter(
        columns, IMAGES, config.Data(), training=True, skipped=Counter()
    )
    assert kept.shape == (0,)


def test_messages_name_file_and_annotation():
    with pytest.raises(ValueError, match="train.json: annotation 4 has the bbox"):
        stack(entry(4, [1, 2, 3]))
    with pytest.raises(ValueError, match="train.json: annotation number 1 has the im"):
        stack(entry(4, [1, 2, 3, 4]), entry(None, [1, 2, 3, 4], image_id=6))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, True), (-0.5, True), ("1", False), (None, False), (True, False)]
    + [(float("nan"), False), (float("inf"), False), ([1], False)],
)
def test_what_is_a_number(value, expected):
    assert annotations.is_number(value) is expected


@pytest.mark.parametrize(
    ("bbox", "training", "kept"),
    [
        ([10, 10, 5, 5], True, True),
        ([-5, 10, 5, 5], False, False),  # touches the border from outside
        ([-5, 10, 5.1, 5], True, True),  # a sliver is visible: kept, as the peer does
        ([100, 10, 5, 5], False, False),
        ([10, 10, 0, 5], True, False),
        ([10, 10, 0, 5], False, True),
        ([10, 10, 0, 0], False, True),
        ([101, 10, 0, 0], False, False),
        ([10, 10, 0.5, 5], True, False),
        ([10, 10, 0.5, 5], False, True),
    ],
)
def test_which_boxes_reach_the_records(bbox, training, kept):
    skipped = Counter()
    result = annotations.box_filter(
        stack(entry(1, bbox)), IMAGES, config.Data(), training=training, skipped=skipped
    )
    assert result.tolist() == [kept]
    assert kept or sum(skipped.values()) == 1


def test_each_box_is_counted_under_one_reason():
    skipped = Counter()
    columns = stack(
        entry(1, [200, 1, 0, 0], category_id=8), entry(2, [200, 1, 0, 0], ignore=1)
    )
    kept = annotations.box_filter(
        columns, IMAGES, config.Data(), training=True, skipped=skipped
    )
    assert not kept.any() and sorted(skipped.values()) == [1, 1]


def test_a_few_boxes_across_the_border_are_no_format_error():
    boxes = [entry(n, [60, 50, 90, 75]) for n in range(3)]  # could be corners ...
    boxes.append(entry(9, [50, 50, 10, 10]))  # ... but this one could not
    annotations.check_geometry(stack(*boxes), IMAGES, boxes, SOURCE)


def test_scoring_dictionary_is_independent_of_the_file():
    a = entry(1, [1, 2, 3, 4], area=12, segmentation=[[1, 2, 3, 4, 5, 6]])
    content = {"annotations": [a, entry(2, [1, 2, 3, 4], 9)]}
    scoring = annotations.scoring_dictionary(
        content,
        IMAGES,
        CATEGORIES,
        stack(*content["annotations"]),
        keep=np.array([True, False]),
        skipped=Counter(),
    )
    assert [i["id"] for i in scoring["images"]] == [5]
    assert scoring["categories"] == [{"id": 3, "name": "cat"}]
    (only,) = scoring["annotations"]
    assert only["id"] == 1 and set(only) == {
        *("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    }
    only["bbox"][0] = 7
    assert a["bbox"][0] == 1
