"""Pascal VOC folders: XML files, lists of images, pictures of any kind.

VOC counts pixels from 1 and its last pixel belongs to the box, so a box becomes
(xmin - 1, ymin - 1) to (xmax, ymax) here; `data.voc_inclusive` = False takes the four
numbers as corners, which many tools write. Objects marked `difficult` become
"ignore": no training target, not counted by VOC's metric, counted by COCO's. Classes
are the names found in the whole folder, in alphabetical order, which is VOC's own.

Places: ROOT itself, or folders in it as in VOCdevkit (VOC2007, VOC2012), with
`Annotations`, `JPEGImages` (or `images`) and lists in `ImageSets/Main`; or folders
that hold XML files and pictures side by side.
"""

import re
import xml.etree.ElementTree as ElementTree
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from frcnn_jax.data import headers
from frcnn_jax.data.annotations import is_number
from frcnn_jax.data.findings import Findings
from frcnn_jax.data.records import Raw, no_split

LISTS = Path("ImageSets", "Main")
MAX_BYTES = 16 << 20  # of one XML file; real ones have some kilobytes
EVERYTHING = "all"  # the split of a folder without lists


class _Place(NamedTuple):
    """Where the files of a split lie."""

    prefix: str  # of image ids: "VOC2007/", "" for a single folder
    xml: Path
    pictures: tuple[Path, ...]
    stems: tuple[str, ...]
    listed: bool = False  # by a file; else every XML counts


class _Page(NamedTuple):
    """What one XML file says."""

    filename: str
    size: tuple[int, int] | None
    objects: tuple[tuple[str, tuple, bool], ...]  # name, four corners, difficult


def splits(root: Path) -> list[str]:
    """Return the names of the splits of a folder."""
    names = []
    for folder in (root, *_folders(root)):
        prefix = "" if folder == root else f"{folder.name}/"
        if (folder / "Annotations").is_dir():
            lists = sorted(p.stem for p in (folder / LISTS).glob("*.txt"))
            lists = [s for s in lists if not _is_class_list(folder / LISTS, s)]
            names += [prefix + stem for stem in lists or [EVERYTHING]]
        elif next(folder.glob("*.xml"), None):
            names.append(folder.name if prefix else EVERYTHING)
    return names


def read(root: Path, split: str, *, inclusive: bool, findings: Findings) -> Raw:
    """Read a split, or several: "VOC2007/trainval+VOC2012/trainval".

    Raises FileNotFoundError for a split that is not there. Findings: XML that is
    missing or broken, pictures without XML where no list says what belongs to the
    split, names of lists that leave the folder, objects without a name; numbers are
    judged with all others.
    """
    places = [_place(root, name) for name in split.split("+")]
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    pictures = []
    for place in places:
        files = _pictures_by_name(place.pictures)
        for stem in place.stems:
            source = place.xml / f"{stem}.xml"
            if ".." in Path(stem).parts or Path(stem).is_absolute():
                findings.add("image-path", source, detail="as a list names it")
                continue
            page = _page(source, findings)
            if page is None:
                continue
            # The name of the XML decides, as in VOC: <filename> outlives renaming.
            picture = files.get(stem) or files.get(page.filename)
            image = _image(place.prefix + stem, page, picture)
            content["images"].append(image)
            pictures.append(picture)
            _add_objects(content, image["id"], page, inclusive, findings, source)
        if not place.listed:
            for picture in sorted({*files.values()} - {*pictures}):
                findings.add("no-annotation", picture)
    names = _all_names(root)
    ids = {name: number for number, name in enumerate(names, start=1)}
    content["categories"] = [{"id": i, "name": name} for name, i in ids.items()]
    for a in content["annotations"]:
        a["category_id"] = ids[a["category_id"]]
    return Raw(split, f"{root} ({split})", content, pictures)


def _image(key: str, page: _Page, picture: Path | None) -> dict[str, Any]:
    size = page.size or (headers.size(picture) if picture else None) or (1, 1)
    name = picture.name if picture else page.filename or key
    return {"id": key, "file_name": name, "width": size[0], "height": size[1]}


def _add_objects(
    content: dict, image_id: str, page: _Page, inclusive: bool, findings, source
) -> None:
    for name, (x1, y1, x2, y2), difficult in page.objects:
        number = len(content["annotations"]) + 1
        if not name:
            findings.add("category", source, detail="an object without a name")
            continue
        try:
            low = 1.0 if inclusive else 0.0
            box = [float(x1) - low, float(y1) - low]
            box += [float(x2) - box[0], float(y2) - box[1]]
        except (TypeError, ValueError):
            box = [x1, y1, x2, y2]
        content["annotations"].append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": name,
                "bbox": box,
                "area": box[2] * box[3] if isinstance(box[2], float) else None,
                "iscrowd": 0,
            }
            | ({"ignore": 1} if difficult else {})
        )


# ---- places


def _folders(root: Path) -> list[Path]:
    inner = ("Annotations", "JPEGImages", "ImageSets")
    return sorted(p for p in root.iterdir() if p.is_dir() and p.name not in inner)


def _is_class_list(folder: Path, stem: str) -> bool:
    """Say whether a list is of one class ("000005 -1"), as VOC has some."""
    with open(folder / f"{stem}.txt", encoding="utf-8-sig") as lines:
        return "_" in stem and len(next(lines, "").split()) == 2


def _place(root: Path, split: str) -> _Place:
    if split not in splits(root):
        raise no_split(root, split, splits(root))
    *above, name = split.split("/")
    folder = root.joinpath(*above)
    if not (folder / "Annotations").is_dir():  # XML and pictures side by side
        folder = root if split == EVERYTHING else root / split
        return _Place("", folder, (folder,), _stems(folder))
    xml = folder / "Annotations"
    listed = folder / LISTS / f"{name}.txt"
    stems = _stems(xml)
    if listed.is_file():
        lines = listed.read_text(encoding="utf-8-sig").splitlines()
        stems = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    pictures = (folder / "JPEGImages", folder / "images", folder, xml)
    prefix = "".join(f"{part}/" for part in above)
    return _Place(prefix, xml, pictures, stems, listed.is_file())


def _stems(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in folder.glob("*.xml")))


def _pictures_by_name(folders: tuple[Path, ...]) -> dict[str, Path]:
    """Return {file name and stem: picture}, the first folder's wins."""
    found: dict[str, Path] = {}
    for folder in filter(Path.is_dir, folders):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in headers.SUFFIXES:
                found.setdefault(path.name, path)
                found.setdefault(path.stem, path)
    return found


def _all_names(root: Path) -> list[str]:
    """Return the class names of the whole folder, so that all splits agree."""
    names = set()
    for folder in (root, *_folders(root)):
        for place in (folder / "Annotations", folder):
            for path in place.glob("*.xml"):
                page = _page(path, Findings())
                names |= {name for name, *_ in page.objects} if page else set()
    return sorted(names - {""})


# ---- XML


def _page(path: Path, findings: Findings) -> _Page | None:
    try:
        found = path.stat()
    except OSError:
        findings.add("missing-annotation", path)
        return None
    page = _parsed(path, found.st_mtime_ns, found.st_size)
    if isinstance(page, str):
        findings.add("broken-annotation", path, detail=page)
        return None
    return page


@lru_cache(maxsize=1 << 18)
def _parsed(path: Path, _time: int, size: int) -> _Page | str:
    """Return what a file says, or why it cannot be read; kept while it is the same."""
    if size > MAX_BYTES:
        return f"{size} bytes, more than any annotation"
    raw = path.read_bytes()
    try:
        tree = _tree(raw)
    except ElementTree.ParseError as error:
        line, column = error.position
        return f"broken XML at line {line}, column {column}"
    except (LookupError, ValueError) as error:
        return str(error)
    sides: list[Any] = [
        _number(tree.findtext(f"size/{side}")) for side in ("width", "height")
    ]
    good = all(is_number(side) and side >= 1 for side in sides)
    return _Page(
        filename=Path((tree.findtext("filename") or "").strip()).name,
        size=(int(sides[0]), int(sides[1])) if good else None,
        objects=tuple(_object(entry) for entry in tree.findall("object")),
    )


def _tree(raw: bytes) -> ElementTree.Element:
    _refuse_entities(raw)
    try:
        return ElementTree.fromstring(raw)
    except (LookupError, ValueError):
        # The parser knows no encodings of several bytes, such as GB2312; Python does.
        encoding = re.search(rb"encoding=[\"']([\w.-]+)", raw)
        if not encoding:
            raise
    text = re.sub(r"<\?xml.*?\?>", "", raw.decode(encoding[1].decode()), count=1)
    _refuse_entities(text.encode())
    return ElementTree.fromstring(text)


def _refuse_entities(raw: bytes) -> None:
    """Entities can grow without bound or name other files; no annotation needs them."""
    if re.search(rb"<!\s*(DOCTYPE|ENTITY)", raw, re.IGNORECASE) or b"\0" in raw:
        raise ValueError(
            "it declares a document type or entities; remove the declaration"
        )


def _object(entry: ElementTree.Element) -> tuple[str, tuple, bool]:
    sides = ("xmin", "ymin", "xmax", "ymax")
    corners = tuple(_number(entry.findtext(f"bndbox/{side}")) for side in sides)
    name = " ".join((entry.findtext("name") or "").split())
    difficult = (entry.findtext("difficult") or "").strip().lower()
    return name, corners, difficult in ("1", "true", "yes")


def _number(text: str | None) -> float | str | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return text
