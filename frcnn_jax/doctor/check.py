"""The check put together: each split read, judged, looked at and counted."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from frcnn_jax import config
from frcnn_jax.data import records, sources
from frcnn_jax.data.findings import Findings
from frcnn_jax.doctor import advice, boxes, pictures, statistics

USUAL = ("test", "valid")  # looked at beside data.train and data.val
PATIENCE = 10.0  # seconds between words about progress


class Checked(NamedTuple):
    """One split."""

    name: str
    examined: sources.Examined
    looks: tuple[pictures.Look, ...]  # of the records
    numbers: statistics.Statistics | None  # None: there is nothing to count

    @property
    def findings(self) -> Findings:
        """What was found."""
        return self.examined.findings


class Report(NamedTuple):
    """What is known about a data set."""

    run: config.Run  # with data.root
    kind: str
    splits: tuple[Checked, ...]
    unseen: tuple[str, ...]  # splits that were not looked at
    advice: tuple[str, ...]
    config: str = ""  # name of the configuration, for people

    def count(self, *policies: str) -> int:
        """How many findings of all splits have one of these policies."""
        return sum(
            split.findings.counts[fault]
            for split in self.splits
            for fault in split.findings.with_policy(*policies)
        )


def examine(
    run: config.Run,
    names: Sequence[str] = (),
    *,
    decode: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> Report:
    """Check splits of the data set at `run.data.root`, by default the usual ones.

    All of each split is looked at as training would, whatever `data.fraction`,
    `data.image_ids` and `data.keep_empty` leave out later. `decode` opens every
    picture; without, headers only. `tell` hears of progress. Raises ValueError and
    OSError for what cannot be read at all.
    """
    kind, known = sources.kind(run.data.root), sources.splits(run.data.root)
    names = tuple(dict.fromkeys(names)) or usual(run.data, known)
    splits = tuple(_checked(run, name, decode, tell) for name in names)
    by_name = {split.name: split for split in splits}
    first = by_name.get(run.data.train, splits[0])
    for split in splits:
        if split is not first:
            _compare(first, split)
    unseen = tuple(name for name in known if name not in names)
    order = sorted(splits, key=lambda split: split is not first)
    numbers = [split.numbers for split in order if split.numbers]
    found = tuple(advice.lines(run, numbers, known))
    return Report(run, kind, splits, unseen, found)


def usual(data: config.Data, known: Sequence[str]) -> tuple[str, ...]:
    """Return the splits that a run with these fields, or a reader, would ask for."""
    wanted = dict.fromkeys((data.train, data.val, *USUAL))
    there = tuple(name for name in wanted if advice.there(name, known))
    return there or tuple(known)


def _checked(run: config.Run, name: str, decode: bool, tell) -> Checked:
    data = dataclasses.replace(
        run.data,
        val=run.data.train,  # nothing is held out: all of a lone split is looked at
        fraction=1.0,
        image_ids=(),
        keep_empty=True,
    )
    examined = sources.examine(data, name, training=True)
    dataset, findings = examined.dataset, examined.findings
    if dataset is None:
        return Checked(name, examined, (), None)
    found = dataset.records
    read = pictures.examine(found, data) if decode else pictures.examine_headers(found)
    looks = tuple(_with_progress(read, f"{name}: pictures", len(found), tell))
    pictures.note(found, looks, findings)
    pairs = zip(found, looks, strict=True)
    unread = {record.source_id for record, look in pairs if not look.usable}
    boxes.note(dataset, examined.raw.source, findings, unread)
    return Checked(name, examined, looks, statistics.of(dataset, run))


def _with_progress(looks, what: str, total: int, tell):
    last = time.monotonic()
    for done, look in enumerate(looks, start=1):
        yield look
        if time.monotonic() - last > PATIENCE:
            last = time.monotonic()
            tell(f"{what} {done} of {total}")


def _compare(train: Checked, other: Checked) -> None:
    """Find pictures that both splits hold, and classes that they do not share."""
    if train.examined.dataset is None or other.examined.dataset is None:
        return
    seen = {look.digest: record for look, record in _pairs(train) if look.digest}
    for look, record in _pairs(other):
        if look.digest in seen:
            other.findings.add(
                *("leak", record.path),
                image=record.source_id,
                detail=f"in {train.name} it is {seen[look.digest].path}",
            )
    try:
        names = train.examined.dataset.class_names
        records.align_classes(other.examined.dataset, names)
    except ValueError as error:
        source = other.examined.raw.source
        other.findings.add("class-names", source, detail=str(error))


def _pairs(split: Checked):
    return zip(split.looks, split.examined.dataset.records, strict=True)
