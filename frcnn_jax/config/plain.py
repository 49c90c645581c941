"""Runs as plain values: flat names, JSON and back, differences."""

import dataclasses
import difflib
import json
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from frcnn_jax.config.schema import Run


def flatten(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field as ("model.rpn.nms_iou", value)."""
    for entry in dataclasses.fields(section):
        value = getattr(section, entry.name)
        if dataclasses.is_dataclass(value):
            yield from flatten(value, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, value


def to_dict(section: Any) -> dict[str, Any]:
    """A section as plain values; where several kinds may stand, "kind" tells which."""
    made = {}
    for entry in dataclasses.fields(section):
        value = getattr(section, entry.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
            if len(_kinds(entry.type)) > 1:
                value = {"kind": type(getattr(section, entry.name)).__name__, **value}
        made[entry.name] = value
    return made


def to_json(run: Run) -> str:
    """The run as indented JSON, for `config.json` in its folder."""
    return json.dumps(to_dict(run), indent=1)


def from_dict(values: dict[str, Any], kind: type = Run) -> Any:
    """A run (or section) from what `to_dict` or `to_json` gave.

    Errors: ValueError for a field that does not exist, with the nearest name.
    """
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{kind.__name__} has no field {name!r}{hint}")
    made = {}
    for name, value in values.items():
        kinds = _kinds(fields[name].type)
        if kinds and value is not None:
            value = from_dict(*_chosen(dict(value), kinds, name))
        made[name] = _as_tuples(value)
    return kind(**made)


def nearest(name: str, known: Iterable[str]) -> str:
    """The field with the nearest whole name, or else nearest last part; "" for none."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1, cutoff=0.75)
    if not near:
        last = {full.rpartition(".")[2]: full for full in reversed(known)}
        parts = difflib.get_close_matches(name.rpartition(".")[2], last, 1)
        near = [last[part] for part in parts]
    return (near or difflib.get_close_matches(name, known, 1) or [""])[0]


def _chosen(values: dict[str, Any], kinds: tuple[type, ...], name: str):
    """The values without "kind", and the section that it names."""
    wanted = values.pop("kind", kinds[0].__name__)
    for kind in kinds:
        if kind.__name__ == wanted:
            return values, kind
    known = ", ".join(kind.__name__ for kind in kinds)
    raise ValueError(f"{name} has kind {wanted!r}; there are {known}")


def _kinds(annotation: Any) -> tuple[type, ...]:
    """The sections that a field may hold, the first one by default; () for values."""
    options = typing.get_args(annotation) or (annotation,)
    sections: Iterable[Any] = filter(dataclasses.is_dataclass, options)
    return tuple(sections)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def differences(old: Run, new: Run) -> dict[str, tuple[Any, Any]]:
    """Fields whose values differ, as {name: (old, new)}; None where one has no such."""
    before, after = dict(flatten(old)), dict(flatten(new))
    pairs = {name: (before.get(name), after.get(name)) for name in before | after}
    changed = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    kinds = type(old.model.backbone).__name__, type(new.model.backbone).__name__
    return changed | ({"model.backbone": kinds} if kinds[0] != kinds[1] else {})
