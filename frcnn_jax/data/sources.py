"""Any data set becomes a `Dataset` here: its kind recognised, read, judged, stacked.

Every kind of source gives the same raw form (`records.Raw`), a dictionary as in a COCO
file and something to read each picture from; one set of rules then judges all.
Conventions: boxes are (x, y, width, height) in original pixels in the raw form, xyxy
and clipped to the image in records. Labels follow ascending category id. Boxes leave
the training records for the reasons mmdetection 3.3.0 has
(`CocoDataset.parse_data_info`): no overlap with the image, or a side too small; the
dictionary for scoring keeps them, because the official metric counts them.

Not here: pixels (no image is opened).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from frcnn_jax import config
from frcnn_jax.data import annotations, coco, contents
from frcnn_jax.data.findings import Finding, Findings
from frcnn_jax.data.records import Dataset, Raw, Record


class Examined(NamedTuple):
    """A split as it was read and what was found; no judgement is passed yet."""

    raw: Raw
    findings: Findings
    dataset: Dataset | None  # None when an error leaves nothing to build from


def load(data: config.Data, split: str, training: bool) -> Dataset:
    """Read one split of the data set at `data.root`.

    With `training`, boxes that cannot be learned (see the module) leave the records,
    images without boxes leave unless `data.keep_empty`, and a split without any box is
    an error. Records ascend by image id. Raises FileNotFoundError for missing folders
    and files, and ValueError naming all errors of the contents.
    """
    found = examine(data, split, training)
    found.findings.raise_errors()
    dataset, source = found.dataset, found.raw.source
    why = "".join(f"; {text}: {n}" for text, n in found.findings.summary().items())
    total = len(found.raw.content["images"])
    if not dataset.records:
        raise ValueError(f"{source}: no image is left of {total}{why}")
    if training and not any(len(r.boxes) for r in dataset.records):
        raise ValueError(
            f"{source}: no box to learn from in {len(dataset.records)} images{why}"
        )
    return dataset


def examine(data: config.Data, split: str, training: bool) -> Examined:
    """Read one split and find all that is odd, raising only for what is unreadable."""
    skip = ("missing-image",) if data.on_bad_image == "skip" else ()
    findings = Findings(skip)
    raw = read(data, split, findings)
    return Examined(raw, findings, _build(raw, data, training, findings))


def read(data: config.Data, split: str, findings: Findings) -> Raw:
    """Read one split as its files tell it."""
    return coco.read(_existing(data.root), split, findings)


def _existing(root: str) -> Path:
    if not root:
        raise ValueError("data.root is empty: set it to the folder of your data")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"data.root: there is no folder {root}")
    return Path(root)


def _build(
    raw: Raw, data: config.Data, training: bool, findings: Findings
) -> Dataset | None:
    source, listed = raw.source, raw.content["annotations"]
    known = {"source": source, "findings": findings}
    for key in ("images", "categories"):
        if not raw.content[key]:
            raise ValueError(f"{source}: {key!r} is empty; list every one there")
    categories = contents.categories(raw.content, **known)
    categories = contents.select(categories, data.classes, source)
    images = contents.images(raw.content, **known)
    if not images or not categories:
        return None
    columns = annotations.stack(listed, images, categories, **known)
    annotations.check_geometry(columns, images, listed, **known)
    keep_box = annotations.box_filter(
        columns, images, data, training=training, annotations=listed, **known
    )
    keep = _existing_images(raw, images, findings)
    if training and not data.keep_empty:
        filled = np.bincount(columns.image[keep_box], minlength=len(images)) > 0
        findings.add_where("empty-image", keep & ~filled, _place(images, source))
        keep &= filled
    scoring = annotations.scoring_dictionary(
        raw.content.get("info") or {},
        *(listed, images, categories, columns),
        keep=keep,
        **known,
    )
    return Dataset(
        name=raw.name,
        records=_records(raw, images, columns, keep_box=keep_box, keep=keep),
        class_names=tuple(c["name"] for c in categories if c["label"]),
        category_ids=tuple(c["id"] for c in categories if c["label"]),
        annotations=scoring,
        skipped=findings.summary(),
    )


def _place(images: list[dict], source: str, fault: str = "empty-image"):
    return lambda row: Finding(
        fault, source, images[row]["id"], detail=images[row]["file_name"]
    )


def _existing_images(raw: Raw, images: list[dict], findings: Findings) -> np.ndarray:
    """Say which images have a picture ([I] bool), noting the others."""
    there = np.array([raw.pictures[i["row"]] is not None for i in images], bool)
    bad_path = {f.image for f in findings.of("image-path")}
    missing = ~there & np.array([i["id"] not in bad_path for i in images], bool)
    findings.add_where(
        "missing-image", missing, _place(images, raw.source, "missing-image")
    )
    return there


def _records(
    raw: Raw,
    images: list[dict],
    columns: annotations.Columns,
    *,
    keep_box: np.ndarray,
    keep: np.ndarray,
) -> tuple[Record, ...]:
    size = annotations.image_sizes(images)[columns.image]
    low, side = columns.xywh[:, :2], columns.xywh[:, 2:]
    xyxy = np.concatenate([low.clip(0, size), (low + side).clip(0, size)], 1)
    rows = np.flatnonzero(keep_box)
    rows = rows[np.argsort(columns.image[rows], kind="stable")]
    ends = np.cumsum(np.bincount(columns.image[rows], minlength=len(images)))
    groups = np.split(rows, ends[:-1])
    return tuple(
        Record(
            path=raw.pictures[images[i]["row"]],
            source_id=images[i]["id"],
            width=int(images[i]["width"]),
            height=int(images[i]["height"]),
            boxes=xyxy[groups[i]].astype(np.float32),
            labels=columns.label[groups[i]].astype(np.int32),
            crowd=columns.crowd[groups[i]],
        )
        for i in np.flatnonzero(keep)
    )
