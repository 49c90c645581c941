"""YOLO folders: a data.yaml, pictures, and a text file of boxes for each picture.

A line is `class cx cy width height` in shares of the picture, or `class x1 y1 x2 y2
x3 y3 ...`, a polygon, which becomes its box. Category ids are YOLO's class numbers,
from 0. Image ids are paths from the folder. The text file of `.../images/a.jpg` is
`.../labels/a.txt`, else the one beside the picture; a picture without one has no
objects. Sizes come from the pictures' headers, turned as their EXIF tag says.
"""

from pathlib import Path
from typing import Any

import yaml

from frcnn_jax.data import headers
from frcnn_jax.data.annotations import is_number
from frcnn_jax.data.findings import Findings
from frcnn_jax.data.records import Raw, no_split

SPLITS = ("train", "val", "test")
SLACK = 1e-3  # a share may exceed 1 by rounding


def description(root: Path) -> Path | None:
    """Return the YAML file that describes a folder, or None."""
    if root.is_file():
        return root if root.suffix.lower() in (".yaml", ".yml") else None
    files = sorted((*root.glob("*.yaml"), *root.glob("*.yml")))
    files.sort(key=lambda path: path.stem != "data")
    return next((path for path in files if b"names" in path.read_bytes()), None)


def splits(root: Path) -> list[str]:
    """Return the splits that the description names."""
    told = _described(description(root))
    return [name for name in (*SPLITS, "valid") if told.get(name)]


def read(root: Path, split: str, findings: Findings) -> Raw:
    """Read a split.

    Findings: lines that are no boxes, pictures without a text file or a size. Raises
    ValueError for a description that cannot be used and FileNotFoundError for a split
    or folder that is not there.
    """
    source = description(root)
    told = _described(source)
    if split not in splits(root):
        raise no_split(root, split, splits(root))
    names = _names(told, source)
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": i, "name": name} for i, name in names.items()]
    pictures = []
    for picture in _pictures(told, split, source):
        key = _key(picture, source.parent)
        size = headers.size(picture) if picture.is_file() else None
        w, h = size or (1, 1)
        content["images"].append({"id": key, "file_name": key, "width": w, "height": h})
        pictures.append(picture if picture.is_file() else None)
        if size is None and picture.is_file():  # shares of an unknown size
            findings.add("unreadable-image", picture, image=key, detail=headers.NO_SIZE)
            continue
        for class_number, box in _boxes(picture, key, len(names), findings):
            x, y, width, height = box
            box = [x * w, y * h, width * w, height * h]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": key,
                    "category_id": class_number,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return Raw(split, f"{source} ({split})", content, pictures)


def _described(source: Path) -> dict[str, Any]:
    try:
        told = yaml.safe_load(source.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: broken YAML: {error}") from error
    if not isinstance(told, dict):
        raise ValueError(f"{source}: expected lines such as `train: images/train`")
    return told


def _names(told: dict, source: Path) -> dict[int, str]:
    names = told.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    good = isinstance(names, dict) and names and set(names) == {*range(len(names))}
    if not good:
        raise ValueError(
            f"{source}: names is {str(names)[:80]}; write a list, or class numbers from"
            " 0 with their names"
        )
    count = told.get("nc", len(names))
    if count != len(names):
        raise ValueError(f"{source}: nc is {count}, but {len(names)} names are given")
    return {number: str(names[number]) for number in sorted(names)}


def _pictures(told: dict, split: str, source: Path) -> list[Path]:
    base = source.parent
    if told.get("path"):
        base = next((p for p in (base / told["path"],) if p.is_dir()), base)
    entries = told[split] if isinstance(told[split], list) else [told[split]]
    found: list[Path] = []
    for entry in map(str, entries):
        # Exports often write "../train/images" for a folder beside the description.
        inside = Path(*(part for part in Path(entry).parts if part != ".."))
        options = (base / entry, source.parent / entry, source.parent / inside)
        place = next((p for p in options if p.exists()), None)
        if place is None:
            raise FileNotFoundError(
                f"{source}: {split} is {entry!r}, and there is no {options[0]}; write"
                " the folder of the pictures, from the folder of this file"
            )
        found += headers.pictures_in(place) if place.is_dir() else _listed(place)
    return found


def _listed(file: Path) -> list[Path]:
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    return [file.parent / line.strip() for line in lines if line.strip()]


def _key(picture: Path, folder: Path) -> str:
    if picture.is_relative_to(folder):
        return picture.relative_to(folder).as_posix()
    return picture.as_posix()


def _label_file(picture: Path) -> Path | None:
    parts = list(picture.parts)
    options = [picture.with_suffix(".txt")]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        moved = Path(*parts[:last], "labels", *parts[last + 1 :])
        options.insert(0, moved.with_suffix(".txt"))
    return next((path for path in options if path.is_file()), None)


def _boxes(
    picture: Path, key: str, classes: int, findings: Findings
) -> list[tuple[int, list[float]]]:
    """Return (class number, [x, y, width, height] as shares) of each good line."""
    file = _label_file(picture)
    if file is None:
        findings.add("no-label-file", picture, image=key)
        return []
    found = []
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        box = _box(line.split(), classes)
        if isinstance(box, str):
            where = f"{file} line {number}"
            findings.add("label-line", where, image=key, detail=box)
        else:
            found.append(box)
    return found


def _box(words: list[str], classes: int) -> tuple[int, list[float]] | str:
    try:
        values = [float(word) for word in words]
    except ValueError:
        return f"{' '.join(words)[:60]!r} are not numbers"
    if not all(map(is_number, values)):
        return f"{' '.join(words)[:60]!r} are not finite"
    number, shares = values[0], values[1:]
    if number != int(number) or not 0 <= number < classes:
        return f"class {words[0]}, but classes are 0..{classes - 1}"
    if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
        return f"{len(words)} numbers; expected 5, or a polygon"
    if max(shares) > 1 + SLACK or min(shares) < -SLACK:
        return f"{' '.join(words)[:60]!r} are not shares of the picture (0..1)"
    if len(shares) == 4:
        cx, cy, w, h = shares
        return int(number), [cx - w / 2, cy - h / 2, w, h]
    x, y = shares[::2], shares[1::2]
    return int(number), [min(x), min(y), max(x) - min(x), max(y) - min(y)]
