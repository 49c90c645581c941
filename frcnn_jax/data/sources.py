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
from typing import Any, NamedTuple

import numpy as np

from frcnn_jax import config
from frcnn_jax.data import annotations, coco, contents, tfds, voc, yolo
from frcnn_jax.data.findings import NAMED, Finding, Findings
from frcnn_jax.data.records import Dataset, Raw, Record, hint

TITLES = {
    "coco": "COCO annotations",
    "voc": "Pascal VOC annotations",
    "yolo": "YOLO labels",
    "tfds": "TensorFlow Datasets",
}
# What `data.on_bad_image` speaks of.
BAD_IMAGES = ("missing-image", "unreadable-image", "too-many-pixels", "size-and-boxes")


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
    skip = BAD_IMAGES if data.on_bad_image == "skip" else ()
    findings = Findings(skip)
    raw = _chosen(read(data, split, findings), data, training, findings)
    return Examined(raw, findings, _build(raw, data, training, findings))


def read(data: config.Data, split: str, findings: Findings) -> Raw:
    """Read one split as its files tell it.

    Where the set has no validation split but only the training one, `data.val` is
    `data.val_fraction` of it, drawn once and for all, and `data.train` is the rest.
    """
    what = kind(data.root)
    held_out = split in (data.train, data.val) and held_out_fraction(data, what)
    raw = _read(data, what, data.train if held_out else split, findings)
    images = raw.content["images"]
    if not held_out or (len(images) < 2 and split == data.train):
        return raw
    chosen = _drawn(len(images), held_out)
    if split != data.val:
        chosen = ~chosen
    else:
        print(
            f"{data.root} has no split {data.val!r}: {chosen.sum()} of the"
            f" {len(images)} images of {data.train!r} are held out for it"
            " (data.val_fraction)"
        )
    return _only(raw._replace(name=split), chosen)


def kind(root: str) -> str:
    """Recognise a data set: "coco", "voc", "yolo" or "tfds".

    Raises ValueError for an empty name, FileNotFoundError for a folder that is not
    there or holds none of these.
    """
    if not root:
        raise ValueError("data.root is empty: set it to the folder of your data")
    if root.startswith(tfds.PREFIX):
        return "tfds"
    place = Path(root)
    if not place.exists():
        raise FileNotFoundError(f"data.root: there is no folder {root}")
    if place.is_file():
        if yolo.description(place):
            return "yolo"
        raise FileNotFoundError(f"data.root: {root} is a file; name its folder")
    if coco.splits(place):
        return "coco"
    if yolo.description(place):
        return "yolo"
    if voc.splits(place):
        return "voc"
    if (place / "dataset_info.json").is_file():
        return "tfds"
    inside = ", ".join(sorted(p.name for p in place.iterdir())[:NAMED]) or "nothing"
    raise FileNotFoundError(
        f"data.root: {root} holds no data set that is known: no annotations/*.json or"
        f" */{coco.BESIDE} (COCO), no data.yaml (YOLO), no Annotations or *.xml (Pascal"
        f" VOC), no dataset_info.json (TFDS). There is: {inside}"
    )


def splits(root: str) -> list[str]:
    """Return the names of the splits of a data set."""
    match kind(root):
        case "coco":
            return sorted(coco.splits(Path(root)))
        case "yolo":
            return yolo.splits(Path(root))
        case "voc":
            return voc.splits(Path(root))
    return tfds.splits(root)


def held_out_fraction(data: config.Data, what: str) -> float:
    """Return the share of `data.train` that serves as `data.val`; 0 where that exists.

    Only where there is no other split at all: a misspelt name must not pass for it.
    """
    if what == "tfds" or data.train == data.val:
        return 0.0  # TFDS has parts of splits by name: "train[90%:]"
    return data.val_fraction if splits(data.root) == [data.train] else 0.0


def _read(data: config.Data, what: str, split: str, findings: Findings) -> Raw:
    root, inclusive = Path(data.root), data.voc_inclusive
    match what:
        case "coco":
            outside = data.allow_outside_root
            return coco.read(root, split, outside=outside, findings=findings)
        case "yolo":
            return yolo.read(root, split, findings)
        case "voc":
            return voc.read(root, split, inclusive=inclusive, findings=findings)
    return tfds.read(data.root, split, inclusive=inclusive, findings=findings)


def _drawn(count: int, share: float) -> np.ndarray:
    """Draw a share of rows ([count] bool), one or more; always the same ones."""
    chosen = np.zeros(count, bool)
    order = np.random.default_rng(0).permutation(count)
    chosen[order[: max(1, round(count * share))]] = True
    return chosen


def _only(raw: Raw, chosen: np.ndarray) -> Raw:
    """Keep these images ([I] bool) and what belongs to them."""
    images = raw.content["images"]
    rows = np.flatnonzero(chosen)
    out = {_id(images[row]) for row in np.flatnonzero(~chosen)}
    kept = [a for a in raw.content["annotations"] if _id(a, "image_id") not in out]
    content = {**raw.content, "images": [images[k] for k in rows], "annotations": kept}
    return raw._replace(content=content, pictures=[raw.pictures[int(k)] for k in rows])


def _id(entry: Any, name: str = "id") -> Any:
    key = entry.get(name) if isinstance(entry, dict) else None
    return key if isinstance(key, int | str) else None


def _chosen(raw: Raw, data: config.Data, training: bool, findings: Findings) -> Raw:
    """Keep the images of `data.image_ids` and, in training, `data.fraction` of them.

    A split to score that holds none of the ids stays whole.
    """
    ids = [str(_id(image)) for image in raw.content["images"]]
    wanted, known = set(data.image_ids), set(ids)
    unknown = [key for key in data.image_ids if key not in known]
    if training and unknown:
        near = hint(unknown[0], ids)
        raise ValueError(f"data.image_ids: {unknown[0]!r} is not in {raw.source}{near}")
    keep = np.ones(len(ids), bool)
    if data.image_ids and len(unknown) < len(data.image_ids):
        keep = np.array([key in wanted for key in ids], bool)
    if training and data.fraction < 1:
        rows = np.flatnonzero(keep)
        keep[rows[~_drawn(len(rows), data.fraction)]] = False
    findings.add_where(
        "not-chosen", ~keep, lambda row: Finding("not-chosen", raw.source, ids[row])
    )
    return raw if keep.all() else _only(raw, keep)


def _build(
    raw: Raw, data: config.Data, training: bool, findings: Findings
) -> Dataset | None:
    source, listed = raw.source, raw.content["annotations"]
    known: dict[str, Any] = {"source": source, "findings": findings}
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
