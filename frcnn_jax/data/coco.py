"""A COCO folder (annotations/*.json and images) read into a `Dataset`.

Conventions: the JSON's boxes are (x, y, width, height) in original pixels; records hold
xyxy, clipped to the image. Labels follow ascending category id. What stops the reading
names the file, the id and the fix; what is dropped or repaired is counted in
`Dataset.skipped`. Boxes leave the training records for the reasons mmdetection 3.3.0
has (`CocoDataset.parse_data_info`): no overlap with the image, or a side too small;
the dictionary for scoring keeps them, because the official metric counts them.

Not here: pixels (no image is opened), what makes a box good (see `annotations`), other
annotation formats.
"""

import json
import os
from collections import Counter
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from frcnn_jax import config
from frcnn_jax.data.annotations import (
    NAMED,
    Columns,
    box_filter,
    check_geometry,
    count,
    image_sizes,
    is_number,
    scoring_dictionary,
    stack,
)
from frcnn_jax.data.records import Dataset, Record


def load(data: config.Data, split: str, training: bool) -> Dataset:
    """Read one split of a COCO folder.

    Looks for `annotations/<split>.json`, then `annotations/instances_<split>.json`,
    and for images under `images`, `<split>`, `images/<split>` and the root itself.
    With `training`, boxes that cannot be learned (see the module) leave the records,
    images without boxes leave unless `data.keep_empty`, and a split without any box is
    an error. Records ascend by image id. Raises FileNotFoundError for missing
    folders, files and (unless `data.on_bad_image` is "skip") images, and ValueError
    for contents that cannot be meant.
    """
    root = _existing_root(data.root)
    source = _annotation_file(root, split)
    content = _read_json(source)
    skipped: Counter[str] = Counter()
    categories = _select(_categories(content, source), data.classes, source=source)
    images = _images(content, source)
    paths = _image_paths(root, split, images=images, source=source)
    columns = stack(content["annotations"], images, categories, source)
    check_geometry(columns, images, content["annotations"], source)
    keep_box = box_filter(columns, images, data, training=training, skipped=skipped)
    keep_image = _image_filter(paths, images, data, root=root, skipped=skipped)
    if training and not data.keep_empty:
        filled = np.bincount(columns.image[keep_box], minlength=len(images)) > 0
        count(skipped, "images without boxes dropped", keep_image & ~filled)
        keep_image &= filled
    records = _records(paths, images, columns, keep_box=keep_box, keep=keep_image)
    if not records:
        raise ValueError(f"{source}: no image is left of {len(images)}{_why(skipped)}")
    if training and not any(len(r.boxes) for r in records):
        raise ValueError(
            f"{source}: no box to learn from in {len(records)} images{_why(skipped)}"
        )
    scoring = scoring_dictionary(
        content, images, categories, columns, keep=keep_image, skipped=skipped
    )
    return Dataset(
        name=source.stem,
        records=records,
        class_names=tuple(c["name"] for c in categories if c["label"]),
        category_ids=tuple(c["id"] for c in categories if c["label"]),
        annotations=scoring,
        skipped=dict(skipped),
    )


# ---- finding and reading the file


def _existing_root(root: str) -> Path:
    if not root:
        raise ValueError("data.root is empty: set it to the folder of your data")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"data.root: there is no folder {root}")
    return Path(root)


def _annotation_file(root: Path, split: str) -> Path:
    folder = root / "annotations"
    for name in (f"{split}.json", f"instances_{split}.json"):
        if (folder / name).is_file():
            return folder / name
    found = {
        str(p.relative_to(root)): p.stem.removeprefix("instances_")
        for pattern in ("annotations/*.json", "*.json", "*/*.json")
        for p in sorted(root.glob(pattern))
    }
    near = get_close_matches(split, found.values(), n=len(found) or 1, cutoff=0.3)
    order = sorted(
        found, key=lambda n: near.index(found[n]) if found[n] in near else len(near)
    )
    listing = ", ".join(order[:NAMED]) or "none at all"
    raise FileNotFoundError(
        f"no annotations/{split}.json and no annotations/instances_{split}.json under"
        f" {root}; JSON files there (nearest name first): {listing}. Set data.train or"
        " data.val to the name between 'instances_' (if any) and '.json'"
    )


def _read_json(source: Path) -> dict[str, Any]:
    raw = source.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not UTF-8 at byte {error.start}") from error
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        at = len(text[: error.pos].encode())
        raise ValueError(
            f"{source}: broken JSON at byte {at} of {len(raw)} ({error.msg}); "
            + ("the file looks cut off: copy it again" if at >= len(raw) - 8 else "")
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{source}: the top level is a {type(content).__name__}, expected an object"
            " with 'images', 'annotations' and 'categories'"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise ValueError(
                f"{source}: {key!r} is missing or not a list (keys there:"
                f" {', '.join(sorted(content)) or 'none'})"
            )
    return content


# ---- categories and images


def _categories(content: dict, source: Path) -> list[dict]:
    """Return copies of the categories, ascending by id."""
    categories = [_entry(c, "category", source) for c in content["categories"]]
    if not categories:
        raise ValueError(f"{source}: 'categories' is empty; list every class there")
    for c in categories:
        if not isinstance(c.get("name"), str) or not c["name"]:
            raise ValueError(f"{source}: category {c['id']!r} has no name")
    for key in ("id", "name"):
        value, n = Counter(c[key] for c in categories).most_common(1)[0]
        if n > 1:
            raise ValueError(
                f"{source}: {n} categories have the {key} {value!r}; make them one"
            )
    return _by_id(categories)


def _select(
    categories: list[dict], classes: tuple[str, ...], *, source: Path
) -> list[dict]:
    """Give every category its label, 0 where `classes` leaves it out."""
    names = [c["name"] for c in categories]
    for name in classes:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"data.classes: {name!r} is not in {source}; {hint}"
                f"Classes there: {', '.join(names[:100])}"
            )
    label = 0
    for c in categories:
        wanted = not classes or c["name"] in classes
        label += wanted
        c["label"] = label if wanted else 0
    return categories


def _images(content: dict, source: Path) -> list[dict]:
    """Return copies of the image entries, checked, ascending by id."""
    images = [_entry(i, "image", source) for i in content["images"]]
    if not images:
        raise ValueError(f"{source}: 'images' is empty, there is nothing to read")
    for image in images:
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{source}: image {image['id']!r} has no file_name")
        for key in ("width", "height"):
            if not is_number(image.get(key)) or not 1 <= image[key] == int(image[key]):
                raise ValueError(
                    f"{source}: image {image['id']!r} ({name}) has {key}"
                    f" {image.get(key)!r}; write the picture's {key} in pixels"
                )
    value, n = Counter(i["id"] for i in images).most_common(1)[0]
    if n > 1:
        raise ValueError(
            f"{source}: {n} images have the id {value!r}; give each its own id and"
            " correct the image_id of their annotations"
        )
    return _by_id(images)


def _entry(entry: Any, kind: str, source: Path) -> dict:
    if not isinstance(entry, dict) or "id" not in entry:
        raise ValueError(f"{source}: a {kind} without an id: {str(entry)[:80]}")
    if isinstance(entry["id"], bool) or not isinstance(entry["id"], int | str):
        raise ValueError(
            f"{source}: {kind} id {entry['id']!r} is neither a whole number nor a text"
        )
    return dict(entry)


def _by_id(entries: list[dict]) -> list[dict]:
    """Sort by id: numbers as numbers; with any text among them all as texts."""
    if all(isinstance(e["id"], int) for e in entries):
        return sorted(entries, key=lambda e: e["id"])
    return sorted(entries, key=lambda e: str(e["id"]))


def _image_paths(
    root: Path, split: str, *, images: list[dict], source: Path
) -> list[Path | None]:
    """Find each image's file; None where no folder holds it."""
    folders = [root / "images", root / split, root / "images" / split, root]
    for image in images:
        name = os.path.normpath(image["file_name"])
        if os.path.isabs(name) or name.split(os.sep)[0] == os.pardir:
            raise ValueError(
                f"{source}: image {image['id']!r} has the file_name"
                f" {image['file_name']!r}, which leaves {root}; write it relative to"
                " the image folder"
            )
    # Most sets keep all images in one folder: asking it first saves stat calls, which
    # are slow on network disks.
    folders.sort(key=lambda folder: not (folder / images[0]["file_name"]).is_file())
    return [_first_file(folders, image["file_name"]) for image in images]


def _first_file(folders: list[Path], name: str) -> Path | None:
    return next((f / name for f in folders if (f / name).is_file()), None)


def _image_filter(
    paths: list[Path | None],
    images: list[dict],
    data: config.Data,
    *,
    root: Path,
    skipped: Counter,
) -> np.ndarray:
    """Say which images exist ([I] bool); raise for missing ones unless skipped."""
    there = np.array([path is not None for path in paths])
    missing = [images[i]["file_name"] for i in np.flatnonzero(~there)]
    if missing and data.on_bad_image != "skip":
        raise FileNotFoundError(
            f"{len(missing)} of {len(images)} image files are missing under {root}:"
            f" {', '.join(missing[:NAMED])}{', ...' if len(missing) > NAMED else ''}."
            ' Add them, or set data.on_bad_image to "skip" to go on without them'
        )
    count(skipped, "images dropped, file missing", ~there)
    return there


# ---- results


def _records(
    paths: list[Path | None],
    images: list[dict],
    columns: Columns,
    *,
    keep_box: np.ndarray,
    keep: np.ndarray,
) -> tuple[Record, ...]:
    size = image_sizes(images)[columns.image]
    low, side = columns.xywh[:, :2], columns.xywh[:, 2:]
    xyxy = np.concatenate([low.clip(0, size), (low + side).clip(0, size)], 1)
    rows = np.flatnonzero(keep_box)
    rows = rows[np.argsort(columns.image[rows], kind="stable")]
    ends = np.cumsum(np.bincount(columns.image[rows], minlength=len(images)))
    groups = np.split(rows, ends[:-1])
    return tuple(
        Record(
            path=paths[i],
            source_id=images[i]["id"],
            width=int(images[i]["width"]),
            height=int(images[i]["height"]),
            boxes=xyxy[groups[i]].astype(np.float32),
            labels=columns.label[groups[i]].astype(np.int32),
            crowd=columns.crowd[groups[i]],
        )
        for i in np.flatnonzero(keep)
    )


def _why(skipped: Counter) -> str:
    return "".join(f"; {reason}: {n}" for reason, n in skipped.items())
