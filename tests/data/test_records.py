from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.data.records import (
    Dataset,
    Record,
    align_classes,
    relabel_by_id,
    summary,
)


def record(labels, source_id=1):
    n = len(labels)
    return Record(
        Path("a.jpg"),
        source_id,
        100,
        80,
        np.tile(np.float32([0, 0, 5, 5]), (n, 1)),
        np.array(labels, np.int32),
        np.zeros(n, bool),
    )


def dataset(records, names=("cat", "dog"), ids=(3, 7), skipped=None):
    return Dataset("val", tuple(records), names, ids, {}, skipped or {})


def test_summary_counts_images_boxes_and_everything_skipped():
    text = summary(
        dataset([record([1, 1, 2]), record([])], skipped={"boxes dropped": 4})
    )
    assert "val: 2 images (1 without boxes), 3 boxes, 2 classes" in text
    assert "cat 2, dog 1" in text and "boxes dropped: 4" in text


def test_summary_tells_of_images_beyond_the_metrics_limit():
    assert "metric" not in summary(dataset([record([1] * 100)]))
    assert "1 images hold more than 100 boxes (up to 101)" in summary(
        dataset([record([1] * 101)])
    )


def test_align_classes_permutes_labels_and_ids_together():
    other = align_classes(dataset([record([1, 2, 2]), record([])]), ("dog", "cat"))
    assert other.class_names == ("dog", "cat") and other.category_ids == (7, 3)
    np.testing.assert_array_equal(other.records[0].labels, [2, 1, 1])
    assert other.records[0].labels.dtype == np.int32
    assert len(other.records[1].labels) == 0


def test_align_classes_refuses_other_names_with_a_hint():
    with pytest.raises(ValueError, match="'cats' is missing .did you mean 'cat'"):
        align_classes(dataset([record([1])]), ("cats", "dog"))
    with pytest.raises(ValueError, match="'dog' is not expected"):
        align_classes(dataset([record([1])]), ("cat",))


def test_labels_that_are_category_ids():
    other = relabel_by_id(dataset([record([1, 2, 2]), record([])], ids=(5, 2)))
    assert other.class_names == ("unused 1", "dog", "unused 3", "unused 4", "cat")
    assert other.category_ids == (None, 2, None, None, 5)
    np.testing.assert_array_equal(other.records[0].labels, [5, 2, 2])
    assert other.records[0].labels.dtype == np.int32
