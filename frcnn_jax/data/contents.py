"""The images and categories of a data set, checked, numbered and found on the disk.

Conventions: `content` is a dictionary as in a COCO file, whatever the source was. Lists
that come out are copies, ascending by id. What is odd is added to the findings; an
entry with an error is left out.
"""

from collections import Counter
from difflib import get_close_matches
from typing import Any

from frcnn_jax.data.annotations import is_number
from frcnn_jax.data.findings import Findings


def categories(content: dict, *, source: str, findings: Findings) -> list[dict]:
    """Return the categories, ascending by id.

    Findings: one without an id or a name, or with the id or name of another.
    """
    good = []
    for entry in content["categories"]:
        if fault := _id_fault(entry) or _name_fault(entry):
            findings.add("category", source, detail=fault)
        else:
            good.append(dict(entry))
    for key in ("id", "name"):
        for value, n in Counter(c[key] for c in good).items():
            if n > 1:
                detail = f"{n} categories have the {key} {value!r}"
                findings.add("category", source, detail=detail)
    return _by_id(good)


def select(found: list[dict], classes: tuple[str, ...], source: str) -> list[dict]:
    """Give every category its label, 0 where `classes` leaves it out.

    Raises ValueError for a class that is not there, with the nearest name.
    """
    names = [c["name"] for c in found]
    for name in classes:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"data.classes: {name!r} is not in {source}; {hint}"
                f"Classes there: {', '.join(names[:100])}"
            )
    label = 0
    for c in found:
        wanted = not classes or c["name"] in classes
        label += wanted
        c["label"] = label if wanted else 0
    return found


def images(content: dict, *, source: str, findings: Findings) -> list[dict]:
    """Return the images, ascending by id, each with its "row" in the content.

    Findings: no id, file_name or size; an id used twice (the first is kept).
    """
    good: list[dict[str, Any]] = []
    seen: Counter[Any] = Counter()
    for row, entry in enumerate(content["images"]):
        fault = _id_fault(entry) or _file_fault(entry)
        name = entry.get("id") if isinstance(entry, dict) else None
        if fault:
            findings.add("image-entry", source, image=name, detail=fault)
            continue
        seen[name] += 1
        if seen[name] > 1:
            findings.add("image-id", source, image=name, detail=entry["file_name"])
        else:
            good.append({**entry, "row": row})
    return _by_id(good)


def _id_fault(entry: Any) -> str:
    if not isinstance(entry, dict) or "id" not in entry:
        return f"without an id: {str(entry)[:80]}"
    if isinstance(entry["id"], bool) or not isinstance(entry["id"], int | str):
        return f"the id {entry['id']!r} is neither a whole number nor a text"
    return ""


def _name_fault(entry: dict) -> str:
    if not isinstance(entry.get("name"), str) or not entry["name"]:
        return f"category {entry['id']!r} has no name"
    return ""


def _file_fault(entry: dict) -> str:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        return "no file_name"
    for key in ("width", "height"):
        value = entry.get(key)
        if not is_number(value) or not 1 <= value == int(value):
            return f"{name} has {key} {value!r}"
    return ""


def _by_id(entries: list[dict]) -> list[dict]:
    """Sort by id: numbers as numbers; with any text among them all as texts."""
    if all(isinstance(e["id"], int) for e in entries):
        return sorted(entries, key=lambda e: e["id"])
    return sorted(entries, key=lambda e: str(e["id"]))
