"""TensorFlow Datasets, read through `tfds.data_source` without TensorFlow.

`tfds:NAME/CONFIG:VERSION` names a prepared data set in TFDS's own folder
(`TFDS_DATA_DIR`), without a version the newest there, and `tfds:DIR` a prepared folder;
it has to be in the array_record format
(`download_and_prepare(file_format="array_record")`). Any set with an `image` and a
sequence of objects with `bbox` and `label` will do. Boxes are TFDS's shares of the
picture (1e-4 pixel from the originals), or exact where tools/write_tfds.py wrote them.

The scan of all records, which finds sizes and boxes, is kept beside the data where that
can be written, so that it happens once.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from frcnn_jax.data import headers
from frcnn_jax.data.findings import Findings
from frcnn_jax.data.records import Raw, Stored, no_split

PREFIX = "tfds:"
OBJECTS = ("objects", "annotations", "object", "boxes")  # names of the sequence
EXACT = "xywh"  # field of an object that write_tfds.py adds: pixels, float64
NAMES, IDS = "class_names", "category_ids"  # of the metadata that it adds


def splits(root: str) -> list[str]:
    """Return the splits of a data set."""
    return sorted(_builder(root).info.splits)


def read(root: str, split: str, *, inclusive: bool, findings: Findings) -> Raw:
    """Read a split, or a part of one such as "train[:10%]".

    Raises ValueError for a set without boxes, or that is not prepared for reading
    without TensorFlow, and FileNotFoundError for an unknown split.
    """
    del findings  # nothing can be odd before it is judged
    import tensorflow_datasets as tfds

    builder = _builder(root)
    if split.split("[")[0] not in builder.info.splits:
        raise no_split(root, split, sorted(builder.info.splits))
    objects = _objects_name(builder)
    names, ids = _classes(builder, objects)
    # The encoded bytes: our own decoder turns and checks pictures like any others.
    undecoded = {"image": tfds.decode.SkipDecoding()}
    try:
        rows = builder.as_data_source(split=split, decoders=undecoded)
    except NotImplementedError as error:
        raise ValueError(
            f"{root} is stored for TensorFlow only; prepare it with"
            ' download_and_prepare(file_format="array_record")'
        ) from error
    kept = Path(builder.data_dir) / f"scan-{split}.json"
    own = NAMES in (builder.info.metadata or {})
    content = _kept(kept, len(rows)) or _scanned(rows, objects, ids, own)
    _keep(kept, content)
    if inclusive and builder.name == "voc":
        _count_from_0(content["annotations"])
    content["categories"] = [
        {"id": i, "name": name} for name, i in zip(names, ids, strict=True)
    ]
    pictures = [
        Stored(image["file_name"], rows, row)
        for row, image in enumerate(content["images"])
    ]
    return Raw(split, f"{root} ({split})", content, pictures)


def _builder(root: str):
    import tensorflow_datasets as tfds

    name = root.removeprefix(PREFIX)
    if folder := _prepared(name):
        return tfds.builder_from_directory(str(folder))
    try:
        # With a version the code of the set is not run, which may need TensorFlow.
        return tfds.builder(name, try_gcs=False)
    except Exception as error:
        raise ValueError(
            f"data.root: {root} cannot be opened ({type(error).__name__}:"
            f" {str(error)[:200]}). Give the version, as in tfds:coco/2017:1.1.0, or"
            " the prepared folder, tfds:DIR, that holds dataset_info.json"
        ) from error


def _prepared(name: str) -> Path | None:
    """Return the prepared folder of this name; of several versions the newest."""
    if (Path(name) / "dataset_info.json").is_file():
        return Path(name)
    home = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    found = (home.expanduser() / name).glob("*.*.*/dataset_info.json")
    folders = [p.parent for p in found if p.parent.name.replace(".", "").isdigit()]
    return max(folders, key=lambda p: [*map(int, p.name.split("."))], default=None)


def _objects_name(builder) -> str:
    for name in OBJECTS:
        if name in builder.info.features:
            feature = builder.info.features[name]
            if {"bbox", "label"} <= set(getattr(feature, "feature", feature).keys()):
                return name
    raise ValueError(
        f"{builder.info.full_name} has no objects with bbox and label (features:"
        f" {', '.join(builder.info.features)}); it is no detection set"
    )


def _classes(builder, objects: str) -> tuple[list[str], list[Any]]:
    """Return names and category ids, label 0 of TFDS first."""
    metadata = builder.info.metadata or {}
    if NAMES in metadata:
        return list(metadata[NAMES]), list(metadata[IDS])
    feature = builder.info.features[objects]
    names = list(getattr(feature, "feature", feature)["label"].names)
    return names, list(range(1, len(names) + 1))


def _scanned(rows, objects: str, ids: list[Any], own: bool) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row in range(len(rows)):
        record = rows[row]
        picture = Stored("", rows, row)
        w, h = headers.size(picture) or (1, 1)
        name = _text(record.get("image/filename", b"")) or f"{row:08d}"
        key = record.get("image/id", name)
        key = int(key) if isinstance(key, np.integer) else _text(key)
        key = json.loads(str(key)) if own else key
        images.append({"id": key, "file_name": name, "width": w, "height": h})
        for one in _objects(record[objects]):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": key,
                    "category_id": ids[int(one["label"])],
                    **_box(one, w, h),
                }
            )
    return {"images": images, "annotations": annotations}


def _count_from_0(annotations: list[dict]) -> None:
    """Turn VOC's pixels, which TFDS's own voc hands on as they are, as `voc` does."""
    for a in annotations:
        x, y, w, h = a["bbox"]
        a |= {"bbox": [x - 1, y - 1, w + 1, h + 1], "area": (w + 1) * (h + 1)}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _objects(columns: dict[str, Any]) -> list[dict[str, Any]]:
    if isinstance(columns, list):
        return columns
    count = len(columns["label"])
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]


def _box(one: dict[str, Any], w: int, h: int) -> dict[str, Any]:
    if EXACT in one:
        box = [float(side) for side in one[EXACT]]
    else:
        y1, x1, y2, x2 = (float(side) for side in one["bbox"])
        box = [x1 * w, y1 * h, (x2 - x1) * w, (y2 - y1) * h]
    area = one.get("area")
    crowd = one.get("is_crowd", one.get("is_group_of", False))
    ignored = one.get("is_difficult", False)
    return {
        "bbox": box,
        "area": box[2] * box[3] if area is None else float(area),
        "iscrowd": int(bool(crowd)),
    } | ({"ignore": 1} if ignored else {})


def _kept(path: Path, count: int) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if len(content.get("images", ())) == count else None


def _keep(path: Path, content: dict[str, Any]) -> None:
    if path.exists():
        return
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(content))
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)  # read-only data: the next run scans again
