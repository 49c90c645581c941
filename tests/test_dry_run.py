"""What a dry run says, against what the run then has."""

import dataclasses

import jax
import pytest

from frcnn_jax import build, config, dry_run, terminal
from frcnn_jax.data import batching
from frcnn_jax.training import distributed, optimizer


@pytest.fixture
def run(tiny_run):
    """On one canvas, with data that is not there."""
    tiny_run.data.root, tiny_run.data.buckets = "nowhere", ((64, 96),)
    tiny_run.model.num_classes, tiny_run.train.steps = 5, 40
    return tiny_run


@pytest.mark.usefixtures("quick_compile")
def test_what_a_run_needs(run):
    mesh = distributed.make_mesh(2)
    found = dry_run.needs(run, mesh)
    params = build.fresh_variables(run)["params"]
    trainable, _ = optimizer.split(params, run.train.freeze)
    assert found.parameters == sum(x.size for x in jax.tree.leaves(params))
    assert found.trainable == sum(x.size for x in trainable.values())
    assert found.steps == 40
    train, predict = found.programs
    assert (train.name, predict.name) == ("train 64x96", "predict 64x96")
    assert train.gflops > 2 * predict.gflops > 0
    # The least that is held: state with momentum, and half of the batch.
    held = 4 * (found.parameters + found.trainable) + 4 * 64 * 96 * 3
    assert held < train.memory < 50 * held
    text = terminal.text(dry_run.table(found, run, mesh))
    assert "2 x cpu" in text and "8, 4 a device" in text and "TOO TIGHT" not in text
    full = found._replace(memory=train.memory)
    assert "100% of it is needed: TOO TIGHT" in terminal.text(
        dry_run.table(full, run, mesh)
    )
    values = [line.split("  ", 1)[0] for line in text.splitlines()]
    assert {"memory needed", "programs", "expected time"} <= set(values)


def test_without_a_number_of_classes_nothing_is_compiled(run):
    run.model.num_classes = 0
    with pytest.raises(ValueError, match="--config.model.num_classes=N"):
        dry_run.needs(run, distributed.make_mesh(1))


def test_what_data_decides_is_read_where_it_is(tiny_run, shapes_root):
    """As the training itself would find it."""
    tiny_run.data.root, tiny_run.model.num_classes = str(shapes_root), 0
    tiny_run.data.buckets, tiny_run.train.steps = (), 0
    tiny_run.train.epochs, tiny_run.train.milestones = 3, ()
    found = dry_run.with_data(tiny_run)
    run, data, _ = build.datasets(tiny_run)
    batches = build.train_batches(run, data, 0)
    assert found.model.num_classes == len(data.class_names) > 0
    assert found.data.buckets == batches.buckets
    assert found.data.max_boxes == batches.max_boxes > 0
    assert found.train.steps == build.plan(run, batches.schedule).total > 0
    batches.close()
    tiny_run.data.root = "nowhere"
    assert dry_run.with_data(tiny_run) is tiny_run


def test_steps_come_from_the_configuration_or_from_coco():
    run = config.Run()
    run.data.train, run.data.keep_empty = "train2017", False
    assert dry_run.count_steps(run)[0] == 117266 * 12 // 16
    run.data.fraction, run.data.keep_empty = 0.5, True
    assert dry_run.count_steps(run)[0] == round(118287 / 2) * 12 // 16
    run.data.classes = ("person",)
    assert dry_run.count_steps(run)[0] is None
    run.train.steps = 7
    assert dry_run.count_steps(run) == (7, "")


@pytest.mark.parametrize("hw", [(480, 640), (640, 480), (500, 500), (333, 1000)])
def test_assumed_canvases_hold_every_image(hw):
    data = dataclasses.replace(config.Run().data, short_sides=(640, 800))
    canvases, notes = dry_run.buckets(data)
    assert canvases == ((800, 1344), (1344, 800)) and len(notes) == 1
    sides = {"short_side": 800, "max_side": data.max_side}
    assert len(batching.assign([hw], canvases, **sides)) == 1
    own = dataclasses.replace(data, buckets=((64, 96),))
    assert dry_run.buckets(own) == (((64, 96),), ())


def test_crops_are_the_only_canvas_of_training():
    canvases = ((64, 96), (96, 64))
    assert dry_run.training_canvases(config.Data(), canvases) == canvases
    cut = config.Data(crop=(128, 128))
    assert dry_run.training_canvases(cut, canvases) == ((128, 128),)


def test_time_is_a_bound_and_says_so():
    said = dry_run.expected(0.5, 7200)
    assert said.startswith("at least 500 ms a step, 1h00m in all (an estimate")
    assert "in all" not in dry_run.expected(0.5, None)
