import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.data import annotations
from frcnn_jax.data.findings import Findings

SOURCE = "train.json"
IMAGES = [{"id": 5, "width": 100, "height": 80}, {"id": 9, "width": 40, "height": 60}]
CATEGORIES = [{"id": 3, "name": "cat", "label": 1}, {"id": 8, "name": "x", "label": 0}]


def entry(i, bbox, image_id=5, category_id=3, **extra):
    fields = {"id": i, "image_id": image_id, "category_id": category_id, "bbox": bbox}
    return {**fields, **extra}


def stack(*entries, findings=None):
    findings = Findings() if findings is None else findings
    return annotations.stack(
        list(entries), IMAGES, CATEGORIES, source=SOURCE, findings=findings
    )


def filtered(*entries, training):
    findings = Findings()
    kept = annotations.box_filter(
        stack(*entries),
        IMAGES,
        config.Data(),
        training=training,
        annotations=list(entries),
        source=SOURCE,
        findings=findings,
    )
    return kept, findings


def test_columns_hold_rows_and_labels():
    columns = stack(
        entry(1, [1, 2, 3, 4], iscrowd=1), entry(2, [5, 6, 7.5, 8], 9, 8, ignore=1)
    )
    assert columns.xywh.tolist() == [[1, 2, 3, 4], [5, 6, 7.5, 8]]
    assert columns.image.tolist() == [0, 1] and columns.label.tolist() == [1, 0]
    assert columns.crowd.tolist() == [True, False]
    assert columns.ignore.tolist() == [False, True]


def test_no_annotations():
    columns, findings = stack(), Findings()
    assert columns.xywh.shape == (0, 4) and columns.crowd.dtype == bool
    annotations.check_geometry(columns, IMAGES, [], source=SOURCE, findings=findings)
    kept, _ = filtered(training=True)
    assert kept.shape == (0,) and not findings.counts


def test_bad_annotations_are_left_out_and_named():
    findings = Findings()
    columns = stack(
        entry(4, [1, 2, 3]),
        entry(None, [1, 2, 3, 4], image_id=6),
        entry(8, [1, 2, 3, 4]),
        entry(9, [1, 2, 3, 4], category_id=[3]),
        findings=findings,
    )
    assert columns.row.tolist() == [2] and columns.xywh.tolist() == [[1, 2, 3, 4]]
    told = [findings.of(fault)[0].text() for fault in findings.counts]
    assert told == [
        "train.json, image 5, annotation 4: the bbox is [1, 2, 3]",
        "train.json, image 6, annotation 'number 1': the image_id is 6, not one of the"
        " 2 listed (5, 9); did you mean 9?",
        "train.json, image 5, annotation 9: the category_id is [3], not one of the"
        " 2 listed (3, 8); did you mean 3?",
    ]


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
        ([-5, 10, 5.001, 5], True, False),  # no width once it is float32 and resized
        ([99.9999999, 10, 5, 5], False, False),
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
    result, findings = filtered(entry(1, bbox), training=training)
    assert result.tolist() == [kept]
    assert kept or sum(findings.counts.values()) == 1


def test_each_box_is_counted_under_one_reason():
    kept, findings = filtered(
        *(entry(1, [200, 1, 0, 0], category_id=8), entry(2, [200, 1, 0, 0], ignore=1)),
        training=True,
    )
    assert not kept.any() and findings.counts == {"left-out": 1, "outside": 1}
    assert findings.of("outside")[0].text() == (
        "train.json, image 5, annotation 2: bbox [200, 1, 0, 0]"
    )


def test_a_few_boxes_across_the_border_are_no_format_error():
    boxes = [entry(n, [60, 50, 90, 75]) for n in range(3)]  # could be corners ...
    boxes.append(entry(9, [50, 50, 10, 10]))  # ... but this one could not
    findings = Findings()
    annotations.check_geometry(
        stack(*boxes), IMAGES, boxes, source=SOURCE, findings=findings
    )
    assert not findings.counts


def test_scoring_dictionary_is_independent_of_the_file():
    a = entry(1, [1, 2, 3, 4], area=12, segmentation=[[1, 2, 3, 4, 5, 6]])
    listed = [a, entry(2, [1, 2, 3, 4], 9)]
    scoring = annotations.scoring_dictionary(
        {},
        listed,
        IMAGES,
        CATEGORIES,
        stack(*listed),
        keep=np.array([True, False]),
        source=SOURCE,
        findings=Findings(),
    )
    assert [i["id"] for i in scoring["images"]] == [5]
    assert scoring["categories"] == [{"id": 3, "name": "cat"}]
    (only,) = scoring["annotations"]
    assert only["id"] == 1 and set(only) == {
        *("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    }
    only["bbox"][0] = 7
    assert a["bbox"][0] == 1
