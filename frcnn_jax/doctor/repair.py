"""A repaired copy of a split as one COCO file, with a line for every change.

Nothing is guessed where two readings are possible: what cannot be repaired is left out,
and the log says so.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from frcnn_jax.data.annotations import box_text, is_number
from frcnn_jax.data.findings import FAULTS
from frcnn_jax.data.records import Stored
from frcnn_jax.doctor.check import Checked

Entry = dict[str, Any]
CLIPPED = "left the image, now"


def write(split: Checked, root: Path, path: Path) -> int:
    """Write OUT.json and OUT.log beside it; return the number of changes.

    Raises ValueError for pictures that are no files, which a COCO file cannot name, and
    FileExistsError rather than replace a file.
    """
    if any(isinstance(picture, Stored) for picture in split.examined.raw.pictures):
        raise ValueError(
            "--fix: a TFDS set keeps its pictures inside; repair its source"
        )
    log_path = path.with_suffix(".log")
    for place in (path, log_path):
        if place.exists():
            raise FileExistsError(f"--fix: {place} exists; choose another name")
    content, log = repaired(split, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    log_path.write_text("".join(f"{line}\n" for line in log), encoding="utf-8")
    return len(log)


def repaired(split: Checked, root: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the repaired COCO dictionary of a split, and what was changed."""
    raw = split.examined.raw
    # Lines that could not be read are no entries: their boxes are missing in the copy.
    unread = split.findings.of("label-line")
    log = [f"{found.text()}: left out" for found in unread]
    if (more := split.findings.counts.get("label-line", 0) - len(unread)) > 0:
        log.append(f"{more} more lines of label files: left out")
    images = _images(split, root, log)
    categories, same = _categories(raw.content["categories"], log)
    known = dict.fromkeys(i["id"] for i in _named(raw.content["images"]))
    known |= {image["id"]: image for image in images}  # None: left out
    annotations: list[Entry] = []
    seen: set = set()
    for number, entry in enumerate(raw.content["annotations"]):
        mended, notes = _annotation(entry, known, same, split)
        name = _name(entry, number)
        key = mended and _identity(mended)
        if mended and key in seen:
            mended, notes = None, ["left out, the same as an earlier one"]
        log += [f"annotation {name}: {note}" for note in notes]
        if mended:
            seen.add(key)
            annotations.append(mended)
    _number(annotations, log)
    rest = {k: v for k, v in raw.content.items() if k not in _LISTS}
    content = {**rest, "images": images, "categories": categories}
    return {**content, "annotations": annotations}, log


_LISTS = ("images", "categories", "annotations")


def _name(entry: Any, number: int) -> str:
    if not isinstance(entry, dict):
        return f"number {number}"
    return f"{entry.get('id', f'number {number}')!r} of image {entry.get('image_id')!r}"


def _identity(a: Entry) -> tuple:
    return a["image_id"], a["category_id"], tuple(a["bbox"]), bool(a.get("iscrowd"))


# ---- images ------------------------------------------------------------------------


def _images(split: Checked, root: Path, log: list[str]) -> list[Entry]:
    raw, dataset = split.examined.raw, split.examined.dataset
    looks = {}
    if dataset is not None:
        pairs = zip(dataset.records, split.looks, strict=True)
        looks = {record.source_id: look for record, look in pairs}
    images: list[Entry] = []
    seen: set = set()
    for entry, picture in zip(raw.content["images"], raw.pictures, strict=True):
        key = entry.get("id") if isinstance(entry, dict) else None
        look = looks.get(key) if _is_id(key) else None
        why = _why_not(picture, look, key in seen if look else False)
        if why:
            log.append(f"image {key!r}: left out with its boxes, {why}")
            continue
        seen.add(key)
        image = {**entry, "file_name": _file_name(entry, picture, root)}
        if look.size and ("other-size" in dict(look.faults)):
            image |= {"width": look.size[0], "height": look.size[1]}
            was = f"{entry['width']}x{entry['height']}"
            now = f"{look.size[0]}x{look.size[1]}"
            log.append(f"image {key!r}: size {was} corrected to {now}")
        images.append(image)
    return images


def _named(entries: list[Any]) -> list[Entry]:
    return [e for e in entries if isinstance(e, dict) and _is_id(e.get("id"))]


def _is_id(key: Any) -> bool:
    return isinstance(key, int | str) and not isinstance(key, bool)


def _why_not(picture: Path | Stored | None, look: Any, again: bool) -> str:
    if picture is None:
        return "its file is missing or outside of the folder"
    if look is None:
        return "its entry lacks an id, a file name or a size"
    if again:
        return "its id is that of an earlier image"
    faults = [f"{FAULTS[f].text}: {d}" for f, d in look.faults]
    return "" if look.usable else "; ".join(faults)


def _file_name(entry: Entry, picture: Any, root: Path) -> str:
    """The name as it was where that leads to the file, else the path from the root."""
    for folder in (root, root / "images"):
        if (folder / entry["file_name"]) == picture:
            return entry["file_name"]
    return Path(os.path.relpath(picture, root)).as_posix()


# ---- categories --------------------------------------------------------------------


def _categories(listed: list[Any], log: list[str]) -> tuple[list[Entry], dict]:
    """Return categories with one name and id each, and {old id: id that is kept}."""
    kept: list[Entry] = []
    by_name: dict[str, Any] = {}
    same: dict[Any, Any] = {}
    for entry in listed:
        key = entry.get("id") if isinstance(entry, dict) else None
        if not _is_id(key) or key in same:
            log.append(f"category {entry!r}: left out, without an id of its own")
            continue
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            name = f"category {key}"
            log.append(f"category {key!r}: named {name!r}, it had no name")
        if name in by_name:
            same[key] = by_name[name]
            log.append(f"category {key!r}: joined with {same[key]!r}, also {name!r}")
            continue
        same[key] = by_name[name] = key
        kept.append({**entry, "name": name})
    return kept, same


# ---- annotations -------------------------------------------------------------------


def _annotation(
    entry: Any, images: dict, same: dict, split: Checked
) -> tuple[Entry | None, list[str]]:
    """Return an annotation made good, or None, and what was done."""
    box = entry.get("bbox") if isinstance(entry, dict) else None
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return None, [f"left out, the bbox is {box!r}"]
    for name, table in (("image_id", images), ("category_id", same)):
        key = entry.get(name)
        if not _is_id(key) or key not in table:
            return None, [f"left out, the {name} {key!r} is not listed"]
    image = images[entry["image_id"]]
    if image is None:
        return None, ["left out with its image"]
    size = (image["width"], image["height"])
    notes, moved = [], False
    for told, mended in _mended(box, size, split.findings.counts):
        notes.append(f"{box_text(box)} {told} {box_text(mended)}")
        moved |= told != CLIPPED
        box = mended
    if box[2] <= 0 or box[3] <= 0:
        return None, [
            *notes,
            f"left out, the {box_text(box)} has no area in the image",
        ]
    made = {**entry, "bbox": box, "category_id": same[entry["category_id"]]}
    # A clipped box keeps its area, as in scoring: it may be that of a mask.
    if not is_number(entry.get("area")) or moved:
        made["area"] = box[2] * box[3]
        notes.append("area filled with width * height")
    if entry.get("iscrowd") is None:
        made["iscrowd"] = 0
        notes.append("iscrowd filled with 0")
    return made, notes


def _mended(
    box: list[float], size: tuple[int, int], counts: dict[str, int]
) -> Iterator[tuple[str, list[float]]]:
    """Yield each repair of a box as (what was done, the box after it)."""
    if "relative" in counts:
        x, y, w, h = box
        box = [x * size[0], y * size[1], w * size[0], h * size[1]]
        yield "was relative to the image, now", box
    if "corners" in counts:
        box = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        yield "held corners, now", box
    if box[2] < 0 or box[3] < 0:
        x, y, w, h = box
        box = [min(x, x + w), min(y, y + h), abs(w), abs(h)]
        yield "had a negative size, now", box
    low = [min(max(v, 0), limit) for v, limit in zip(box[:2], size, strict=True)]
    ends = [box[0] + box[2], box[1] + box[3]]
    high = [min(max(v, 0), limit) for v, limit in zip(ends, size, strict=True)]
    inside = [*low, high[0] - low[0], high[1] - low[1]]
    if any(abs(a - b) > 1e-6 for a, b in zip(inside, box, strict=True)):
        yield CLIPPED, inside


def _number(annotations: list[Entry], log: list[str]) -> None:
    ids = [a.get("id") for a in annotations]
    if all(type(i) is int and i > 0 for i in ids) and len(set(ids)) == len(ids):
        return
    log.append(f"all {len(ids)} annotations renumbered from 1")
    for number, a in enumerate(annotations, start=1):
        a["id"] = number
