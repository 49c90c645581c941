"""Which images form batch number t, on which canvas, and how they are put there.

Conventions: a bucket is a canvas (H, W); every batch lives on one bucket, so the
number of buckets is the number of compiled programs. Sizes are (height, width) pairs.
Everything is a pure function of its arguments: batch t of a run needs no history, any
process can work it out, and resuming takes one integer.

Not here: reading images (see `loader`), randomness of augmentation.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from frcnn_jax import config
from frcnn_jax.data.records import Dataset
from frcnn_jax.data.transforms import Sample, resized_hw

MULTIPLE = 32  # of bucket sides: the coarsest backbone stride
ROW_MULTIPLE = 8  # of ground-truth rows
PERMUTATION, ORDER = 1, 2  # which random stream; augmentation uses none of them

Bucket = tuple[int, int]


def choose_buckets(
    sizes_hw: Sequence[tuple[int, int]],
    data: config.Data,
    *,
    short_side: int,
    names: Sequence[str] = (),
) -> tuple[Bucket, ...]:
    """Give the canvases (H, W) for images of original sizes [N] (height, width).

    `data.buckets` when set; ValueError then names an image (from `names`) that fits
    none. Otherwise one canvas per orientation (w >= h and w < h), as tight as these
    images allow at `short_side` (the largest of training), rounded up to 32; equal ones
    merged.
    """
    resized = _resized(sizes_hw, short_side, data.max_side)
    if data.buckets:
        buckets = tuple((int(h), int(w)) for h, w in data.buckets)
        for bucket in buckets:
            if min(bucket) < 1 or any(side % MULTIPLE for side in bucket):
                raise ValueError(
                    f"data.buckets: {bucket} must be (H, W) in multiples of {MULTIPLE}"
                )
        _check_fit(resized, sizes_hw, buckets, names=names)
        return buckets
    tall = np.array([w < h for h, w in sizes_hw])
    tight = [resized[side].max(0) for side in (~tall, tall) if side.any()]
    whole = [(-(-hw // MULTIPLE) * MULTIPLE).astype(int) for hw in tight]
    rounded = [(int(height), int(width)) for height, width in whole]
    return tuple(dict.fromkeys(rounded))


def assign(
    sizes_hw: Sequence[tuple[int, int]],
    buckets: Sequence[Bucket],
    *,
    short_side: int,
    max_side: int,
) -> np.ndarray:
    """Give each image [N] the index (int32) of the smallest bucket that holds it.

    Images are measured at `short_side`; smaller ones then fit too. Of equal areas the
    first bucket is taken. ValueError when an image fits none.
    """
    resized = _resized(sizes_hw, short_side, max_side)
    _check_fit(resized, sizes_hw, buckets, names=())
    area = np.array([h * w for h, w in buckets], np.float64)
    return np.where(_fits(resized, buckets), area, np.inf).argmin(1).astype(np.int32)


def _resized(sizes_hw, short_side: int, max_side: int) -> np.ndarray:
    """Sizes by the rule "round", which are never below those of the others."""
    resized = [resized_hw(h, w, short_side, max_side) for h, w in sizes_hw]
    return np.array(resized, np.int64).reshape(-1, 2)


def _fits(resized: np.ndarray, buckets: Sequence[Bucket]) -> np.ndarray:
    fits: np.ndarray = resized[:, None] <= np.array(buckets)[None]
    return np.all(fits, axis=2)  # [N, buckets]


def _check_fit(resized, sizes_hw, buckets, *, names) -> None:
    misfits = np.flatnonzero(~_fits(resized, buckets).any(1))
    if len(misfits):
        row = misfits[0]
        h, w = sizes_hw[row]
        raise ValueError(
            f"data.buckets {tuple(buckets)}: {len(misfits)} images fit none, first"
            f" {names[row] if len(names) else f'image number {row}'} of {w}x{h}, which"
            f" is resized to height {resized[row, 0]} and width {resized[row, 1]}; add"
            " a bucket that holds it, or lower data.short_sides, data.eval_short_side"
            " or data.max_side"
        )


class Plan(NamedTuple):
    """What one global batch consists of."""

    step: int
    epoch: int
    bucket: int
    rows: np.ndarray  # [B] rows of the data set, -1 = filler


class Schedule:
    """The endless sequence of training batches: `schedule[step] -> Plan`.

    A pure function of (seed, step). Bucket b with n_b images has delivered
    floor(e * n_b / batch_size) batches when epoch e begins, so what does not fill a
    batch starts the next epoch and no image is ever dropped. Position p of a bucket's
    stream is element p % n_b of its permutation number p // n_b. Inside an epoch the
    buckets' batches are shuffled. An epoch of a set smaller than a batch may hold no
    step. (mmdetection 3.3.0 mixes its leftovers in shape instead; torchvision's
    grouped sampler repeats images.)
    """

    def __init__(
        self, bucket_of_record: Sequence[int] | np.ndarray, batch_size: int, seed: int
    ):
        """Take each record's bucket index [N], the global batch size and a seed."""
        if not len(bucket_of_record) or batch_size < 1 or seed < 0:
            raise ValueError(
                f"a schedule needs records ({len(bucket_of_record)}), a positive batch"
                f" size ({batch_size}) and a seed of 0 or more ({seed})"
            )
        of_record = np.asarray(bucket_of_record)
        self.batch_size, self.seed = batch_size, seed
        self.members = tuple(
            np.flatnonzero(of_record == b) for b in range(int(of_record.max()) + 1)
        )
        self.num_records = len(of_record)
        # Caches of pure functions; lru_cache is safe under the loader's threads.
        self._permutation = functools.lru_cache(4 * len(self.members))(self._permute)
        self._order = functools.lru_cache(4)(self._shuffle)

    def __len__(self) -> int:
        """Return a number of steps that no run reaches."""
        return 2**50

    def delivered(self, bucket: int, epoch: int) -> int:
        """Count the batches a bucket has given before an epoch begins."""
        return epoch * len(self.members[bucket]) // self.batch_size

    def steps_before(self, epoch: int) -> int:
        """Count the steps of all epochs before this one."""
        return sum(self.delivered(b, epoch) for b in range(len(self.members)))

    def epoch_start(self, epoch: float) -> int:
        """Give the first step of an epoch; fractions interpolate inside the epoch."""
        whole = math.floor(epoch)
        low, high = self.steps_before(whole), self.steps_before(whole + 1)
        return low + round((epoch - whole) * (high - low))

    def epoch_of(self, step: int) -> int:
        """Find the epoch in which a step lies."""
        epoch = step * self.batch_size // self.num_records
        while self.steps_before(epoch) > step:
            epoch -= 1
        while self.steps_before(epoch + 1) <= step:
            epoch += 1
        return epoch

    def __getitem__(self, step: int) -> Plan:
        """Return the plan of a step, 0 or more, in any order."""
        step = int(step)
        if step < 0:
            raise IndexError(f"step {step} is negative")
        epoch = self.epoch_of(step)
        order = self._order(epoch)
        within = step - self.steps_before(epoch)
        bucket = int(order[within])
        batch = self.delivered(bucket, epoch) + int((order[:within] == bucket).sum())
        positions = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        return Plan(step, epoch, bucket, self._rows(bucket, positions))

    def _rows(self, bucket: int, positions: np.ndarray) -> np.ndarray:
        members = self.members[bucket]
        cycles, places = np.divmod(positions, len(members))
        rows = np.empty(len(positions), np.int64)
        for cycle in np.unique(cycles):
            here = cycles == cycle
            rows[here] = members[self._permutation(bucket, int(cycle))[places[here]]]
        return rows

    def _permute(self, bucket: int, cycle: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, bucket, cycle, PERMUTATION])
        return rng.permutation(len(self.members[bucket]))

    def _shuffle(self, epoch: int) -> np.ndarray:
        """Return the bucket of each step of an epoch."""
        buckets = range(len(self.members))
        counts = [
            self.delivered(b, epoch + 1) - self.delivered(b, epoch) for b in buckets
        ]
        rng = np.random.default_rng([self.seed, epoch, 0, ORDER])
        return rng.permutation(np.repeat(buckets, counts))


def eval_plans(
    bucket_of_record: Sequence[int] | np.ndarray, batch_size: int, divisor: int = 1
) -> tuple[Plan, ...]:
    """Plan one pass over all records: every record once, bucket after bucket.

    A bucket takes as few batches as `batch_size`, a multiple of `divisor`, allows, all
    of one size: the smallest multiple of `divisor` that holds its records, since a
    filler (a row of -1) costs what an image costs. Fillers end its last batch.
    """
    of_record = np.asarray(bucket_of_record)
    plans: list[Plan] = []
    for bucket in np.unique(of_record):
        members = np.flatnonzero(of_record == bucket)
        batches = -(-len(members) // batch_size)
        size = -(-len(members) // (batches * divisor)) * divisor
        batches = -(-len(members) // size)
        padded = np.full(batches * size, -1)
        padded[: len(members)] = members
        for rows in padded.reshape(-1, size):
            plans.append(Plan(len(plans), 0, int(bucket), rows))
    return tuple(plans)


def max_boxes(dataset: Dataset, data: config.Data) -> int:
    """Give the ground-truth rows per image: `data.max_boxes`, or what the data needs.

    The need is the largest count rounded up to a multiple of 8, at least 8. Boxes are
    never cut: ValueError names the image when `data.max_boxes` is too small for it.
    """
    fullest = max(dataset.records, key=lambda r: len(r.labels))
    most = len(fullest.labels)
    if not data.max_boxes:
        return max(1, -(-most // ROW_MULTIPLE)) * ROW_MULTIPLE
    if data.max_boxes < most:
        raise ValueError(
            f"data.max_boxes is {data.max_boxes}, but {fullest.path} (image id"
            f" {fullest.source_id!r}) has {most} boxes; raise it to {most} or more, or"
            " set 0 to take what the data needs"
        )
    return data.max_boxes


def collate(
    samples: Iterable[Sample | None],
    bucket: Bucket,
    max_boxes: int,
    count: int | None = None,
) -> dict[str, np.ndarray]:
    """Put samples on one canvas: a dict of arrays keyed by the fields of `types.Batch`.

    With their `count` they may come from a generator: two are held at a time, not all.

    Images [B, H, W, 3] uint8 lie top left on zeros; boxes stay in network pixels. None
    becomes a filler image: zeros, image_id -1, image_hw the bucket's, scale 1.
    ValueError for a sample larger than the bucket or with more boxes than `max_boxes`.
    """
    if count is None:
        samples = list(samples)
        count = len(samples)
    n, (height, width) = count, bucket
    batch: dict[str, np.ndarray] = {
        "images": np.zeros((n, height, width, 3), np.uint8),
        "image_hw": np.tile(np.array(bucket, np.float32), (n, 1)),
        "scale_xy": np.ones((n, 2), np.float32),
        "boxes": np.zeros((n, max_boxes, 4), np.float32),
        "labels": np.zeros((n, max_boxes), np.int32),
        "crowd": np.zeros((n, max_boxes), bool),
        "image_id": np.full(n, -1, np.int32),
    }
    for i, sample in enumerate(samples):
        if sample is not None:
            _place(batch, i, sample)
    return batch


def _place(batch: dict[str, np.ndarray], i: int, sample: Sample) -> None:
    (h, w), boxes = sample.image.shape[:2], len(sample.labels)
    canvas_hw, rows = batch["images"].shape[1:3], batch["labels"].shape[1]
    if h > canvas_hw[0] or w > canvas_hw[1] or boxes > rows:
        raise ValueError(
            f"image {sample.image_id} of {h}x{w} (height, width) with {boxes} boxes"
            f" does not fit the canvas {canvas_hw[0]}x{canvas_hw[1]} with {rows} rows"
        )
    batch["images"][i, :h, :w] = sample.image
    batch["image_hw"][i] = h, w
    batch["scale_xy"][i] = sample.scale_xy
    batch["boxes"][i, :boxes] = sample.boxes
    batch["labels"][i, :boxes] = sample.labels
    batch["crowd"][i, :boxes] = sample.crowd
    batch["image_id"][i] = sample.image_id
