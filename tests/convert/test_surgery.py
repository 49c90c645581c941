"""Class heads by name: which rows stay, which start anew, what is said."""

import numpy as np
import pytest

from frcnn_jax.convert import surgery
from frcnn_jax.convert.rules import ConversionError

HEAD = "params/box_head/predictor"


def head(classes, *, value=0.0, background=False, width=2):
    """Values tell the row: class i has value + i, its deltas .0, .1, .2, .3 more."""
    rows = np.arange(classes + 1, dtype=np.float32) + value
    deltas = (rows[0 if background else 1 :, None] + np.arange(4) / 10).ravel()
    return {
        f"{HEAD}/classes/kernel": np.tile(rows, (width, 1)),
        f"{HEAD}/classes/bias": rows,
        f"{HEAD}/deltas/kernel": np.tile(deltas, (width, 1)).astype(np.float32),
        f"{HEAD}/deltas/bias": deltas.astype(np.float32),
        "params/rpn/conv/bias": rows[:1],
    }


def test_rows_follow_their_names():
    loaded, fresh = head(3, value=100), head(2)
    made, report = surgery.keep_classes(
        fresh, loaded, ("cat", "dog", "cow"), ("cow", "bird")
    )
    assert made[f"{HEAD}/classes/bias"].tolist() == [100, 103, 2]
    assert made[f"{HEAD}/classes/kernel"].tolist() == [[100, 103, 2]] * 2
    deltas = [103, 103.1, 103.2, 103.3, 2, 2.1, 2.2, 2.3]
    np.testing.assert_allclose(made[f"{HEAD}/deltas/bias"], deltas, rtol=1e-6)
    np.testing.assert_allclose(made[f"{HEAD}/deltas/kernel"], [deltas] * 2, rtol=1e-6)
    assert made["params/rpn/conv/bias"] is loaded["params/rpn/conv/bias"]
    assert report[:3] == (("cow",), ("bird",), ("cat", "dog"))
    assert report.text() == (
        "class head by name: 4 arrays sliced; background kept, kept 1 (cow),"
        " re-initialised 1 (bird), unused 2 (cat, dog)"
    )


def test_another_order_of_the_same_classes():
    made, report = surgery.keep_classes(
        head(2), head(2, value=10), ("a", "b"), ("b", "a")
    )
    assert made[f"{HEAD}/classes/bias"].tolist() == [10, 12, 11]
    assert report.fresh == report.unused == ()


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("theirs", [True, False])
def test_deltas_of_background(ours, theirs):
    fresh = head(1, background=ours)
    loaded = head(1, value=50, background=theirs)
    made, _ = surgery.keep_classes(fresh, loaded, ("a",), ("a",))
    bias = made[f"{HEAD}/deltas/bias"]
    assert bias[-4] == 51
    assert len(bias) == (8 if ours else 4)
    if ours:
        assert bias[0] == (50 if theirs else 0)


def test_other_widths_are_left_to_the_merge():
    loaded = head(2, width=3)
    made, report = surgery.keep_classes(head(1), loaded, ("a", "b"), ("a",))
    assert made[f"{HEAD}/classes/kernel"].shape == (3, 3)
    assert len(report.sliced) == 2


@pytest.mark.parametrize("names", [("a",), ("a", "a")])
def test_names_that_do_not_count_up(names):
    with pytest.raises(ConversionError, match="the file has 2 classes and 1 names"):
        surgery.keep_classes(head(1), head(2), names, ("b",))


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({}, ()),
        ({"class_names": '["a", "b"]'}, ("a", "b")),
        ({"meta.CLASSES": '["a"]', "meta.epoch": "3"}, ("a",)),
        ({"meta.dataset_meta.CLASSES": '["é"]'}, ("é",)),
        ({"meta.dataset_meta.classes": '["a"]'}, ("a",)),
        ({"meta.CLASSES": "person"}, ("person",)),
        ({"meta.CLASSES": "[1, 2]"}, ()),
        ({"meta.CLASSES": "3"}, ()),
    ],
)
def test_names_in_metadata(metadata, names):
    assert surgery.class_names(metadata) == names
