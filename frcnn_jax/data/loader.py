"""Batches for training, scoring and prediction, read by threads.

Conventions: batches are dicts of numpy arrays keyed by the fields of `types.Batch`;
`image_id` is the row of the record in its data set. Training never ends and starts at
any step; scoring passes once over all records. Batches do not depend on the number of
threads. Each process loads its own rows of the same global batch, so all processes run
the same canvas at the same step without talking to each other.

Grain drives the threads (OpenCV releases the interpreter lock); its own checkpoint
state is not used, because the step alone says where a run is.

Not here: the move to devices.
"""

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from frcnn_jax import config
from frcnn_jax.data import augment, batching, transforms
from frcnn_jax.data.augment import Drawn
from frcnn_jax.data.records import Dataset, Record
from frcnn_jax.data.transforms import BadImage, Pixels, Sample

log = logging.getLogger(__name__)

LOGGED = 5  # messages of one kind written to the log; all are counted

Arrays = dict[str, np.ndarray]


class Oddities:
    """Images that were unreadable or odd, each counted once, safe under threads."""

    def __init__(self):
        """Start with none."""
        self._lock = threading.Lock()
        self._rows: dict[str, set[int]] = {"bad": set(), "odd": set()}

    def add(self, kind: str, row: int, message: str) -> None:
        """Count an image as "bad" or "odd"; the first few are logged."""
        with self._lock:
            rows = self._rows[kind]
            new = row not in rows
            rows.add(row)
        if new and len(rows) <= LOGGED:
            log.warning("%s", message)

    def count(self, kind: str) -> int:
        """Return how many different images were of this kind so far."""
        with self._lock:
            return len(self._rows[kind])


class _Reader:
    """Turns rows of a data set into samples."""

    def __init__(self, dataset: Dataset, data: config.Data, buckets, of_record):
        if data.on_bad_image not in ("error", "skip"):
            raise ValueError(
                f"data.on_bad_image is {data.on_bad_image!r}; it must be 'error' or"
                " 'skip'"
            )
        self.records, self.data = dataset.records, data
        self.buckets, self.of_record = buckets, of_record
        self.oddities = Oddities()

    def sample(self, row: int, drawn: Drawn) -> Sample:
        """Read one record; BadImage names file and id."""
        record, data = self.records[row], self.data
        try:
            enough = 0.0
            if not data.exact_decode:
                wanted = augment.resized_hw(record.height, record.width, data, drawn)
                enough = wanted[0] / record.height
            pixels = transforms.read_pixels(record, data.max_image_pixels, enough)
            sample = augment.make_sample(pixels, record, data, drawn, row)
            self._check_canvas(sample, record)
        except BadImage as error:
            raise BadImage(f"{error} (image id {record.source_id!r})") from error
        if pixels.note:
            self.oddities.add("odd", row, f"{record.path}: {pixels.note}")
        return sample

    def _check_canvas(self, sample: Sample, record: Record) -> None:
        # Only a file whose size is not the JSON's can end up here.
        hw = sample.image.shape[:2]
        bucket = self.buckets[self.of_record[sample.image_id]]
        if hw[0] > bucket[0] or hw[1] > bucket[1]:
            raise BadImage(
                f"{record.path}: its shape differs so much from the"
                f" {record.width}x{record.height} of the JSON that it does not fit the"
                f" canvas {bucket} chosen by that; correct width and height there"
            )

    def sample_or_none(self, row: int, drawn: Drawn) -> Sample | None:
        """Read one record; None for an unreadable one under "skip", counted."""
        try:
            return self.sample(row, drawn)
        except BadImage as error:
            if self.data.on_bad_image == "error":
                raise BadImage(
                    f'{error}. Repair or remove it, or set data.on_bad_image to "skip"'
                ) from error
            self.oddities.add("bad", row, f"skipped: {error}")
            return None

    def sample_or_next(self, row: int, members: np.ndarray, drawn: Drawn) -> Sample:
        """Read one record or, under "skip", the next readable one of its bucket."""
        start = int(np.searchsorted(members, row))
        for candidate in np.roll(members, -start):
            sample = self.sample_or_none(int(candidate), drawn)
            if sample is not None:
                return sample
        raise BadImage(
            f"none of the {len(members)} images of this bucket can be read, first"
            f" {self.records[row].path}"
        )


class TrainBatches:
    """An endless iterator of this process's batches; see `train_batches`."""

    def __init__(
        self,
        reader: _Reader,
        schedule: batching.Schedule,
        *,
        max_boxes: int,
        rows: slice,
        start_step: int,
    ):
        """Keep the plan; threads start with the first batch."""
        self.schedule, self.buckets = schedule, reader.buckets
        self.max_boxes = max_boxes
        self._reader, self._rows = reader, rows
        self._start, self._batches = start_step, None

    def __iter__(self) -> Iterator[Arrays]:
        """Return itself: there is one position in the stream."""
        return self

    def __next__(self) -> Arrays:
        """Return the next batch; the first call starts the threads."""
        if self._batches is None:
            plans = _threaded(self.schedule, self._load, self._reader.data, self._start)
            self._batches = iter(plans)
        return next(self._batches)

    def start_at(self, step: int) -> None:
        """Begin with the batch of this step instead; before the first batch only."""
        if self._batches is not None:
            raise ValueError(f"start_at({step}): the batches have begun")
        self._start = step

    @property
    def bad_images(self) -> int:
        """How many different images were unreadable and replaced so far."""
        return self._reader.oddities.count("bad")

    @property
    def odd_images(self) -> int:
        """How many images differed from their JSON in size or rotation so far."""
        return self._reader.oddities.count("odd")

    def close(self) -> None:
        """Stop the threads."""
        if self._batches is not None:
            self._batches.close()

    def _load(self, plan: batching.Plan) -> Arrays:
        positions = range(*self._rows.indices(len(plan.rows)))
        samples = (self._sample(plan, position) for position in positions)
        bucket = self.buckets[plan.bucket]
        return batching.collate(samples, bucket, self.max_boxes, len(positions))

    def _sample(self, plan: batching.Plan, position: int) -> Sample:
        # Seeded by the place in the global batch: augmentation is the same for any
        # number of processes and threads.
        rng = np.random.default_rng([self.schedule.seed, plan.step, position])
        drawn = augment.draw(self._reader.data, rng)
        members = self.schedule.members[plan.bucket]
        return self._reader.sample_or_next(int(plan.rows[position]), members, drawn)


class EvalBatches:
    """A finite, repeatable pass over a data set; see `eval_batches`."""

    def __init__(
        self,
        reader: _Reader,
        plans: tuple[batching.Plan, ...],
        *,
        max_boxes: int,
        share: tuple[int, int],
    ):
        """Keep the plans; `share` is this process's number and their count.

        Threads start with each iteration.
        """
        self.plans, self.buckets, self.max_boxes = plans, reader.buckets, max_boxes
        self._reader = reader
        self._rows = {n: _process_rows(n, *share) for n in {len(p.rows) for p in plans}}

    def __len__(self) -> int:
        """Return the number of batches, the same in every process."""
        return len(self.plans)

    def __iter__(self) -> Iterator[Arrays]:
        """Begin a pass."""
        return iter(_threaded(self.plans, self._load, self._reader.data))

    @property
    def bad_images(self) -> int:
        """How many different images were unreadable and left out so far."""
        return self._reader.oddities.count("bad")

    @property
    def odd_images(self) -> int:
        """How many images differed from their JSON in size or rotation so far."""
        return self._reader.oddities.count("odd")

    def _load(self, plan: batching.Plan) -> Arrays:
        plain = Drawn(self._reader.data.eval_short_side)
        rows = plan.rows[self._rows[len(plan.rows)]]
        samples = (
            self._reader.sample_or_none(int(row), plain) if row >= 0 else None
            for row in rows
        )
        bucket = self.buckets[plan.bucket]
        return batching.collate(samples, bucket, self.max_boxes, len(rows))


def train_batches(
    dataset: Dataset,
    data: config.Data,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainBatches:
    """Iterate over training batches without end, from `start_step` on.

    `batch_size` is global; this process yields rows [index * n, (index + 1) * n) with
    n = batch_size / process_count. Augmentation depends on (seed, step, position in the
    global batch) only. Has `schedule`, `buckets`, `max_boxes`, `bad_images`,
    `odd_images`. Iterating raises BadImage (file and id named) for an unreadable
    image; with `data.on_bad_image` "skip" the next readable record of the same bucket
    takes its place under its own row.
    """
    rows = _process_rows(batch_size, process_index, process_count)
    if data.crop:
        cv2.setNumThreads(1)
        one = np.zeros(len(dataset.records), np.int32)
        reader = _Reader(dataset, data, (tuple(data.crop),), one)
    else:
        reader = _reader(dataset, data, short_side=max(data.short_sides))
    return TrainBatches(
        reader,
        batching.Schedule(reader.of_record, batch_size, seed),
        max_boxes=batching.max_boxes(dataset, data),
        rows=rows,
        start_step=start_step,
    )


def eval_batches(
    dataset: Dataset,
    data: config.Data,
    *,
    batch_size: int,
    divisor: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> EvalBatches:
    """Pass over every record once, at `data.eval_short_side`, unmirrored.

    Each batch lies on one bucket and has at most `batch_size` images over all processes
    (a multiple of `divisor`: the devices, or else the processes), fewer where that
    spares fillers: images of id -1. All processes yield equally many batches in the
    same order of buckets, each its rows of the global batch. Unreadable images raise
    BadImage or, with `data.on_bad_image` "skip", become filler and are counted in
    `bad_images`.
    """
    share = process_index, process_count
    _process_rows(batch_size, *share)  # raises for what cannot be shared
    data = uncropped(data)
    reader = _reader(dataset, data, short_side=data.eval_short_side)
    return EvalBatches(
        reader,
        batching.eval_plans(reader.of_record, batch_size, divisor or process_count),
        max_boxes=batching.max_boxes(dataset, data),
        share=share,
    )


def image_sample(image: np.ndarray, data: config.Data, drawn: Drawn) -> Sample:
    """Turn uint8 RGB [H, W, 3] into a sample without boxes and with the image_id 0.

    Buckets for such samples follow from their resized sizes: resizing again changes
    nothing.
    """
    h, w = image.shape[:2]
    none = np.zeros(0, np.int32)
    boxes = np.zeros((0, 4), np.float32)
    record = Record(Path(), 0, w, h, boxes, none, none.astype(bool))
    pixels = Pixels(image, "", (h, w))
    return augment.make_sample(pixels, record, uncropped(data), drawn, 0)


def uncropped(data: config.Data) -> config.Data:
    """Return the fields for whole images, as scoring and prediction see them."""
    return dataclasses.replace(data, crop=(), scale_jitter=())


def _reader(dataset: Dataset, data: config.Data, *, short_side: int) -> _Reader:
    cv2.setNumThreads(1)  # our threads each take an image; OpenCV's would compete
    sizes = [(r.height, r.width) for r in dataset.records]
    names = [str(r.path) for r in dataset.records]
    buckets = batching.choose_buckets(sizes, data, short_side=short_side, names=names)
    of_record = batching.assign(
        sizes, buckets, short_side=short_side, max_side=data.max_side
    )
    return _Reader(dataset, data, buckets, of_record)


def _process_rows(batch_size: int, index: int, count: int) -> slice:
    if batch_size < 1 or batch_size % count or not 0 <= index < count:
        raise ValueError(
            f"a batch of {batch_size} cannot be shared by {count} processes (this is"
            f" number {index}); make the batch size a multiple of their number"
        )
    n = batch_size // count
    return slice(index * n, (index + 1) * n)


def _threaded(
    plans: Any, load: Callable[[Any], Arrays], data: config.Data, start: int = 0
) -> Any:
    """The loaded plans from `start` on, in order, read ahead by threads."""
    import grain  # a fifth of a second that prediction and conversion do without

    batches = grain.MapDataset.source(plans)[start:].map(load)
    threads = min(data.threads, data.prefetch)  # each holds one batch of the buffer
    return batches.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=data.prefetch)
    )
