"""A COCO folder: annotations in JSON, images beside them.

The JSON's own numbers are handed on as they are; `sources` judges them. Only what makes
the file unreadable as a whole stops here, naming file and byte.
"""

import codecs
import json
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from frcnn_jax.data.findings import NAMED, Findings
from frcnn_jax.data.records import Raw

PREFIX = "instances_"
LARGE = 1_000_000_000  # bytes of JSON that are worth a word
MEMORY = 7  # times the size of the JSON while it is read, as measured with 138 MB
BESIDE = "_annotations.coco.json"  # as Roboflow exports: in the folder of the images


def splits(root: Path) -> dict[str, Path]:
    """Return {split: JSON file} of a folder, the best place of each split only.

    Places are `annotations/NAME.json`, `annotations/instances_NAME.json` and
    `NAME/_annotations.coco.json`.
    """
    found = {p.parent.name: p for p in sorted(root.glob(f"*/{BESIDE}"))}
    files = sorted(root.glob("annotations/*.json"))
    found |= {p.stem.removeprefix(PREFIX): p for p in files if PREFIX in p.name}
    return found | {p.stem: p for p in files if not p.name.startswith(PREFIX)}


def read(root: Path, split: str, *, outside: bool, findings: Findings) -> Raw:
    """Read a split: its JSON, and for each image the file that holds it.

    Images are looked for beside the JSON, under `images`, `<split>`, `images/<split>`
    and the root itself. Findings: absolute file names and those with ".." at the
    start, unless `outside` lets them be.
    Raises FileNotFoundError for a split that is not there, and ValueError for a file
    that is no JSON of this kind.
    """
    source = _annotation_file(root, split)
    content = _read_json(source)
    folders = [root / "images", root / split, root / "images" / split, root]
    if source.name == BESIDE:
        folders.insert(0, source.parent)
    if outside:
        names = [_file_name(image) for image in content["images"]]
    else:
        names = [_inside(image, source, findings) for image in content["images"]]
    pictures = _pictures(names, folders)
    name = source.parent.name if source.name == BESIDE else source.stem
    return Raw(name, str(source), content, pictures)


def _annotation_file(root: Path, split: str) -> Path:
    found = splits(root)
    if split in found:
        return found[split]
    others = [p for q in ("*.json", "*/*.json") for p in sorted(root.glob(q))]
    found |= {str(p.relative_to(root)): p for p in others if p not in found.values()}
    order = get_close_matches(split, found, n=len(found) or 1, cutoff=0.3)
    order += [name for name in found if name not in order]
    listed = ", ".join(str(found[n].relative_to(root)) for n in order[:NAMED])
    raise FileNotFoundError(
        f"no annotations/{split}.json, annotations/{PREFIX}{split}.json or"
        f" {split}/{BESIDE} under {root}; JSON files there (nearest name first):"
        f" {listed or 'none at all'}. Set data.train or data.val to one of the splits:"
        f" {', '.join(splits(root)) or 'none'}"
    )


def _read_json(source: Path) -> dict[str, Any]:
    if (size := source.stat().st_size) > LARGE:
        memory = f"{MEMORY * size / 1e9:.0f} GB of memory"
        print(f"{source}: {size / 1e9:.1f} GB of JSON take about {memory}", flush=True)
    raw = source.read_bytes()
    start = len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0
    try:
        text = raw[start:].decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source}: not UTF-8 at byte {start + error.start} of {len(raw)}; save it"
            " in that encoding"
        ) from error
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        at = start + len(text[: error.pos].encode())
        cut = at >= len(raw) - 8
        raise ValueError(
            f"{source}: broken JSON at byte {at} of {len(raw)} ({error.msg}); "
            + ("the file looks cut off: copy it again" if cut else "repair it there")
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


def _pictures(names: list[str | None], folders: list[Path]) -> list[Path | None]:
    """Find each image's file; None where no folder holds it."""
    first = next((name for name in names if name), "")
    # Most sets keep all images in one folder: asking it first saves stat calls, which
    # are slow on network disks.
    folders = sorted(folders, key=lambda folder: not (folder / first).is_file())
    return [_first_file(folders, name) if name else None for name in names]


def _file_name(image: Any) -> str | None:
    name = image.get("file_name") if isinstance(image, dict) else None
    return name if isinstance(name, str) and name else None


def _inside(image: Any, source: Path, findings: Findings) -> str | None:
    """Return an image's file name if it stays inside the folder."""
    name = _file_name(image)
    if name is None:
        return None
    whole = os.path.normpath(name)
    if os.path.isabs(whole) or whole.split(os.sep)[0] == os.pardir:
        findings.add("image-path", source, image=image.get("id"), detail=name)
        return None
    return name


def _first_file(folders: list[Path], name: str) -> Path | None:
    return next((f / name for f in folders if (f / name).is_file()), None)
