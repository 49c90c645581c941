import dataclasses

import numpy as np

from frcnn_jax import config
from frcnn_jax.doctor import advice, statistics
from tests.doctor.test_statistics import dataset


def lines(boxes, known=("train", "val"), run=None, **size):
    run = run or config.Run()
    return list(advice.lines(run, [statistics.of(dataset(*boxes, **size), run)], known))


def square(x, side):
    return [x, x, x + side, x + side]


FITTING = [square(x, 100) for x in range(0, 400, 20)]


def test_nothing_to_say():
    run = config.Run()
    found = statistics.of(dataset(FITTING, w=800, h=800), run)
    found = found._replace(per_class=np.array([20, 9]))
    assert list(advice.lines(run, [found], ("train", "val"))) == []


def test_small_objects_want_smaller_anchors():
    (text, *rest) = lines([[square(x, 5) for x in range(20)]], w=800, h=800)
    assert "100.0% of the objects have no anchor of IoU 0.5" in text
    assert "100.0% none of 0.3" in text
    assert text.endswith("smaller model.rpn.anchor_sizes, or larger data.short_sides")
    assert any("under 8 pixels" in other for other in rest)


def test_large_and_long_objects():
    run = config.Run()
    run.model.rpn.anchor_sizes = ((4.0,), (8.0,), (16.0,), (32.0,), (64.0,))
    (text, *_) = lines([[square(0, 700)]], run=run, w=800, h=800)
    assert text.endswith("larger model.rpn.anchor_sizes")
    (text, *_) = lines([[[0, 0, 700, 60]]], w=800, h=800)
    assert text.endswith("model.rpn.anchor_ratios that reach further")


def test_enlarged_pictures_and_uneven_classes():
    texts = lines([[square(x, 50) for x in range(0, 300, 20)]], w=400, h=400)
    assert any("enlarged 2.0 times" in t and "sides of 400" in t for t in texts)
    assert any("1 classes have no object in train: dog" in t for t in texts)
    run = config.Run()
    found = statistics.of(dataset(FITTING, w=800, h=800), run)
    found = found._replace(per_class=np.array([50, 3]))
    (text,) = advice.lines(run, [found], ("train", "val"))
    assert text.startswith("classes are uneven: cat has 50 objects, dog 3;")


def test_splits_that_are_not_there():
    run = config.Run(data=dataclasses.replace(config.Data(), val="vall"))
    texts = list(advice.lines(run, [], ("train", "valid")))
    assert texts == ["data.val is 'vall', which is not there: set it to one of train,"
                     " valid"]  # fmt: skip
    assert list(advice.lines(run, [], ("train",))) == []  # a part is held out
    run.data.train, run.data.val = "train[:90%]", "a/val+b/val"
    assert list(advice.lines(run, [], ("train", "a/val", "b/val"))) == []
    assert lines([[]])[0] == "train holds no object: there is nothing to train on"
