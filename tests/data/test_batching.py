import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.data import batching
from frcnn_jax.data.records import Dataset, Record
from frcnn_jax.data.transforms import Sample


def dataset(counts):
    records = tuple(
        Record(
            Path(f"{i}.jpg"),
            100 + i,
            640,
            480,
            np.zeros((n, 4), np.float32),
            np.ones(n, np.int32),
            np.zeros(n, bool),
        )
        for i, n in enumerate(counts)
    )
    return Dataset("train", records, ("cat",), (1,), {}, {})


def sample(h, w, boxes=0, image_id=0):
    return Sample(
        np.full((h, w, 3), 7, np.uint8),
        np.float32([2, 3]),
        np.tile(np.float32([1, 2, 3, 4]), (boxes, 1)),
        np.arange(1, boxes + 1, dtype=np.int32),
        np.arange(boxes) % 2 == 1,
        image_id,
    )


# ---- buckets


def test_one_tight_bucket_per_orientation():
    sizes = [(480, 640), (427, 640), (640, 480), (500, 500)]
    # 480x640 -> 800x1067, 427x640 -> 800x1199, 500x500 -> 800x800 (counts as wide)
    buckets = batching.choose_buckets(sizes, config.Data(), short_side=800)
    assert buckets == ((800, 1216), (1088, 800))
    assigned = batching.assign(sizes, buckets, short_side=800, max_side=1333)
    assert assigned.tolist() == [0, 0, 1, 1]  # the square takes the smaller canvas
    assert assigned.dtype == np.int32


def test_equal_buckets_are_merged():
    square = batching.choose_buckets([(5, 5)], config.Data(), short_side=800)
    assert square == ((800, 800),)
    data = config.Data(max_side=96)
    both = batching.choose_buckets([(96, 90), (90, 96)], data, short_side=96)
    assert both == ((96, 96),)


def test_given_buckets_are_used_and_checked():
    data = config.Data(buckets=((800, 1344), (1344, 800), (800, 1088)))
    sizes = [(480, 640), (427, 640), (640, 480)]
    buckets = batching.choose_buckets(sizes, data, short_side=800)
    assert buckets == data.buckets
    assigned = batching.assign(sizes, buckets, short_side=800, max_side=1333)
    assert assigned.tolist() == [2, 0, 1]
    data = config.Data(buckets=((800, 1088),))
    with pytest.raises(ValueError, match="2 images fit none, first b.jpg of 640x427"):
        batching.choose_buckets(
            sizes, data, short_side=800, names=["a.jpg", "b.jpg", "c.jpg"]
        )
    with pytest.raises(ValueError, match="multiples of 32"):
        batching.choose_buckets(
            sizes, config.Data(buckets=((800, 1090),)), short_side=800
        )


def test_smaller_short_sides_fit_where_the_largest_does():
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 2000, (300, 2)).tolist()
    data = config.Data(max_side=1333)
    buckets = batching.choose_buckets(sizes, data, short_side=800)
    index = batching.assign(sizes, buckets, short_side=800, max_side=1333)
    for (h, w), b in zip(sizes, index, strict=True):
        for short in (1, 333, 640, 799, 800):
            hw = batching.resized_hw(h, w, short, 1333)
            assert hw[0] <= buckets[b][0] and hw[1] <= buckets[b][1]


# ---- schedule

CASES = [  # images per bucket, batch size
    ((10, 7), 4),
    ((1,), 16),
    ((3, 1), 8),
    ((5, 0, 6), 3),
    ((64, 32), 8),
    ((100, 1), 7),
]


def buckets_of(counts, seed=0):
    of_record = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(seed).permutation(of_record)


@pytest.mark.parametrize(("counts", "size"), CASES)
def test_nothing_is_dropped(counts, size):
    of_record = buckets_of(counts)
    schedule = batching.Schedule(of_record, size, seed=3)
    epochs = 3 * size  # then every bucket has filled whole batches exactly
    plans = [schedule[t] for t in range(schedule.steps_before(epochs))]
    seen = Counter(int(row) for plan in plans for row in plan.rows)
    assert seen == {row: epochs for row in range(len(of_record))}


@pytest.mark.parametrize(("counts", "size"), CASES)
def test_every_pass_of_a_bucket_is_a_permutation(counts, size):
    of_record = buckets_of(counts)
    schedule = batching.Schedule(of_record, size, seed=3)
    streams = {b: [] for b in range(len(counts))}
    for t in range(schedule.steps_before(2 * size)):
        plan = schedule[t]
        assert (of_record[plan.rows] == plan.bucket).all() and len(plan.rows) == size
        streams[plan.bucket].extend(plan.rows.tolist())
    for b, stream in streams.items():
        members = np.flatnonzero(of_record == b).tolist()
        for start in range(0, len(stream), max(1, len(members))):
            part = stream[start : start + len(members)]
            assert sorted(part) == members or len(part) < len(members)


@pytest.mark.parametrize(("counts", "size"), CASES)
def test_epochs_are_contiguous_and_counted_in_closed_form(counts, size):
    schedule = batching.Schedule(buckets_of(counts), size, seed=1)
    plans = [schedule[t] for t in range(60)]
    assert [p.step for p in plans] == list(range(60))
    epochs = [p.epoch for p in plans]
    assert epochs == sorted(epochs)
    for epoch in range(max(epochs)):
        expected = [n * (epoch + 1) // size - n * epoch // size for n in counts]
        mine = Counter(p.bucket for p in plans if p.epoch == epoch)
        assert [mine[b] for b in range(len(counts))] == expected
        assert epochs.count(epoch) == sum(expected)
    for t, epoch in enumerate(epochs):
        start = schedule.epoch_start(epoch)
        assert start <= t < schedule.epoch_start(epoch + 1)


def test_random_access_needs_no_history():
    of_record = buckets_of((30, 20))
    forward = [batching.Schedule(of_record, 4, 5)[t] for t in range(40)]
    schedule = batching.Schedule(of_record, 4, 5)
    for t in np.random.default_rng(0).permutation(40):
        plan = schedule[int(t)]
        assert plan[:3] == forward[t][:3]
        np.testing.assert_array_equal(plan.rows, forward[t].rows)
    far = schedule[10**9]
    assert far.epoch == schedule.epoch_of(10**9) and len(far.rows) == 4
    assert len(schedule) > 10**12


def test_seed_and_epoch_change_the_order():
    of_record = np.zeros(40, int)
    first = batching.Schedule(of_record, 40, 0)
    assert (first[0].rows != first[1].rows).any()
    assert (first[0].rows != batching.Schedule(of_record, 40, 1)[0].rows).any()


def test_buckets_are_mixed_within_an_epoch():
    schedule = batching.Schedule(buckets_of((400, 400)), 8, 0)
    order = [schedule[t].bucket for t in range(100)]
    assert 20 < sum(a != b for a, b in zip(order, order[1:], strict=False)) < 80


def test_fractions_of_an_epoch_interpolate():
    schedule = batching.Schedule(np.zeros(40, int), 4, 0)
    starts = [schedule.epoch_start(e) for e in (0, 0.1, 0.25, 0.99, 1, 1.5, 12)]
    assert starts == [0, 1, 2, 10, 10, 15, 120]


def test_epochs_without_steps():
    schedule = batching.Schedule(np.zeros(3, int), 8, 0)
    assert [schedule.steps_before(e) for e in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    assert [schedule[t].epoch for t in range(3)] == [2, 5, 7]
    assert Counter(schedule[0].rows.tolist()).most_common(1)[0][1] == 3


@pytest.mark.parametrize("bad", [([], 4, 0), ([0], 0, 0), ([0], 4, -1)])
def test_schedule_refuses_nonsense(bad):
    with pytest.raises(ValueError, match="schedule needs"):
        batching.Schedule(*bad)
    with pytest.raises(IndexError, match="negative"):
        batching.Schedule([0], 1, 0)[-1]


@pytest.mark.parametrize(("counts", "size"), CASES)
def test_scoring_visits_each_record_once(counts, size):
    of_record = buckets_of(counts)
    plans = batching.eval_plans(of_record, size)
    rows = np.concatenate([p.rows for p in plans])
    assert sorted(rows[rows >= 0].tolist()) == list(range(len(of_record)))
    assert len(plans) == sum(-(-n // size) for n in counts)
    for plan in plans:
        real = plan.rows[plan.rows >= 0]
        assert len(plan.rows) <= size and len(real)
        assert (of_record[real] == plan.bucket).all()
        assert (plan.rows[len(real) :] == -1).all()


@pytest.mark.parametrize(
    ("count", "size", "divisor", "sizes"),
    [
        (1, 8, 1, [1]),
        (9, 8, 1, [5, 5]),
        (17, 8, 1, [6, 6, 6]),
        (16, 8, 1, [8, 8]),
        (9, 8, 4, [8, 8]),
        (3, 8, 4, [4]),
        (9, 16, 4, [12]),
        (10, 4, 2, [4, 4, 4]),
    ],
)
def test_scoring_computes_few_fillers(count, size, divisor, sizes):
    plans = batching.eval_plans(np.zeros(count, int), size, divisor)
    assert [len(plan.rows) for plan in plans] == sizes


# ---- collating


@pytest.mark.parametrize(
    ("counts", "rows"), [([0], 8), ([3, 8], 8), ([9, 1], 16), ([1000], 1000)]
)
def test_max_boxes_is_what_the_data_needs(counts, rows):
    assert batching.max_boxes(dataset(counts), config.Data()) == rows


def test_boxes_are_never_cut():
    data = config.Data(max_boxes=10)
    assert batching.max_boxes(dataset([3, 10]), data) == 10
    with pytest.raises(ValueError, match=r"1.jpg .image id 101. has 11 boxes"):
        batching.max_boxes(dataset([3, 11]), data)


def test_collate_pads_right_and_bottom():
    first, second = sample(20, 30, 2, 5), sample(32, 10, 0, 6)
    batch = batching.collate([first, None, second], (32, 64), 8)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "images": ((3, 32, 64, 3), "uint8"),
        "image_hw": ((3, 2), "float32"),
        "scale_xy": ((3, 2), "float32"),
        "boxes": ((3, 8, 4), "float32"),
        "labels": ((3, 8), "int32"),
        "crowd": ((3, 8), "bool"),
        "image_id": ((3,), "int32"),
    }
    assert (batch["images"][0, :20, :30] == 7).all()
    assert batch["images"].sum(dtype=np.int64) == 7 * 3 * (20 * 30 + 32 * 10)
    np.testing.assert_array_equal(batch["image_hw"], [[20, 30], [32, 64], [32, 10]])
    np.testing.assert_array_equal(batch["scale_xy"], [[2, 3], [1, 1], [2, 3]])
    np.testing.assert_array_equal(batch["boxes"][0, :3, 0], [1, 1, 0])
    np.testing.assert_array_equal(batch["labels"][0, :3], [1, 2, 0])
    assert batch["crowd"].sum() == 1 and batch["crowd"][0, 1]
    np.testing.assert_array_equal(batch["image_id"], [5, -1, 6])


def test_collate_holds_no_more_than_two_samples_of_a_generator():
    alive = []

    def samples():
        for number in range(3):
            assert all(image() is None for image in alive[:-1])
            made = sample(20, 30, 2, number)
            alive.append(weakref.ref(made.image))
            yield made
            del made

    batch = batching.collate(samples(), (32, 64), 8, 3)
    listed = [sample(20, 30, 2, number) for number in range(3)]
    for name, values in batching.collate(listed, (32, 64), 8).items():
        np.testing.assert_array_equal(batch[name], values)


@pytest.mark.parametrize("bad", [(33, 5, 0), (5, 65, 0), (5, 5, 9)])
def test_collate_refuses_what_does_not_fit(bad):
    with pytest.raises(ValueError, match="does not fit the canvas 32x64 with 8 rows"):
        batching.collate([sample(*bad)], (32, 64), 8)


def test_keys_are_the_fields_of_the_batch_record():
    from frcnn_jax import types

    batch = batching.collate([None], (32, 32), 8)
    assert set(batch) == set(types.Batch._fields)
