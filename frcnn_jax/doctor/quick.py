"""What is cheap enough to look at before every training: no picture is decoded.

The annotations were judged when they were read; this adds what joins them with the
configuration, with the other split and with the files' headers.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from frcnn_jax import config
from frcnn_jax.data.findings import FAULTS
from frcnn_jax.data.records import Dataset
from frcnn_jax.doctor import advice, pictures, statistics

HEADERS = 100  # files opened of each split
OBJECTS = 50_000  # matched with the anchors


def warnings(run: config.Run, train: Dataset, val: Dataset) -> Iterator[str]:
    """Yield a line for each oddity: warm-up, anchors that do not fit, files, sizes."""
    if 0 < run.train.steps <= run.train.warmup_steps:
        yield (
            f"train.warmup_steps is {run.train.warmup_steps}, so the learning rate is"
            f" not reached in {run.train.steps} steps"
        )
    some = _every(train, max(1, sum(len(r.boxes) for r in train.records) // OBJECTS))
    numbers = statistics.of(some, run)
    if len(numbers.side):
        yield from advice.of_anchors(run, numbers.at[-1])
    both = _files(train) & _files(val)
    if both and train.name != val.name:
        yield (
            f"{len(both)} files are both in {train.name} and in {val.name}, first"
            f" {min(both)}: {FAULTS['leak'].remedy}"
        )
    for split in (train, val):
        yield from _headers(split)


def _files(split: Dataset) -> set[str]:
    return {str(r.path) for r in split.records if isinstance(r.path, Path)}


def _headers(split: Dataset) -> Iterator[str]:
    """Compare some pictures, spread over the split, with what is stated of them."""
    some = _every(split, max(1, len(split.records) // HEADERS)).records
    looks = list(pictures.examine_headers(some))
    odd = [(r, look) for r, look in zip(some, looks, strict=True) if look.faults]
    if odd:
        record, look = odd[0]
        yield (
            f"{len(odd)} of {len(some)} pictures of {split.name} that were opened are"
            f" odd, first {record.path}: {look.faults[0][1]}; `python -m frcnn_jax.data"
            " check` looks at all"
        )


def _every(split: Dataset, step: int) -> Dataset:
    return dataclasses.replace(split, records=split.records[::step])
