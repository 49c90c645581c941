"""Whole passes with a detector that knows the truth: what is lost, the rails lose."""

import dataclasses

import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.data import loader, sources
from frcnn_jax.evaluation import coco as metric
from frcnn_jax.evaluation import infer
from frcnn_jax.types import Detections


@pytest.fixture
def split(shapes_root):
    data = config.Data(root=str(shapes_root), max_side=96, eval_short_side=64)
    data.buckets, data.threads = ((64, 96), (96, 64), (96, 96)), 2
    return data, sources.load(data, "train", training=False)


def truth(arrays):
    """Starts one batch: its own boxes, brought back to original pixels."""
    boxes = arrays["boxes"] / np.tile(arrays["scale_xy"], (1, 2))[:, None]
    scores = np.where(arrays["labels"] > 0, 0.9, 0.0).astype(np.float32)
    found = Detections(boxes, scores, arrays["labels"])
    return lambda: (found, arrays["image_id"])


@pytest.mark.parametrize("batch_size", [1, 3, 5, 64])
def test_truth_of_every_image_once_in_its_own_pixels(split, batch_size):
    data, dataset = split
    batches = loader.eval_batches(dataset, data, batch_size=batch_size)
    assert len({arrays["images"].shape[1:] for arrays in batches}) > 1
    results = infer.detections(truth, batches, dataset)
    expected = [
        (record.source_id, dataset.category_ids[label - 1], *np.round(box).astype(int))
        for record in dataset.records
        for box, label in zip(record.boxes, record.labels, strict=True)
    ]
    found = []
    for row in results:
        x, y, w, h = row["bbox"]
        box = np.round([x, y, x + w, y + h]).astype(int)
        found.append((row["image_id"], row["category_id"], *box))
    assert sorted(found) == sorted(expected)
    assert metric.evaluate(dataset.annotations, results)["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("images", [12, 1])
@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_count_every_image_once(split, images, count):
    """Batches end uneven, and with one image all but one process have none at all."""
    data, dataset = split
    dataset = dataclasses.replace(dataset, records=dataset.records[:images])

    def batches(index, of):
        return loader.eval_batches(
            dataset, data, batch_size=4, process_index=index, process_count=of
        )

    gathered = (
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for parts in zip(*(batches(i, count) for i in range(count)), strict=True)
    )
    alone = infer.detections(truth, batches(0, 1), dataset)
    together = infer.detections(truth, gathered, dataset)
    assert together == alone
    assert len(alone) == sum(len(r.boxes) for r in dataset.records) > 0


def test_category_ids_and_image_ids_are_the_files(split):
    data, dataset = split
    ids = tuple(10 * i for i in dataset.category_ids)
    records = tuple(
        r._replace(source_id=f"image {r.source_id}") for r in dataset.records
    )
    renamed = dataclasses.replace(dataset, category_ids=ids, records=records)
    batches = loader.eval_batches(renamed, data, batch_size=4)
    results = infer.detections(truth, batches, renamed)
    assert {r["category_id"] for r in results} <= set(ids)
    assert all(str(r["image_id"]).startswith("image ") for r in results)


def test_the_next_batch_is_started_before_the_last_is_awaited(split):
    _, dataset = split
    order = []

    def batches():
        for number in range(3):
            order.append(f"read {number}")
            yield {"number": number}

    def predict(arrays):
        number = arrays["number"]
        order.append(f"start {number}")

        def wait():
            order.append(f"wait {number}")
            none = np.zeros((1, 1), np.int32)
            return Detections(np.zeros((1, 1, 4)), none, none), np.array([number])

        return wait

    assert infer.detections(predict, batches(), dataset) == []
    assert order == [
        *("read 0", "start 0", "read 1", "start 1", "wait 0"),
        *("read 2", "start 2", "wait 1", "wait 2"),
    ]


def test_no_batches_and_no_detections(split):
    data, dataset = split
    assert infer.detections(truth, [], dataset) == []
    blank = [
        {**arrays, "labels": np.zeros_like(arrays["labels"])}
        for arrays in loader.eval_batches(dataset, data, batch_size=4)
    ]
    results = infer.detections(truth, blank, dataset)
    assert results == []
    assert metric.evaluate(dataset.annotations, results)["AP"] == 0.0


def test_filler_images_are_left_out(split):
    _, dataset = split
    label = np.ones((2, 1), np.int32)
    boxes = np.tile(np.float32([0, 0, 5, 5]), (2, 1, 1))
    found = Detections(boxes, np.ones((2, 1)), label)
    rows = np.array([3, -1])
    results = infer.detections(lambda arrays: lambda: (found, rows), [{}], dataset)
    assert [r["image_id"] for r in results] == [dataset.records[3].source_id]
