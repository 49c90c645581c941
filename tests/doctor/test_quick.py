import dataclasses

from frcnn_jax import config
from frcnn_jax.data import sources
from frcnn_jax.doctor import quick
from tests.doctor.samples import encode, scene


def loaded(root, split):
    return sources.load(config.Data(root=str(root)), split, training=True)


def fitting():
    run = config.Run()
    run.data.short_sides = (40,)
    run.model.rpn.anchor_sizes = ((8.0,), (16.0,), (20.0,), (32.0,), (64.0,))
    return run


def test_a_good_set_gives_no_line(write_set):
    write_set({"a.png": encode(scene())})
    root = write_set({"b.png": encode(scene(5))}, split="val")
    found = loaded(root, "train"), loaded(root, "val")
    assert list(quick.warnings(fitting(), *found)) == []


def test_a_warm_up_longer_than_the_run_is_told(write_set):
    write_set({"a.png": encode(scene())})
    root = write_set({"b.png": encode(scene(5))}, split="val")
    run = fitting()
    run.train.steps, run.train.warmup_steps = 12, 30
    (line,) = quick.warnings(run, loaded(root, "train"), loaded(root, "val"))
    assert line == (
        "train.warmup_steps is 30, so the learning rate is not reached in 12 steps"
    )


def test_shared_files_sizes_and_anchors_are_told(write_set):
    write_set({"a.png": encode(scene())}, sizes={"a.png": (80, 40)})
    root = write_set({"a.png": encode(scene()), "b.png": b"no"}, split="val")
    train, val = loaded(root, "train"), loaded(root, "val")
    run = dataclasses.replace(fitting())
    run.model.rpn.anchor_sizes = ((64.0,),) * 5
    anchors, shared, size, broken = quick.warnings(run, train, val)
    assert "no anchor of IoU 0.5" in anchors
    assert shared.startswith("1 files are both in train and in val, first ")
    assert "the file is 60x40, stated is 80x40" in size
    assert "1 of 2 pictures of val that were opened are odd" in broken
